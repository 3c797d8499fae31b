//! What an attempt's end makes of its job: the retry policy's answer, a request to cancel, and what is counted.

use super::db::Tx;
use super::error::StoreError;
use super::fence::Held;
use super::outbox::add_ends;
use super::rows::number;
use super::statement::args;
use super::verdict::cancelled;
use crate::clock::Timestamp;
use crate::ids::{AttemptNo, JobId, ObjectId};
use crate::job::attempt::Resources;
use crate::job::retry::{Charge, Used, charge};
use crate::job::{JobState, LogVerdict, NextStep, Outcome, OutcomeClass, RetryPolicy};

/// A job after an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Settled {
    pub(super) state: JobState,
    /// When it may be claimed again.
    pub(super) ready_at: Option<Timestamp>,
    pub(super) used: Used,
    pub(super) outcome: Outcome,
}

impl Held {
    fn used(&self) -> Result<Used, StoreError> {
        let what = || "a job's counters".to_owned();
        Ok(Used {
            attempts: number(self.attempts_used, what)?,
            resets: number(self.resets, what)?,
            attempts_max: number(self.attempts_max, what)?,
        })
    }
}

/// Decides what follows.
pub(super) fn settle(held: &Held, outcome: &Outcome, policy: &RetryPolicy, now: Timestamp) -> Result<Settled, StoreError> {
    let before = held.used()?;
    let mut used = before;
    match charge(outcome.class) {
        Charge::Attempt => used.attempts += 1,
        Charge::Reset => used.resets += 1,
        Charge::Nothing => {}
    }
    let ended = |state, outcome| Settled { state, ready_at: None, used, outcome };
    if let Some(reason) = held.cancel_reason.as_deref().filter(|_| outcome.class != OutcomeClass::Succeeded) {
        let outcome = if outcome.class == OutcomeClass::Cancelled { outcome.clone() } else { cancelled(reason) };
        return Ok(ended(JobState::Cancelled, outcome));
    }
    Ok(match policy.next_step(outcome.class, before, rand::random()) {
        NextStep::Retry { after, .. } => {
            Settled { state: JobState::Queued, ready_at: Some(now + after), used, outcome: outcome.clone() }
        }
        NextStep::End(state) if charge(outcome.class) == Charge::Reset => ended(state, poison(outcome, used.resets)),
        NextStep::End(state) => ended(state, outcome.clone()),
    })
}

/// The end of a job that took its worker down, or found it broken, as often as is allowed.
fn poison(outcome: &Outcome, times: u32) -> Outcome {
    let message = format!("given up after {times} attempts that infrastructure failed; the last one: {}", outcome.message);
    Outcome::new(outcome.class, message)
}

const SET_JOB: &str = "UPDATE jobs SET state = $3, held = $4, ready_at = coalesce($5, ready_at), attempts_used = $6, resets = $7, \
    outcome_class = $8, outcome_message = $9, commit_id = $10, finished_at = $11, worker = NULL, token = NULL, lease_until = NULL, \
    requeue_requested_at = NULL, requeue_reason = NULL \
    WHERE id = $1 AND attempt = $2 AND state = 'running'";
const CLOSE_ATTEMPT: &str = "UPDATE attempts SET ended_at = $3, outcome_class = $4, outcome_message = $5, exit_code = $6, \
    signal = $7, peak_memory_bytes = $8, cpu_ms = $9, salvage = $10, log_verdict = $11 \
    WHERE job = $1 AND attempt = $2 AND ended_at IS NULL";

/// Gives a running job, whose row this transaction has locked, its next state. An end goes into the outbox with it.
pub(super) async fn write_job(
    tx: &mut Tx,
    (job, attempt): (JobId, AttemptNo),
    settled: &Settled,
    commit: Option<&ObjectId>,
    now: Timestamp,
) -> Result<(), StoreError> {
    let held = settled.ready_at.filter(|ready_at| *ready_at > now).map(|_| "backoff");
    let row = args![
        job,
        attempt,
        settled.state.as_str(),
        held,
        settled.ready_at,
        settled.used.attempts,
        settled.used.resets,
        settled.outcome.class.as_str(),
        &settled.outcome.message,
        commit.filter(|_| settled.state == JobState::Succeeded),
        settled.state.is_final().then_some(now),
    ];
    if tx.run(SET_JOB, row).await? != 1 {
        return Err(StoreError::LeaseLost);
    }
    if settled.state.is_final() {
        add_ends(tx, &[(job, Some(attempt), settled.state)], now).await?;
    }
    Ok(())
}

/// How an attempt ended, for its own row.
pub(super) struct AttemptEnd<'a> {
    pub(super) outcome: &'a Outcome,
    pub(super) resources: Resources,
    pub(super) salvage: Option<&'a ObjectId>,
    pub(super) log: LogVerdict,
}

/// Closes the row of an attempt.
pub(super) async fn close_attempt(
    tx: &mut Tx,
    (job, attempt): (JobId, AttemptNo),
    end: AttemptEnd<'_>,
    now: Timestamp,
) -> Result<(), StoreError> {
    let what = || format!("attempt {attempt} of job {job}");
    let verdict = serde_json::to_string(&end.log).map_err(|error| StoreError::corrupt(what(), error))?;
    let row = args![
        job,
        attempt,
        now,
        end.outcome.class.as_str(),
        &end.outcome.message,
        end.resources.exit_code,
        end.resources.signal,
        end.resources.peak_memory_bytes,
        end.resources.cpu_ms,
        end.salvage,
        &verdict,
    ];
    match tx.run(CLOSE_ATTEMPT, row).await? {
        1 => Ok(()),
        _ => Err(StoreError::corrupt(what(), "its job runs, and it has ended")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const POLICY: RetryPolicy =
        RetryPolicy { attempts: 1, resets: 2, backoff: Duration::from_secs(10), backoff_max: Duration::from_secs(60) };

    fn settled(class: OutcomeClass, cancel: Option<&str>, resets: i64) -> Settled {
        let held = Held { lease_until: 0, cancel_reason: cancel.map(str::to_owned), attempts_used: 0, attempts_max: 2, resets };
        settle(&held, &Outcome::new(class, "why"), &POLICY, Timestamp(0)).expect("counters in range")
    }

    #[test]
    fn a_cancelled_job_ends_cancelled_unless_it_succeeded() {
        let check = |class, cancel: Option<&str>, state, message: &str| {
            let found = settled(class, cancel, 0);
            assert_eq!((found.state, found.outcome.message.as_str()), (state, message), "{class} {cancel:?}");
        };
        check(OutcomeClass::Succeeded, Some("enough"), JobState::Succeeded, "why");
        check(OutcomeClass::Backend, Some("enough"), JobState::Cancelled, "cancelled by request: enough");
        check(OutcomeClass::Released, Some(" "), JobState::Cancelled, "cancelled by request");
        check(OutcomeClass::LeaseLost, Some("enough"), JobState::Cancelled, "cancelled by request: enough");
        check(OutcomeClass::Cancelled, Some("enough"), JobState::Cancelled, "why");
        check(OutcomeClass::Backend, None, JobState::Queued, "why");
    }

    #[test]
    fn each_end_is_charged_once_to_what_caused_it() {
        let check = |class, attempts, resets| {
            let used = settled(class, None, 0).used;
            assert_eq!((used.attempts, used.resets), (attempts, resets), "{class}");
        };
        check(OutcomeClass::Succeeded, 1, 0);
        check(OutcomeClass::Backend, 1, 0);
        check(OutcomeClass::Infrastructure, 0, 1);
        check(OutcomeClass::LeaseLost, 0, 1);
        check(OutcomeClass::Released, 0, 0);
        let given_up = settled(OutcomeClass::LeaseLost, None, 2);
        assert_eq!(given_up.state, JobState::Failed);
        assert_eq!(given_up.outcome.message, "given up after 3 attempts that infrastructure failed; the last one: why");
    }
}
