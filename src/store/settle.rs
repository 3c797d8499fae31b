//! What an attempt's end makes of its job: the retry policy's answer, a request to cancel, and what is counted.

use super::dependencies::Ended;
use super::error::StoreError;
use super::fence::Held;
use super::outbox::add_ends;
use super::rows::number;
use super::statement::{args, tuples};
use super::tx::Tx;
use super::verdict::cancelled;
use super::{dependencies, limits, turn};
use crate::clock::Timestamp;
use crate::ids::{AttemptNo, JobId, ObjectId};
use crate::job::attempt::Resources;
use crate::job::retry::{Charge, Used, charge};
use crate::job::{Hold, JobState, LogVerdict, NextStep, Outcome, OutcomeClass, RetryPolicy};

/// A job after an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Settled {
    pub(super) state: JobState,
    /// When it may be claimed again.
    pub(super) ready_at: Option<Timestamp>,
    pub(super) used: Used,
    pub(super) outcome: Outcome,
}

impl Settled {
    /// Whether the job waits for an answer.
    pub(super) fn asks(&self) -> bool {
        self.state == JobState::Queued && self.outcome.class == OutcomeClass::Clarification
    }
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
        NextStep::Ask => Settled { state: JobState::Queued, ready_at: None, used, outcome: outcome.clone() },
        NextStep::End(state) if charge(outcome.class) == Charge::Reset => ended(state, poison(outcome, used.resets)),
        NextStep::End(state) => ended(state, outcome.clone()),
    })
}

/// The end of a job that took its worker down, or found it broken, as often as is allowed.
fn poison(outcome: &Outcome, times: u32) -> Outcome {
    let message = format!("given up after {times} attempts that infrastructure failed; the last one: {}", outcome.message);
    Outcome::new(outcome.class, message)
}

/// A job with what becomes of it; the rows are named so that none of them is a column of `jobs`.
const SET_JOBS: &str = concat!(
    " UPDATE jobs /*! INDEXED BY sqlite_autoindex_jobs_1 */ SET state = to_state, held = to_held, ready_at = coalesce(to_ready, ready_at), attempts_used = to_used, \
     resets = to_resets, outcome_class = to_class, outcome_message = to_message, commit_id = to_commit, finished_at = to_finished, \
     worker = NULL, token = NULL, lease_until = NULL, requeue_requested_at = NULL, requeue_reason = NULL, \
     position = CASE WHEN to_state = 'queued' THEN ",
    turn::back!(),
    " ELSE jobs.position END FROM ends WHERE id = of_job AND attempt = of_attempt AND token IS NOT NULL"
);
const CLOSE_ATTEMPTS: &str = " UPDATE attempts /*! INDEXED BY sqlite_autoindex_attempts_1 */ SET ended_at = to_ended, outcome_class = to_class, outcome_message = to_message, \
    exit_code = to_code, signal = to_signal, peak_memory_bytes = to_memory, cpu_ms = to_cpu, salvage = to_salvage, \
    log_verdict = to_verdict FROM ends WHERE job = of_job AND attempt = of_attempt AND ended_at IS NULL";

/// Rows in one statement: well below the number of placeholders that either database takes.
const BATCH: usize = 100;

/// A running job, whose row this transaction has locked, and what becomes of it.
pub(super) struct JobEnd<'a> {
    pub(super) job: JobId,
    pub(super) attempt: AttemptNo,
    pub(super) before: &'a Held,
    pub(super) settled: &'a Settled,
    /// What it delivered.
    pub(super) commit: Option<&'a ObjectId>,
}

impl JobEnd<'_> {
    fn commit(&self) -> Option<&ObjectId> {
        self.commit.filter(|_| self.settled.state == JobState::Succeeded)
    }
}

/// Gives running jobs their next states, tells those that waited for them, and lets back what limits held for their sake. Ends go
/// into the outbox. Once in a transaction, and after all other rows that it waits for (see [`limits::let_back`]).
pub(super) async fn write_jobs(tx: &mut Tx, ends: &[JobEnd<'_>], now: Timestamp) -> Result<(), StoreError> {
    for batch in ends.chunks(BATCH) {
        let rows = batch.iter().flat_map(|end| {
            let settled = end.settled;
            let held = match settled.ready_at {
                _ if settled.asks() => Some(Hold::Answer),
                Some(ready_at) if ready_at > now => Some(Hold::Backoff),
                _ => None,
            };
            let held = held.map(Hold::as_str);
            args![
                end.job,
                end.attempt,
                settled.state.as_str(),
                held,
                settled.ready_at,
                settled.used.attempts,
                settled.used.resets,
                settled.outcome.class.as_str(),
                &settled.outcome.message,
                end.commit(),
                settled.state.is_final().then_some(now),
            ]
        });
        let sql = format!(
            "WITH ends (of_job, of_attempt, to_state, to_held, to_ready, to_used, to_resets, to_class, to_message, to_commit, \
             to_finished) AS (VALUES {}){SET_JOBS}",
            tuples(1, batch.len(), 11)
        );
        if tx.run(&sql, rows.collect()).await? != batch.len() as u64 {
            return Err(StoreError::corrupt("a running job", "its row is locked, and it does not run"));
        }
    }
    let of = |end: &JobEnd<'_>| (end.job, Some(end.attempt), end.settled.state);
    add_ends(tx, &ends.iter().filter(|end| end.settled.state.is_final()).map(of).collect::<Vec<_>>(), now).await?;
    let needed: Vec<&JobEnd<'_>> = ends.iter().filter(|end| end.settled.state.is_final() && end.before.needed == 1).collect();
    // A single success concerns those only that wait for it.
    if needed.len() > 1 || needed.iter().any(|end| end.settled.state != JobState::Succeeded) {
        dependencies::lock_with_waiting(tx, &needed.iter().map(|end| end.job).collect::<Vec<_>>()).await?;
    }
    let needed = needed.into_iter().map(|end| Ended { job: end.job, state: end.settled.state, commit: end.commit() });
    dependencies::tell(tx, &needed.collect::<Vec<_>>(), now).await?;
    let ended: Vec<&Held> = ends.iter().map(|end| end.before).collect();
    limits::let_back(tx, &ended).await
}

/// How an attempt ended, for its own row.
pub(super) struct AttemptEnd<'a> {
    pub(super) job: JobId,
    pub(super) attempt: AttemptNo,
    pub(super) outcome: &'a Outcome,
    pub(super) resources: Resources,
    pub(super) salvage: Option<&'a ObjectId>,
    pub(super) log: LogVerdict,
}

/// How complete an attempt's log is, as it is put on record.
pub(super) fn log_verdict(job: JobId, attempt: AttemptNo, log: LogVerdict) -> Result<String, StoreError> {
    serde_json::to_string(&log).map_err(|error| StoreError::corrupt(format!("attempt {attempt} of job {job}"), error))
}

/// Closes the rows of attempts.
pub(super) async fn close_attempts(tx: &mut Tx, ends: &[AttemptEnd<'_>], now: Timestamp) -> Result<(), StoreError> {
    for batch in ends.chunks(BATCH) {
        let mut rows = Vec::new();
        for end in batch {
            let verdict = log_verdict(end.job, end.attempt, end.log)?;
            rows.extend(args![
                end.job,
                end.attempt,
                now,
                end.outcome.class.as_str(),
                &end.outcome.message,
                end.resources.exit_code,
                end.resources.signal,
                end.resources.peak_memory_bytes,
                end.resources.cpu_ms,
                end.salvage,
                &verdict,
            ]);
        }
        let sql = format!(
            "WITH ends (of_job, of_attempt, to_ended, to_class, to_message, to_code, to_signal, to_memory, to_cpu, to_salvage, \
             to_verdict) AS (VALUES {}){CLOSE_ATTEMPTS}",
            tuples(1, batch.len(), 11)
        );
        if tx.run(&sql, rows).await? != batch.len() as u64 {
            return Err(StoreError::corrupt("an attempt", "its job runs, and it has ended"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::limits::UnderLimits;
    use super::*;

    const POLICY: RetryPolicy =
        RetryPolicy { attempts: 1, resets: 2, backoff: Duration::from_secs(10), backoff_max: Duration::from_secs(60) };

    fn settled(class: OutcomeClass, cancel: Option<&str>, resets: i64) -> Settled {
        let held = Held {
            lease_until: 0,
            cancel_reason: cancel.map(str::to_owned),
            attempts_used: 0,
            attempts_max: 2,
            resets,
            needed: 0,
            under: UnderLimits::default(),
        };
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
