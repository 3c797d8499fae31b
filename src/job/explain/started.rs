//! Jobs that run, and jobs that have ended.

use super::cause::Cause;
use super::facts::Facts;
use crate::job::worker_record::WorkerState;

/// Where a job is that runs, and what is the matter with it.
pub(super) fn running(facts: &Facts) -> Vec<Cause> {
    let (Some(attempt), Some(lease_until)) = (&facts.attempt, facts.lease_until) else { return Vec::new() };
    let cancelling = facts
        .job
        .cancel_requested_at
        .map(|asked_at| Cause::Cancelling { asked_at, reason: facts.cancel_reason.clone().unwrap_or_default() });
    let requeueing = facts
        .job
        .requeue_requested_at
        .map(|asked_at| Cause::Requeueing { asked_at, reason: facts.requeue_reason.clone().unwrap_or_default() });
    let running = Cause::Running {
        attempt: attempt.attempt,
        worker: attempt.worker.clone(),
        since: attempt.started_at,
        stage: attempt.stage.map(|(stage, _)| stage),
        stage_since: attempt.stage.map(|(_, since)| since),
        lease_until,
        log_bytes: attempt.log_bytes,
        logged_at: attempt.logged_at,
    };
    let over = (lease_until <= facts.now).then_some(Cause::LeaseOver { lease_until });
    let worker = facts.workers.iter().find(|worker| worker.report.id == attempt.worker);
    let silent = match worker {
        Some(worker) if !matches!(worker.state, WorkerState::Offline | WorkerState::Stopped) => None,
        other => Some(Cause::SilentWorker { worker: attempt.worker.clone(), seen_at: other.map(|worker| worker.report.seen_at) }),
    };
    cancelling.into_iter().chain(requeueing).chain([running]).chain(over).chain(silent).collect()
}

/// How a job ended, and what became of what it delivered.
pub(super) fn ended(facts: &Facts) -> Vec<Cause> {
    let job = &facts.job;
    let ended = job.outcome.as_ref().zip(job.finished_at).map(|(outcome, at)| Cause::Ended {
        state: job.state,
        at,
        class: outcome.class,
        message: outcome.message.clone(),
        attempts_used: job.attempts_used,
        attempts_max: job.attempts_max,
    });
    let completion = facts.completion.as_ref().map(|place| Cause::Completion {
        state: place.state,
        consumer: place.consumer.clone(),
        lease_until: place.lease_until,
        visible_at: place.visible_at,
        behind: place.behind,
        since: place.created_at,
        last_error: place.last_error.clone(),
    });
    ended.into_iter().chain(completion).collect()
}
