//! `/v1/completions`: the queue of delivered results, from the integrator's side.

use std::time::Duration;

use axum::Json;
use axum::extract;
use serde::Deserialize;
use tokio::time::{Instant, sleep_until};
use utoipa::IntoParams;

use super::State;
use super::input::{Document, Id, Params, limit};
use super::problem::{Kind, Problem};
use super::wire::{AckCompletion, ClaimCompletions, HeldCompletion, NackCompletion, Page, RenewCompletion};
use crate::clock::human;
use crate::ids::{CompletionId, JobId};
use crate::job::{CompletionEntry, CompletionState};
use crate::store::{self, CompletionAsk, CompletionFilter, Refusal};

/// The most completions in one claim.
const CLAIM_MAX: u32 = 100;
/// The longest lease, and the longest wait before a completion is handed out again.
const LEASE_MAX: Duration = Duration::from_secs(24 * 3600);
/// The longest that a claim waits for something to be there; whoever wants to wait longer asks again.
pub const WAIT_MAX: Duration = Duration::from_secs(30);
/// How soon after a look the next one comes, however many hints there are, and how long at most until it does.
const PAUSE: Duration = Duration::from_millis(50);
const POLL: Duration = Duration::from_secs(1);
/// The longest name of a consumer, in bytes.
const CONSUMER_MAX: usize = 200;
/// The longest reason, in bytes.
const REASON_MAX: usize = 8_000;

/// Which completions to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// Only those in this state.
    state: Option<CompletionState>,
    /// Only those of this job.
    job: Option<JobId>,
    /// Only those written before this one: `next` of the page before.
    before: Option<CompletionId>,
    /// At most so many, from 1 to 500; 100 when absent.
    limit: Option<u32>,
}

/// Lists completions, newest first.
#[utoipa::path(
    get, path = "/v1/completions", tag = "completions", operation_id = "list_completions", params(ListQuery),
    responses(
        (status = 200, description = "A page of completions", body = Page<CompletionEntry>),
        (status = 400, description = "A parameter is wrong", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn list(
    extract::State(state): extract::State<State>,
    Params(query): Params<ListQuery>,
) -> Result<Json<Page<CompletionEntry>>, Problem> {
    let ListQuery { state: in_state, job, before, limit: wanted } = query;
    let page = state.store.completions(&CompletionFilter { state: in_state, job, before, limit: limit(wanted)? }).await?;
    let next = page.items.last().filter(|_| page.more).map(|entry| entry.completion.id.to_string());
    Ok(Json(Page { items: page.items, next }))
}

/// Takes completions under a lease, of each branch the earliest that is not done with. There may be none, also after waiting.
#[utoipa::path(
    post, path = "/v1/completions/claim", tag = "completions", operation_id = "claim_completions",
    request_body = ClaimCompletions,
    responses(
        (status = 200, description = "Those taken, oldest first", body = Page<HeldCompletion>),
        (status = 422, description = "The document is not a claim", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn claim(
    extract::State(state): extract::State<State>,
    Document(request): Document<ClaimCompletions>,
) -> Result<Json<Page<HeldCompletion>>, Problem> {
    let ClaimCompletions { consumer, limit, lease, project, repo, wait } = request;
    check_text("consumer", &consumer, CONSUMER_MAX)?;
    if !(1..=CLAIM_MAX).contains(&limit) {
        return Err(invalid("limit", &format!("{limit} is not between 1 and {CLAIM_MAX}")));
    }
    check_lease("lease", lease)?;
    let wait = wait.unwrap_or_default();
    if wait > WAIT_MAX {
        return Err(invalid(
            "wait",
            &format!("{} is more than {}; ask again instead", human::format(wait), human::format(WAIT_MAX)),
        ));
    }
    let ask = CompletionAsk { consumer, limit, lease, project, repo };
    let held = wait_for(&state, &ask, wait).await?;
    let items = held.into_iter().map(|held| HeldCompletion { entry: held.entry, token: held.token }).collect();
    Ok(Json(Page { items, next: None }))
}

/// Claims, again and again until there is something or the time is over. Hints say when to look; every [`POLL`] it looks anyway.
async fn wait_for(state: &State, ask: &CompletionAsk, wait: Duration) -> Result<Vec<store::HeldCompletion>, Problem> {
    let deadline = Instant::now() + wait;
    loop {
        // Taken out before the look: what happens after it is heard.
        let mut hints = state.store.hints();
        let held = state.store.claim_completions(ask).await?;
        let now = Instant::now();
        if !held.is_empty() || now >= deadline || state.shutdown.is_cancelled() {
            return Ok(held);
        }
        tokio::select! {
            () = hints.next_change() => sleep_until(deadline.min(now + PAUSE)).await,
            () = sleep_until(deadline.min(now + POLL)) => {}
            () = state.shutdown.cancelled() => {}
        }
    }
}

/// Brings a completion back that was set aside as dead, to its old place and with its deliveries counted anew.
#[utoipa::path(
    post, path = "/v1/completions/{id}/requeue", tag = "completions", operation_id = "requeue_completion",
    params(("id" = CompletionId, Path, description = "The completion")),
    responses(
        (status = 200, description = "The completion is pending", body = CompletionEntry),
        (status = 404, description = "There is no such completion", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The completion is held or acknowledged", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn requeue(
    extract::State(state): extract::State<State>,
    Id(id): Id<CompletionId>,
) -> Result<Json<CompletionEntry>, Problem> {
    Ok(Json(state.store.requeue_completion(id).await?))
}

/// Says that a completion is done with.
#[utoipa::path(
    post, path = "/v1/completions/{id}/ack", tag = "completions", operation_id = "ack_completion",
    params(("id" = CompletionId, Path, description = "The completion")), request_body = AckCompletion,
    responses(
        (status = 200, description = "The completion as it is now", body = CompletionEntry),
        (status = 404, description = "There is no such completion", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The lease is lost", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn ack(
    extract::State(state): extract::State<State>,
    Id(id): Id<CompletionId>,
    Document(request): Document<AckCompletion>,
) -> Result<Json<CompletionEntry>, Problem> {
    Ok(Json(state.store.ack_completion(id, request.token).await?))
}

/// Gives a completion back: to be handed out again, or refused for good.
#[utoipa::path(
    post, path = "/v1/completions/{id}/nack", tag = "completions", operation_id = "nack_completion",
    params(("id" = CompletionId, Path, description = "The completion")), request_body = NackCompletion,
    responses(
        (status = 200, description = "The completion as it is now", body = CompletionEntry),
        (status = 404, description = "There is no such completion", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The lease is lost", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn nack(
    extract::State(state): extract::State<State>,
    Id(id): Id<CompletionId>,
    Document(request): Document<NackCompletion>,
) -> Result<Json<CompletionEntry>, Problem> {
    let NackCompletion { token, reason, retry_after, dead } = request;
    check_text("reason", &reason, REASON_MAX)?;
    let refusal = match (dead, retry_after) {
        (true, None) => Refusal::Dead,
        (true, Some(_)) => return Err(invalid("retry_after", "a completion that is refused for good is not handed out again")),
        (false, after) => Refusal::Retry { after: check_wait(after)? },
    };
    Ok(Json(state.store.nack_completion(id, token, &reason, refusal).await?))
}

/// Holds a completion for longer.
#[utoipa::path(
    post, path = "/v1/completions/{id}/renew", tag = "completions", operation_id = "renew_completion",
    params(("id" = CompletionId, Path, description = "The completion")), request_body = RenewCompletion,
    responses(
        (status = 200, description = "The completion with its new lease", body = CompletionEntry),
        (status = 404, description = "There is no such completion", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The lease is lost", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn renew(
    extract::State(state): extract::State<State>,
    Id(id): Id<CompletionId>,
    Document(request): Document<RenewCompletion>,
) -> Result<Json<CompletionEntry>, Problem> {
    check_lease("lease", request.lease)?;
    Ok(Json(state.store.renew_completion(id, request.token, request.lease).await?))
}

fn invalid(path: &str, why: &str) -> Problem {
    Problem::new(Kind::InvalidDocument, format!("{path}: {why}")).at(path)
}

fn check_text(path: &str, text: &str, max: usize) -> Result<(), Problem> {
    if text.trim().is_empty() {
        return Err(invalid(path, "it is empty"));
    }
    if text.len() > max {
        return Err(invalid(path, &format!("{} bytes are more than the {max} allowed", text.len())));
    }
    if text.contains('\0') {
        return Err(invalid(path, "contains a NUL byte"));
    }
    Ok(())
}

fn check_lease(path: &str, lease: Option<Duration>) -> Result<(), Problem> {
    match lease {
        Some(lease) if !(Duration::from_secs(1)..=LEASE_MAX).contains(&lease) => {
            Err(invalid(path, &format!("{} is not between 1s and 24h", human::format(lease))))
        }
        _ => Ok(()),
    }
}

fn check_wait(after: Option<Duration>) -> Result<Duration, Problem> {
    match after {
        Some(after) if after > LEASE_MAX => Err(invalid("retry_after", &format!("{} is more than 24h", human::format(after)))),
        after => Ok(after.unwrap_or(Duration::ZERO)),
    }
}
