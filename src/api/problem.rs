//! What goes wrong with a request, as RFC 9457 problem details.
//!
//! The one rule: a problem's `type` is stable, so that programs decide by it, and its `detail` is a sentence for people that
//! names the thing, the cause and the next step. Which problem a failure is, is decided where it happens.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The kinds of problem. Each has a `type` that never changes, a status and a title.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The body is not JSON.
    MalformedJson,
    /// The body is JSON, but not the document that is wanted.
    InvalidDocument,
    /// A part of the address is not what it should be.
    InvalidParameter,
    /// The job names a project that the configuration does not have.
    UnknownProject,
    /// The job names a backend that the configuration does not have.
    UnknownBackend,
    /// There is no such thing.
    NotFound,
    /// There is no such route.
    NoSuchRoute,
    /// The route does not answer to that method.
    MethodNotAllowed,
    /// The idempotency key belongs to a job that was asked for in other words.
    KeyConflict,
    /// Another job has the branch.
    BranchTaken,
    /// The thing is not in a state that allows this.
    WrongState,
    /// The artifact is kept where this server cannot reach it.
    Elsewhere,
    /// As many jobs wait as are allowed.
    QueueFull,
    /// The lease is over, or the token was never right.
    LeaseLost,
    /// The body is larger than is taken.
    TooLarge,
    /// The body is not declared as JSON.
    UnsupportedMediaType,
    /// The request comes from a web page of another origin, or under another host's name.
    ForeignOrigin,
    /// Where artifacts are kept does not answer.
    ArtifactsUnavailable,
    /// The database does not answer.
    DatabaseUnavailable,
    /// What the database holds is not what was written.
    CorruptRecord,
    /// A defect of this program.
    Internal,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 21] = [
        Self::MalformedJson,
        Self::InvalidDocument,
        Self::InvalidParameter,
        Self::UnknownProject,
        Self::UnknownBackend,
        Self::NotFound,
        Self::NoSuchRoute,
        Self::MethodNotAllowed,
        Self::KeyConflict,
        Self::BranchTaken,
        Self::WrongState,
        Self::Elsewhere,
        Self::QueueFull,
        Self::LeaseLost,
        Self::TooLarge,
        Self::UnsupportedMediaType,
        Self::ForeignOrigin,
        Self::ArtifactsUnavailable,
        Self::DatabaseUnavailable,
        Self::CorruptRecord,
        Self::Internal,
    ];

    /// The `type` of the problem: a URN, as there is no page to point at.
    #[must_use]
    pub const fn urn(self) -> &'static str {
        self.row().0
    }

    /// The HTTP status that goes with it.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        self.row().1
    }

    /// What it is called.
    #[must_use]
    pub const fn title(self) -> &'static str {
        self.row().2
    }

    const fn row(self) -> (&'static str, StatusCode, &'static str) {
        match self {
            Self::MalformedJson => ("urn:sawmill:problem:malformed-json", StatusCode::BAD_REQUEST, "Malformed JSON"),
            Self::InvalidDocument => {
                ("urn:sawmill:problem:invalid-document", StatusCode::UNPROCESSABLE_ENTITY, "Invalid document")
            }
            Self::InvalidParameter => ("urn:sawmill:problem:invalid-parameter", StatusCode::BAD_REQUEST, "Invalid parameter"),
            Self::UnknownProject => ("urn:sawmill:problem:unknown-project", StatusCode::UNPROCESSABLE_ENTITY, "Unknown project"),
            Self::UnknownBackend => ("urn:sawmill:problem:unknown-backend", StatusCode::UNPROCESSABLE_ENTITY, "Unknown backend"),
            Self::NotFound => ("urn:sawmill:problem:not-found", StatusCode::NOT_FOUND, "Not found"),
            Self::NoSuchRoute => ("urn:sawmill:problem:no-such-route", StatusCode::NOT_FOUND, "No such route"),
            Self::MethodNotAllowed => {
                ("urn:sawmill:problem:method-not-allowed", StatusCode::METHOD_NOT_ALLOWED, "Method not allowed")
            }
            Self::KeyConflict => ("urn:sawmill:problem:key-conflict", StatusCode::CONFLICT, "Idempotency key in use"),
            Self::BranchTaken => ("urn:sawmill:problem:branch-taken", StatusCode::CONFLICT, "Branch taken"),
            Self::WrongState => ("urn:sawmill:problem:wrong-state", StatusCode::CONFLICT, "Not allowed in this state"),
            Self::Elsewhere => ("urn:sawmill:problem:elsewhere", StatusCode::CONFLICT, "Kept elsewhere"),
            Self::QueueFull => ("urn:sawmill:problem:queue-full", StatusCode::TOO_MANY_REQUESTS, "Queue full"),
            Self::LeaseLost => ("urn:sawmill:problem:lease-lost", StatusCode::CONFLICT, "Lease lost"),
            Self::TooLarge => ("urn:sawmill:problem:too-large", StatusCode::PAYLOAD_TOO_LARGE, "Body too large"),
            Self::UnsupportedMediaType => {
                ("urn:sawmill:problem:unsupported-media-type", StatusCode::UNSUPPORTED_MEDIA_TYPE, "Unsupported media type")
            }
            Self::ForeignOrigin => ("urn:sawmill:problem:foreign-origin", StatusCode::FORBIDDEN, "Foreign origin"),
            Self::ArtifactsUnavailable => {
                ("urn:sawmill:problem:artifacts-unavailable", StatusCode::SERVICE_UNAVAILABLE, "Artifacts unavailable")
            }
            Self::DatabaseUnavailable => {
                ("urn:sawmill:problem:database-unavailable", StatusCode::SERVICE_UNAVAILABLE, "Database unavailable")
            }
            Self::CorruptRecord => ("urn:sawmill:problem:corrupt-record", StatusCode::INTERNAL_SERVER_ERROR, "Corrupt record"),
            Self::Internal => ("urn:sawmill:problem:internal", StatusCode::INTERNAL_SERVER_ERROR, "Internal error"),
        }
    }
}

/// A problem as it is sent (`application/problem+json`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// Which kind of problem: stable, for programs.
    #[serde(rename = "type")]
    #[schema(example = "urn:sawmill:problem:not-found")]
    pub kind: String,
    /// What the kind is called.
    pub title: String,
    /// The HTTP status again.
    pub status: u16,
    /// What happened, to what, and what to do.
    pub detail: String,
    /// The path to the field at fault, where one field of a document or one parameter is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "task.command")]
    pub path: Option<String>,
    /// When to try again, in seconds from now, where that is all that is needed. Also in the header `Retry-After`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_s: Option<u64>,
}

impl Problem {
    /// A problem of `kind` with its sentence.
    #[must_use]
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self {
            kind: kind.urn().to_owned(),
            title: kind.title().to_owned(),
            status: kind.status().as_u16(),
            detail: detail.into(),
            path: None,
            retry_after_s: None,
        }
    }

    /// The same, naming the field at fault.
    #[must_use]
    pub fn at(mut self, path: impl Into<String>) -> Self {
        self.path = Some(path.into());
        self
    }

    /// The same, saying when to try again.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after_s = Some(wait.as_secs());
        self
    }

    /// Whether it is of `kind`.
    #[must_use]
    pub fn is(&self, kind: Kind) -> bool {
        self.kind == kind.urn()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let retry_after = self.retry_after_s;
        let mut response = (status, Json(self)).into_response();
        if let Some(seconds) = retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        response
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_kind_of_problem_has_a_type_of_its_own() {
        let urns: BTreeSet<&str> = Kind::ALL.into_iter().map(Kind::urn).collect();
        assert_eq!(urns.len(), Kind::ALL.len());
        assert!(urns.iter().all(|urn| urn.starts_with("urn:sawmill:problem:")));
    }
}
