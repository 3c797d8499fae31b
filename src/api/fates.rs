//! `/v1/jobs/cancel`, `/retry` and `/requeue`: changes of fate for many jobs at once, and the return of one to the queue.
//!
//! The one rule: a request does a bounded piece of work and says where to go on, so that no client waits long for an answer and
//! none is cut off in the middle of a hundred thousand jobs. A selection of everything is taken only from someone who says so.

use std::collections::HashSet;
use std::str::FromStr;

use axum::Json;
use axum::extract;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::State;
use super::input::{Document, Id, OptionalDocument};
use super::problem::{Kind, Problem};
use super::wire::{ChangeJobs, JobsChanged, ReasonRequest, Unchanged};
use crate::ids::JobId;
use crate::job::{Job, JobState};
use crate::store::{Change, Requeue, Run, Selection, SelectionCursor};

/// The most jobs that one request changes, and names.
const CHANGE_MAX: u32 = 1_000;
/// The longest reason, in bytes.
const REASON_MAX: usize = 8_000;

/// Puts a job back into the queue at no charge: a running one when its worker learns of the request, one that waits for a retry at
/// once.
#[utoipa::path(
    post, path = "/v1/jobs/{id}/requeue", tag = "jobs", operation_id = "requeue_job",
    params(("id" = JobId, Path, description = "The job")), request_body = Option<ReasonRequest>,
    responses(
        (status = 200, description = "The job is queued, and ready", body = Job),
        (status = 202, description = "The job runs, and its worker will give it back", body = Job),
        (status = 404, description = "There is no such job", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The job has ended, or waits for something else than a retry", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn requeue(
    extract::State(state): extract::State<State>,
    Id(id): Id<JobId>,
    OptionalDocument(request): OptionalDocument<ReasonRequest>,
) -> Result<Response, Problem> {
    match state.store.requeue(id, &reason(request.reason)?).await? {
        Requeue::Ready(job) => Ok(Json(job).into_response()),
        Requeue::Requested(job) => Ok((StatusCode::ACCEPTED, Json(job)).into_response()),
    }
}

/// Asks for the end of all jobs selected.
#[utoipa::path(
    post, path = "/v1/jobs/cancel", tag = "jobs", operation_id = "cancel_jobs", request_body = ChangeJobs,
    responses(
        (status = 200, description = "What became of them, and where to go on", body = JobsChanged),
        (status = 422, description = "The document selects nothing, or everything without saying so", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn cancel_many(
    state: extract::State<State>,
    Document(mut request): Document<ChangeJobs>,
) -> Result<Json<JobsChanged>, Problem> {
    let reason = reason(request.reason.take())?;
    change(state, Change::Cancel { reason }, request).await
}

/// Gives all failed or cancelled jobs selected another round of attempts.
#[utoipa::path(
    post, path = "/v1/jobs/retry", tag = "jobs", operation_id = "retry_jobs", request_body = ChangeJobs,
    responses(
        (status = 200, description = "What became of them, and where to go on", body = JobsChanged),
        (status = 422, description = "The document selects nothing, or everything without saying so", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn retry_many(
    state: extract::State<State>,
    Document(request): Document<ChangeJobs>,
) -> Result<Json<JobsChanged>, Problem> {
    if request.reason.is_some() {
        return Err(invalid("reason", "a retry keeps no reason"));
    }
    change(state, Change::Retry, request).await
}

/// Puts all jobs selected back into the queue: those that run, and those that wait for a retry.
#[utoipa::path(
    post, path = "/v1/jobs/requeue", tag = "jobs", operation_id = "requeue_jobs", request_body = ChangeJobs,
    responses(
        (status = 200, description = "What became of them, and where to go on", body = JobsChanged),
        (status = 422, description = "The document selects nothing, or everything without saying so", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn requeue_many(
    state: extract::State<State>,
    Document(mut request): Document<ChangeJobs>,
) -> Result<Json<JobsChanged>, Problem> {
    let reason = reason(request.reason.take())?;
    change(state, Change::Requeue { reason }, request).await
}

async fn change(
    extract::State(state): extract::State<State>,
    change: Change,
    request: ChangeJobs,
) -> Result<Json<JobsChanged>, Problem> {
    let run = if request.dry_run { Run::Dry } else { Run::Real };
    let selection = selection(&change, request)?;
    let changed = state.store.change_jobs(&change, &selection, CHANGE_MAX, run).await?;
    let unchanged = changed.unchanged.into_iter().map(|job| Unchanged {
        id: job.id,
        state: job.state,
        because: job.because,
        detail: job.why.to_owned(),
    });
    Ok(Json(JobsChanged {
        changed: changed.changed,
        unchanged: unchanged.collect(),
        next: changed.next.map(|cursor| format!("{}:{}", cursor.state, cursor.id)),
    }))
}

fn selection(change: &Change, request: ChangeJobs) -> Result<Selection, Problem> {
    let ChangeJobs { ids, project, execution, state, all, after, .. } = request;
    let filtered = project.is_some() || execution.is_some() || state.is_some();
    if let Some(mut ids) = ids {
        if filtered || all {
            return Err(invalid("ids", "jobs are named, or selected by a filter, not both"));
        }
        if ids.is_empty() || ids.len() > CHANGE_MAX as usize {
            return Err(invalid("ids", &format!("{} jobs are not between 1 and {CHANGE_MAX}", ids.len())));
        }
        let mut seen = HashSet::new();
        ids.retain(|id| seen.insert(*id));
        return Ok(Selection::Ids(ids));
    }
    match (filtered, all) {
        (false, false) => {
            return Err(invalid(
                "all",
                "without ids, project, execution or state this means every job; say \"all\": true if it does",
            ));
        }
        (true, true) => return Err(invalid("all", "it does not go with a filter")),
        _ => {}
    }
    if let Some(state) = state.filter(|state| !change.states().contains(state)) {
        let [one, other] = change.states();
        let verb = match change {
            Change::Cancel { .. } => "cancelled",
            Change::Retry => "retried",
            Change::Requeue { .. } => "requeued",
        };
        return Err(invalid("state", &format!("{state} jobs cannot be {verb}; those that are {one} or {other} can")));
    }
    let after =
        after.map(|text| cursor(&text).ok_or_else(|| invalid("after", "it is not the `next` of an answer"))).transpose()?;
    Ok(Selection::Filter { project, execution, state, after })
}

fn cursor(text: &str) -> Option<SelectionCursor> {
    let (state, id) = text.split_once(':')?;
    Some(SelectionCursor { state: JobState::from_str(state).ok()?, id: id.parse().ok()? })
}

/// The reason that goes on record.
pub(super) fn reason(given: Option<String>) -> Result<String, Problem> {
    let reason = given.unwrap_or_default();
    if reason.len() > REASON_MAX {
        return Err(invalid("reason", &format!("{} bytes are more than the {REASON_MAX} allowed", reason.len())));
    }
    Ok(reason)
}

fn invalid(path: &str, why: &str) -> Problem {
    Problem::new(Kind::InvalidDocument, format!("{path}: {why}")).at(path)
}
