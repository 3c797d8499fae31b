//! Ending a job by request, and giving an ended one another chance.

use super::db::{Lock, Tx};
use super::dependencies::Needs;
use super::error::StoreError;
use super::rows::{number, parse};
use super::statement::args;
use super::types::Cancel;
use super::{Store, dependencies, jobs, turn};
use crate::ids::JobId;
use crate::job::{Job, JobState, Outcome, OutcomeClass};

const STATE: &str = "SELECT j.state, j.attempts_used, j.attempts_max FROM jobs j WHERE j.id = $1";
const CANCEL_QUEUED: &str = "UPDATE jobs SET state = 'cancelled', held = NULL, finished_at = $2, cancel_requested_at = $2, \
    cancel_reason = $3, outcome_class = $4, outcome_message = $5 WHERE id = $1 AND state = 'queued'";
const REQUEST: &str = "UPDATE jobs SET cancel_requested_at = $2, cancel_reason = $3 \
    WHERE id = $1 AND state = 'running' AND cancel_requested_at IS NULL";
const RETRY: &str = concat!(
    "UPDATE jobs SET state = 'queued', held = NULL, ready_at = $2, attempts_max = $3, resets = 0, start_by = NULL, \
     cancel_requested_at = NULL, cancel_reason = NULL, finished_at = NULL, commit_id = NULL, position = ",
    turn::back!(),
    " WHERE id = $1 AND state IN ('failed', 'cancelled')"
);

#[derive(sqlx::FromRow)]
struct StateRow {
    state: String,
    attempts_used: i64,
    attempts_max: i64,
}

/// What an end by request is called.
pub(super) fn cancelled(reason: &str) -> Outcome {
    let reason = reason.trim();
    let message = if reason.is_empty() { "cancelled by request".to_owned() } else { format!("cancelled by request: {reason}") };
    Outcome::new(OutcomeClass::Cancelled, message)
}

impl Store {
    /// Asks for the end of a job. One that waits ends at once; one that runs is ended by its worker, and ends as cancelled
    /// unless it succeeds first. Asking again changes nothing.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn cancel(&self, id: JobId, reason: &str) -> Result<Cancel, StoreError> {
        let mut tx = self.db().begin().await?;
        let result = self.cancel_within(&mut tx, id, reason).await;
        self.conclude(tx, result).await
    }

    async fn cancel_within(&self, tx: &mut Tx, id: JobId, reason: &str) -> Result<Cancel, StoreError> {
        let (state, _) = locked(tx, id).await?;
        let now = self.now();
        match state {
            JobState::Queued => {
                let outcome = cancelled(reason);
                tx.run(CANCEL_QUEUED, args![id, now, reason, outcome.class.as_str(), &outcome.message]).await?;
                dependencies::tell(tx, id, JobState::Cancelled, None, now).await?;
                Ok(Cancel::Done(jobs::get(tx, id).await?))
            }
            JobState::Running => {
                tx.run(REQUEST, args![id, now, reason]).await?;
                Ok(Cancel::Requested(jobs::get(tx, id).await?))
            }
            JobState::Succeeded | JobState::Failed | JobState::Cancelled => Ok(Cancel::AlreadyEnded(jobs::get(tx, id).await?)),
        }
    }

    /// Queues a failed or cancelled job again, with at least one more attempt than it has used and with no resets counted. It
    /// waits again for those of its dependencies that have been queued again.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::NotRetryable`] for a job in another state; [`StoreError::DependencyFailed`] when
    /// one that has to succeed first has not, and has ended.
    pub async fn retry(&self, id: JobId) -> Result<Job, StoreError> {
        let mut tx = self.db().begin().await?;
        let result = self.retry_within(&mut tx, id).await;
        self.conclude(tx, result).await
    }

    async fn retry_within(&self, tx: &mut Tx, id: JobId) -> Result<Job, StoreError> {
        let job = jobs::get(tx, id).await?;
        let needs = Needs::again(tx, &job).await?;
        let (state, attempts_max) = locked(tx, id).await?;
        if !matches!(state, JobState::Failed | JobState::Cancelled) {
            return Err(StoreError::NotRetryable { job: id, state });
        }
        if let Some(needs) = needs.failed {
            return Err(StoreError::DependencyFailed { job: id, needs });
        }
        tx.run(RETRY, args![id, self.now(), attempts_max]).await?;
        needs.hold_again(tx, id).await?;
        jobs::get(tx, id).await
    }
}

/// The job's state, which nobody else changes until the end of the transaction, and the attempts that a retry leaves it.
async fn locked(tx: &mut Tx, id: JobId) -> Result<(JobState, u32), StoreError> {
    let row: Option<StateRow> = tx.first_locked(STATE, Lock::Change, args![id]).await?;
    let row = row.ok_or_else(|| StoreError::not_found("job", id))?;
    let what = || format!("job {id}");
    Ok((parse(&row.state, what)?, number(row.attempts_max.max(row.attempts_used + 1), what)?))
}
