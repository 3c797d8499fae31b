//! `/v1/jobs`: asking for jobs, looking at them, and changing their fate.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::IntoParams;

use super::State;
use super::fates::reason;
use super::input::{Document, Id, OptionalDocument, Params, limit};
use super::problem::{Kind, Problem};
use super::wire::{JobAnswer, JobDiff, Page, ReasonRequest};
use crate::ids::JobId;
use crate::job::{AttemptRecord, Coverage, Forecast, Hold, Job, JobSpec, JobState};
use crate::store::{Cancel, CompletionFilter, Enqueued, JobFilter, Store};

/// What else to answer.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct AnswerQuery {
    /// Whether to say where the job stands and when it may start, which costs some counting. When absent: to who enqueues, and not to who
    /// looks.
    forecast: Option<bool>,
}

/// What is answered to who does not say.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Usual {
    Forecast,
    None,
}

impl AnswerQuery {
    /// The job with what was asked for. It is enqueued, or there, whatever becomes of the forecast.
    async fn answer(&self, usual: Usual, store: &Store, job: Job) -> JobAnswer {
        if !self.forecast.unwrap_or(usual == Usual::Forecast) || job.state != JobState::Queued {
            return JobAnswer::of(job, None);
        }
        let forecast = store.forecast(job.id).await.unwrap_or_else(|error| {
            tracing::warn!(job.id = %job.id, "cannot foresee the start of job {}: {error}", job.id);
            Some(Forecast::unknown("the database could not be asked"))
        });
        JobAnswer::of(job, forecast)
    }
}

/// Asks for a job. The same idempotency key with the same document is answered with the job that is there.
#[utoipa::path(
    post, path = "/v1/jobs", tag = "jobs", operation_id = "enqueue_job", request_body = JobSpec, params(AnswerQuery),
    responses(
        (status = 201, description = "The job is new", body = JobAnswer, headers(("Location" = String, description = "Where it is"))),
        (status = 200, description = "The job was there already", body = JobAnswer),
        (status = 400, description = "The body is not JSON", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The key or the branch is another job's", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "The document is not a job", body = Problem, content_type = "application/problem+json"),
        (
            status = 429, description = "As many jobs wait as may", body = Problem, content_type = "application/problem+json",
            headers(("Retry-After" = u64, description = "When to try again, in seconds"))
        ),
    )
)]
pub(super) async fn enqueue(
    extract::State(state): extract::State<State>,
    Params(query): Params<AnswerQuery>,
    Document(spec): Document<JobSpec>,
) -> Result<Response, Problem> {
    let new = state.policy.accept(spec)?;
    let enqueued = state.store.enqueue(new).await?;
    let status = match &enqueued {
        Enqueued::Created(_) => StatusCode::CREATED,
        Enqueued::Existing(_) => StatusCode::OK,
    };
    let answer = query.answer(Usual::Forecast, &state.store, enqueued.into_job()).await;
    Ok((status, [(header::LOCATION, format!("/v1/jobs/{}", answer.job.id))], Json(answer)).into_response())
}

/// Which jobs to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// Only those in this state.
    state: Option<JobState>,
    /// Only those that wait for this: `answer`, for one.
    held: Option<Hold>,
    /// Only those of this project.
    project: Option<String>,
    /// Only those of this execution.
    execution: Option<String>,
    /// Only those enqueued before this one: `next` of the page before.
    before: Option<JobId>,
    /// At most so many, from 1 to 500; 100 when absent.
    limit: Option<u32>,
}

/// Lists jobs, newest first.
#[utoipa::path(
    get, path = "/v1/jobs", tag = "jobs", operation_id = "list_jobs", params(ListQuery),
    responses(
        (status = 200, description = "A page of jobs", body = Page<Job>),
        (status = 400, description = "A parameter is wrong", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn list(
    extract::State(state): extract::State<State>,
    Params(query): Params<ListQuery>,
) -> Result<Json<Page<Job>>, Problem> {
    let ListQuery { state: in_state, held, project, execution, before, limit: wanted } = query;
    let filter = JobFilter { state: in_state, held, project, execution, before, limit: limit(wanted)? };
    let page = state.store.jobs(&filter).await?;
    let next = page.items.last().filter(|_| page.more).map(|job| job.id.to_string());
    Ok(Json(Page { items: page.items, next }))
}

/// Shows a job.
#[utoipa::path(
    get, path = "/v1/jobs/{id}", tag = "jobs", operation_id = "show_job",
    params(("id" = JobId, Path, description = "The job"), AnswerQuery),
    responses(
        (status = 200, description = "The job", body = JobAnswer),
        (status = 404, description = "There is no such job", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn show(
    extract::State(state): extract::State<State>,
    Id(id): Id<JobId>,
    Params(query): Params<AnswerQuery>,
) -> Result<Json<JobAnswer>, Problem> {
    let job = state.store.job(id).await?;
    let attempts = if job.attempt.is_some() { state.store.attempts(id).await? } else { Vec::new() };
    let latest = attempts.into_iter().max_by_key(|record| record.attempt);
    let (runs_on, time_limit) = latest.map_or((None, None), |record| (record.runs_on, record.time_limit));
    let coverage = if job.state == JobState::Succeeded { coverage(&state.store, id).await? } else { BTreeMap::new() };
    Ok(Json(JobAnswer { runs_on, time_limit, coverage, ..query.answer(Usual::None, &state.store, job).await }))
}

/// What the gates measured of what a job delivered.
async fn coverage(store: &Store, job: JobId) -> Result<BTreeMap<String, Coverage>, Problem> {
    let newest = CompletionFilter { job: Some(job), limit: 1, ..CompletionFilter::default() };
    let gates = store.completions(&newest).await?.items.into_iter().flat_map(|entry| entry.completion.gates);
    Ok(gates.filter_map(|gate| Some((gate.name, gate.coverage?))).collect())
}

/// Asks for the end of a job. A job that waits is cancelled at once; a running one when its worker learns of the request.
#[utoipa::path(
    post, path = "/v1/jobs/{id}/cancel", tag = "jobs", operation_id = "cancel_job",
    params(("id" = JobId, Path, description = "The job")), request_body = Option<ReasonRequest>,
    responses(
        (status = 200, description = "The job is cancelled", body = Job),
        (status = 202, description = "The job runs, and its worker will end it", body = Job),
        (status = 404, description = "There is no such job", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The job has ended otherwise", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn cancel(
    extract::State(state): extract::State<State>,
    Id(id): Id<JobId>,
    OptionalDocument(request): OptionalDocument<ReasonRequest>,
) -> Result<Response, Problem> {
    match state.store.cancel(id, &reason(request.reason)?).await? {
        Cancel::Done(job) => Ok(Json(job).into_response()),
        Cancel::Requested(job) => Ok((StatusCode::ACCEPTED, Json(job)).into_response()),
        Cancel::AlreadyEnded(job) if job.state == JobState::Cancelled => Ok(Json(job).into_response()),
        Cancel::AlreadyEnded(job) => {
            Err(Problem::new(Kind::WrongState, format!("job {id} has {} already; there is nothing left to cancel", job.state)))
        }
    }
}

/// Gives a failed or cancelled job another round: as many attempts as it had.
#[utoipa::path(
    post, path = "/v1/jobs/{id}/retry", tag = "jobs", operation_id = "retry_job",
    params(("id" = JobId, Path, description = "The job")),
    responses(
        (status = 200, description = "The job is queued again", body = Job),
        (status = 404, description = "There is no such job", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The job has not failed", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn retry(extract::State(state): extract::State<State>, Id(id): Id<JobId>) -> Result<Json<Job>, Problem> {
    Ok(Json(state.store.retry(id).await?))
}

/// Lists the attempts at a job, with their stages.
#[utoipa::path(
    get, path = "/v1/jobs/{id}/attempts", tag = "jobs", operation_id = "list_attempts",
    params(("id" = JobId, Path, description = "The job")),
    responses(
        (status = 200, description = "The attempts, in order", body = Page<AttemptRecord>),
        (status = 404, description = "There is no such job", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn attempts(
    extract::State(state): extract::State<State>,
    Id(id): Id<JobId>,
) -> Result<Json<Page<AttemptRecord>>, Problem> {
    let job = state.store.job(id).await?;
    Ok(Json(Page { items: state.store.attempts(job.id).await?, next: None }))
}

/// Shows what a job changed, from its completion record.
#[utoipa::path(
    get, path = "/v1/jobs/{id}/diff", tag = "jobs", operation_id = "show_diff",
    params(("id" = JobId, Path, description = "The job")),
    responses(
        (status = 200, description = "What changed", body = JobDiff),
        (status = 404, description = "There is no such job", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The job has not delivered", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn diff(extract::State(state): extract::State<State>, Id(id): Id<JobId>) -> Result<Json<JobDiff>, Problem> {
    let job = state.store.job(id).await?;
    let newest = CompletionFilter { job: Some(id), limit: 1, ..CompletionFilter::default() };
    let found = state.store.completions(&newest).await?.items.into_iter().next();
    let Some(completion) = found.map(|entry| entry.completion) else {
        let next = if job.state.is_final() { "its log and attempts say why" } else { "wait for its end" };
        let detail = format!("job {id} is {} and has delivered nothing; {next}", job.state);
        return Err(Problem::new(Kind::WrongState, detail));
    };
    Ok(Json(JobDiff {
        job: id,
        attempt: completion.attempt,
        base: completion.base,
        commit: completion.commit,
        branch: completion.branch,
        diff: completion.diff,
    }))
}
