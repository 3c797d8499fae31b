//! `/v1/jobs/{id}/artifacts`: the files that are kept of a job's attempts.
//!
//! The one rule: what a job wrote is given as a file to save, never as something that a browser would run.

use std::ops::Range;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{self, Path};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use serde::Deserialize;
use utoipa::IntoParams;

use super::State;
use super::input::{Id, Params};
use super::problem::{Kind, Problem};
use super::wire::Page;
use crate::artifacts::ArtifactsError;
use crate::ids::{AttemptNo, JobId};
use crate::job::{Artifact, KeptObject};

/// Of which attempt.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct AttemptQuery {
    /// The attempt; all of them in a list, and the latest that has it for one artifact, when absent.
    attempt: Option<AttemptNo>,
}

/// Lists the artifacts of a job: those that are kept, and those that are not, with the reason.
#[utoipa::path(
    get, path = "/v1/jobs/{id}/artifacts", tag = "jobs", operation_id = "list_artifacts",
    params(("id" = JobId, Path, description = "The job"), AttemptQuery),
    responses(
        (status = 200, description = "The artifacts, in the order of attempts", body = Page<Artifact>),
        (status = 404, description = "There is no such job", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn list(
    extract::State(state): extract::State<State>,
    Id(id): Id<JobId>,
    Params(query): Params<AttemptQuery>,
) -> Result<Json<Page<Artifact>>, Problem> {
    let mut items = state.store.artifacts(id).await?;
    items.retain(|artifact| query.attempt.is_none_or(|attempt| artifact.attempt == attempt));
    Ok(Json(Page { items, next: None }))
}

/// Reads an artifact, or a range of its bytes. A name with slashes in it is escaped (`%2F`).
#[utoipa::path(
    get, path = "/v1/jobs/{id}/artifacts/{name}", tag = "jobs", operation_id = "read_artifact",
    params(
        ("id" = JobId, Path, description = "The job"), ("name" = String, Path, description = "The artifact"), AttemptQuery,
        ("Range" = Option<String>, Header, description = "One range of bytes"),
    ),
    responses(
        (
            status = 200, description = "The artifact", body = Vec<u8>, content_type = "application/octet-stream",
            headers(("ETag" = String, description = "Its SHA-256"))
        ),
        (status = 206, description = "The range", body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 404, description = "There is no such job or artifact", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "It is kept where this server cannot reach it", body = Problem, content_type = "application/problem+json"),
        (status = 416, description = "The artifact has no such bytes"),
    )
)]
pub(super) async fn read(
    extract::State(state): extract::State<State>,
    path: Result<Path<(String, String)>, PathRejection>,
    Params(query): Params<AttemptQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let Path((id, name)) = path.map_err(|error| Problem::new(Kind::InvalidParameter, error.body_text()).at("name"))?;
    let id: JobId = id.parse().map_err(|cause| Problem::new(Kind::InvalidParameter, format!("id: {cause}")).at("id"))?;
    let all = state.store.artifacts(id).await?;
    let of_name = all.iter().filter(|artifact| artifact.name == name);
    let wanted: Vec<&Artifact> =
        of_name.filter(|artifact| query.attempt.is_none_or(|attempt| artifact.attempt == attempt)).collect();
    let Some((artifact, object)) = wanted.iter().rev().find_map(|artifact| Some((*artifact, artifact.kept.as_ref()?))) else {
        let why = wanted.last().and_then(|artifact| artifact.reason.as_ref());
        let why = why.map_or_else(|| format!("; see /v1/jobs/{id}/artifacts"), |reason| format!(": {reason}"));
        return Err(Problem::new(Kind::NotFound, format!("job {id} has no artifact {name:?}{why}")));
    };
    let reached = state.artifacts.known_place().map_err(|error| away(&error))?;
    if reached.is_none_or(|place| place.id != object.place) {
        let detail = format!(
            "artifact {name:?} of job {id} is kept in {}, which this server does not reach (it reaches {}); ask a server there, or \
             configure a place that all hosts reach as artifacts.store",
            object.at,
            state.artifacts.at()
        );
        return Err(Problem::new(Kind::Elsewhere, detail));
    }
    let range = match headers.get(header::RANGE).and_then(|value| value.to_str().ok()) {
        None => None,
        Some(text) => match range(text, object.bytes) {
            Asked::Whole => None,
            Asked::Part(range) => Some(range),
            Asked::Beyond => return Ok(beyond(object)),
        },
    };
    let pieces = state.artifacts.get(&object.key, range.clone()).await.map_err(|error| away(&error))?;
    Ok(answer(artifact, object, range, Body::from_stream(pieces)))
}

fn answer(artifact: &Artifact, object: &KeptObject, range: Option<Range<u64>>, body: Body) -> Response {
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_') { c } else { '_' };
    let file: String = artifact.name.rsplit('/').next().unwrap_or_default().chars().map(plain).collect();
    let mut response = Response::builder()
        .header(header::CONTENT_TYPE, object.content_type.as_str())
        .header(header::CONTENT_DISPOSITION, format!("attachment; filename=\"{file}\""))
        .header(header::X_CONTENT_TYPE_OPTIONS, "nosniff")
        // The console has this origin.
        .header(header::CONTENT_SECURITY_POLICY, "default-src 'none'; sandbox")
        .header(header::ETAG, format!("\"sha256:{}\"", object.sha256))
        .header(header::ACCEPT_RANGES, "bytes");
    response = match range {
        None => response.header(header::CONTENT_LENGTH, object.bytes),
        Some(Range { start, end }) => response
            .status(StatusCode::PARTIAL_CONTENT)
            .header(header::CONTENT_LENGTH, end - start)
            .header(header::CONTENT_RANGE, format!("bytes {start}-{}/{}", end - 1, object.bytes)),
    };
    response.body(body).expect("the headers are made of our own words and digits")
}

fn beyond(object: &KeptObject) -> Response {
    Response::builder()
        .status(StatusCode::RANGE_NOT_SATISFIABLE)
        .header(header::CONTENT_RANGE, format!("bytes */{}", object.bytes))
        .body(Body::empty())
        .expect("the header is made of our own words and digits")
}

fn away(error: &ArtifactsError) -> Problem {
    let kind = match error {
        ArtifactsError::Gone { .. } => Kind::NotFound,
        ArtifactsError::Away { .. } => Kind::ArtifactsUnavailable,
    };
    Problem::new(kind, error.to_string())
}

/// What the header `Range` asks for (RFC 9110, section 14).
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    /// Everything: also where it asks for what is not answered, such as several ranges.
    Whole,
    Part(Range<u64>),
    Beyond,
}

fn range(text: &str, length: u64) -> Asked {
    let Some((first, last)) = text.strip_prefix("bytes=").and_then(|spec| spec.split_once('-')) else { return Asked::Whole };
    let (start, end) = match (first.trim().parse::<u64>(), last.trim().parse::<u64>()) {
        (Ok(first), Ok(last)) if first <= last => (first, last.saturating_add(1).min(length)),
        (Ok(first), Err(_)) if last.trim().is_empty() => (first, length),
        (Err(_), Ok(last)) if first.trim().is_empty() => (length.saturating_sub(last), length),
        _ => return Asked::Whole,
    };
    if start < end { Asked::Part(start..end) } else { Asked::Beyond }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_of_bytes_is_answered_and_whatever_else_is_asked_gets_the_whole() {
        let check = |text: &str, expected: Asked| assert_eq!(range(text, 10), expected, "{text}");
        check("bytes=0-3", Asked::Part(0..4));
        check("bytes=8-99", Asked::Part(8..10));
        check("bytes=4-", Asked::Part(4..10));
        check("bytes=-3", Asked::Part(7..10));
        check("bytes=-99", Asked::Part(0..10));
        check("bytes=10-", Asked::Beyond);
        check("bytes=-0", Asked::Beyond);
        check("bytes=3-1", Asked::Whole);
        check("bytes=0-1,3-4", Asked::Whole);
        check("lines=1-2", Asked::Whole);
    }
}
