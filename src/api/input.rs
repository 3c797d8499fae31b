//! Reading requests: bodies, query strings and ids, with problems that name the field at fault.
//!
//! The one rule: a handler gets typed values or is not called. axum's own extractors answer in plain text; these do not.

use std::str::FromStr;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use serde::de::DeserializeOwned;

use super::document::parse;
use super::problem::{Kind, Problem};

/// The largest body that is taken, in bytes.
pub const BODY_MAX: usize = 2 * 1024 * 1024;

/// The most entries on a page of a list.
pub const LIST_MAX: u32 = 500;
/// How many entries are on a page unless asked otherwise.
const LIST: u32 = 100;

/// A JSON body. It must be declared as JSON: a web page of another origin can then not send it without asking first.
pub(super) struct Document<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Document<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        if !declared_as_json(&request) {
            return Err(undeclared());
        }
        let bytes = Bytes::from_request(request, state).await.map_err(|rejection| unreadable(&rejection))?;
        parse(&bytes).map(Self)
    }
}

/// A JSON body that may be left out.
pub(super) struct OptionalDocument<T>(pub(super) T);

impl<T: DeserializeOwned + Default, S: Send + Sync> FromRequest<S> for OptionalDocument<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let json = declared_as_json(&request);
        let bytes = Bytes::from_request(request, state).await.map_err(|rejection| unreadable(&rejection))?;
        match (bytes.is_empty(), json) {
            (true, _) => Ok(Self(T::default())),
            (false, true) => parse(&bytes).map(Self),
            (false, false) => Err(undeclared()),
        }
    }
}

fn undeclared() -> Problem {
    let detail = "the body is not declared as JSON; send it with the header Content-Type: application/json";
    Problem::new(Kind::UnsupportedMediaType, detail)
}

fn declared_as_json(request: &Request) -> bool {
    let declared = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = declared.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

fn unreadable(rejection: &BytesRejection) -> Problem {
    if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
        Problem::new(Kind::TooLarge, format!("the body is larger than the {BODY_MAX} bytes that are taken"))
    } else {
        Problem::new(Kind::MalformedJson, format!("cannot read the body: {}", rejection.body_text()))
    }
}

/// The query string.
pub(super) struct Params<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        let read = Query::<T>::try_from_uri(&parts.uri);
        read.map(|Query(params)| Self(params)).map_err(|rejection| {
            let text = rejection.body_text();
            let cause = text.rsplit_once("query string: ").map_or(text.as_str(), |(_, cause)| cause);
            let cause = cause.replace("invalid digit found in string", "it is not a whole number of zero or more");
            let problem = Problem::new(Kind::InvalidParameter, cause.as_str());
            match cause.split_once(": ") {
                Some((name, _)) if !name.contains(' ') => problem.at(name),
                _ => problem,
            }
        })
    }
}

/// The one id in the path.
pub(super) struct Id<T>(pub(super) T);

impl<T: FromStr, S: Send + Sync> FromRequestParts<S> for Id<T>
where
    T::Err: std::fmt::Display,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let text = match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(text)) => text,
            Err(rejection) => return Err(Problem::new(Kind::InvalidParameter, rejection.body_text()).at("id")),
        };
        text.parse().map(Self).map_err(|cause| Problem::new(Kind::InvalidParameter, format!("id: {cause}")).at("id"))
    }
}

/// The length of a page, from what was asked for.
pub(super) fn limit(wanted: Option<u32>) -> Result<u32, Problem> {
    match wanted {
        None => Ok(LIST),
        Some(wanted) if (1..=LIST_MAX).contains(&wanted) => Ok(wanted),
        Some(wanted) => {
            Err(Problem::new(Kind::InvalidParameter, format!("limit: {wanted} is not between 1 and {LIST_MAX}")).at("limit"))
        }
    }
}
