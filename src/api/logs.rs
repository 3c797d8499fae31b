//! `/v1/jobs/{id}/logs`: an attempt's log, as JSON from an offset or followed as events.

use axum::Json;
use axum::extract;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::IntoParams;

use super::State;
use super::follow::{Follower, Position};
use super::input::{Id, Params};
use super::problem::{Kind, Problem};
use super::sse;
use super::wire::{LogPiece, LogSlice};
use crate::ids::{AttemptNo, JobId};
use crate::job::{Job, Stream};

/// The most of a log in one answer, in bytes.
pub const SLICE_MAX: usize = 8 * 1024 * 1024;
/// How much of a log is in one answer unless asked otherwise, in bytes.
const SLICE: usize = 1024 * 1024;

/// Which part of which log.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct LogQuery {
    /// The attempt; the latest when absent. A followed log waits for an attempt that is still to come.
    attempt: Option<AttemptNo>,
    /// Only what came from there.
    stream: Option<Stream>,
    /// The offset to begin at, in bytes; 0 when absent.
    from: Option<u64>,
    /// About how much to answer with, in bytes, at most 8 MiB; 1 MiB when absent. For JSON only.
    max: Option<usize>,
}

/// Reads an attempt's log: as JSON from an offset, or, with `Accept: text/event-stream`, followed to its end.
///
/// Events named `log` carry a piece each (`LogPiece`), with an id from which `Last-Event-ID` goes on without losing or repeating
/// a byte. The last one is named `end` (`LogEnd`), or `problem` where the log cannot be read on.
#[utoipa::path(
    get, path = "/v1/jobs/{id}/logs", tag = "jobs", operation_id = "read_log",
    params(
        ("id" = JobId, Path, description = "The job"), LogQuery,
        ("Last-Event-ID" = Option<String>, Header, description = "The id of the last event that was received"),
    ),
    responses(
        (status = 200, description = "A part of the log, or its events", content((LogSlice = "application/json"), (LogPiece = "text/event-stream"))),
        (status = 400, description = "A parameter is wrong", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such job or attempt", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn read(
    extract::State(state): extract::State<State>,
    Id(id): Id<JobId>,
    Params(query): Params<LogQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    // Subscribed before the job is read, so that no change after the reading goes unnoticed.
    let hints = state.store.hints();
    let job = state.store.job(id).await?;
    if wants_events(&headers) {
        let start = start(&query, &headers)?;
        let follower = Follower::new(state.store, hints, id, start, query.stream);
        return Ok(sse::respond(follower.into_events(), state.shutdown));
    }
    slice(&state, &job, &query).await.map(|slice| Json(slice).into_response())
}

fn wants_events(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|range| range.trim().starts_with("text/event-stream"))
}

/// Where a followed log begins: after the last event received where there was one, else where the query says.
fn start(query: &LogQuery, headers: &HeaderMap) -> Result<Position, Problem> {
    let asked = Position { attempt: query.attempt, offset: query.from.unwrap_or(0) };
    let Some(last) = headers.get("last-event-id") else { return Ok(asked) };
    let last: Option<Position> = last.to_str().ok().and_then(|text| text.parse().ok());
    match last {
        Some(last) if last.attempt.is_none() || query.attempt.is_none() || last.attempt == query.attempt => {
            Ok(Position { attempt: last.attempt.or(query.attempt), offset: last.offset })
        }
        Some(_) => Err(Problem::new(Kind::InvalidParameter, "Last-Event-ID: it is of another attempt than the one asked for")
            .at("Last-Event-ID")),
        None => {
            Err(Problem::new(Kind::InvalidParameter, "Last-Event-ID: it is not the id of an event of a log").at("Last-Event-ID"))
        }
    }
}

async fn slice(state: &State, job: &Job, query: &LogQuery) -> Result<LogSlice, Problem> {
    let id = job.id;
    let attempt = match (query.attempt, job.attempt) {
        (Some(wanted), Some(latest)) if (1..=latest.0).contains(&wanted.0) => wanted,
        (None, Some(latest)) => latest,
        (Some(wanted), Some(latest)) => {
            let detail = format!("job {id} has no attempt {wanted}; its attempts are 1 to {latest}");
            return Err(Problem::new(Kind::NotFound, detail).at("attempt"));
        }
        (_, None) => {
            return Err(Problem::new(Kind::NotFound, format!("job {id} has no log: it is {} and had no attempt", job.state)));
        }
    };
    let max = query.max.unwrap_or(SLICE);
    if !(1..=SLICE_MAX).contains(&max) {
        return Err(Problem::new(Kind::InvalidParameter, format!("max: {max} is not between 1 and {SLICE_MAX}")).at("max"));
    }
    let from = query.from.unwrap_or(0);
    let page = state.store.read_log(id, attempt, from, max).await?;
    let next = page.next_offset(from);
    let wanted = page.chunks.into_iter().filter(|chunk| query.stream.is_none_or(|stream| chunk.stream == stream));
    Ok(LogSlice { job: id, attempt, chunks: wanted.map(LogPiece::from).collect(), next, total: page.total, log: page.end })
}
