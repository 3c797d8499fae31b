//! Taking back what ran out of its lease.
//!
//! The one rule: an expired claim is an attempt that infrastructure failed, so it burns nothing, but is not repeated for ever.
//! Any process may do this, and several at once: each takes rows that no other has locked.

use std::collections::BTreeSet;

use super::Store;
use super::db::{Lock, Tx};
use super::error::StoreError;
use super::fence::Held;
use super::line::Line;
use super::rows::number;
use super::settle::{AttemptEnd, close_attempt, settle, write_job};
use super::statement::args;
use super::types::Expired;
use crate::clock::Timestamp;
use crate::ids::{AttemptNo, CompletionId, JobId, WorkerId};
use crate::job::attempt::Resources;
use crate::job::{CompletionState, LogVerdict, Outcome, OutcomeClass};

const DUE: &str = "SELECT 1 AS due WHERE EXISTS (SELECT 1 FROM jobs WHERE lease_until <= $1) \
    OR EXISTS (SELECT 1 FROM completions WHERE lease_until <= $1)";
const EXPIRED_CLAIMS: &str = "SELECT j.id, j.attempt, j.worker, j.lease_until, j.cancel_reason, j.attempts_used, j.attempts_max, \
    j.resets FROM jobs j WHERE j.lease_until <= $1 ORDER BY j.lease_until LIMIT $2";
const LOG_BYTES: &str = "SELECT log_bytes FROM attempts WHERE job = $1 AND attempt = $2";
const EXPIRED_COMPLETIONS: &str = "SELECT j.id, j.repo, j.line, j.consumer, j.deliveries FROM completions j \
    WHERE j.lease_until <= $1 ORDER BY j.lease_until LIMIT $2";
const RETURN_COMPLETION: &str = "UPDATE completions SET state = $2, visible_at = $5, consumer = NULL, token = NULL, lease_until = NULL, \
    last_error = $3, ended_at = $4 WHERE id = $1 AND state = 'claimed'";
const CLOSE_STAGES: &str = "UPDATE attempt_stages SET ended_at = $3, outcome = $4 \
    WHERE job = $1 AND attempt = $2 AND ended_at IS NULL";

#[derive(sqlx::FromRow)]
struct Due {
    #[expect(dead_code, reason = "a row that is there says all")]
    due: i32,
}

#[derive(sqlx::FromRow)]
struct ExpiredClaim {
    id: uuid::Uuid,
    attempt: i64,
    worker: String,
    #[sqlx(flatten)]
    held: Held,
}

#[derive(sqlx::FromRow)]
struct LogBytes {
    log_bytes: i64,
}

#[derive(sqlx::FromRow)]
struct ExpiredCompletion {
    id: uuid::Uuid,
    repo: String,
    line: Option<String>,
    consumer: String,
    deliveries: i64,
}

impl Store {
    /// Takes back at most `limit` claims and `limit` completions whose leases have run out.
    ///
    /// The attempt ends as `lease_lost`; its log gets the verdict `gap n-n`, where n is its length so far: what the worker had
    /// not shipped by then is not known. The job waits for a retry (a reset), has failed where `retry.resets` are used up, or
    /// is cancelled where that had been asked for. A completion is pending again, or dead once it was handed out as often as
    /// is allowed.
    ///
    /// # Errors
    /// When the database cannot be asked; nothing has changed then.
    pub async fn expire_once(&self, limit: u32) -> Result<Vec<Expired>, StoreError> {
        let now = self.now();
        // Outside of a transaction: there is seldom something to do, and SQLite's writer is not to be bothered for nothing.
        if self.db().first::<Due>(DUE, args![now]).await?.is_none() {
            return Ok(Vec::new());
        }
        let mut tx = self.db().begin().await?;
        let mut expired = Vec::new();
        for row in tx.all_locked::<ExpiredClaim>(EXPIRED_CLAIMS, Lock::ChangeFree, args![now, limit]).await? {
            expired.push(self.expire_claim(&mut tx, row, now).await?);
        }
        let mut lines = BTreeSet::new();
        for row in tx.all_locked::<ExpiredCompletion>(EXPIRED_COMPLETIONS, Lock::ChangeFree, args![now, limit]).await? {
            lines.extend(row.line.clone().map(|name| Line { repo: row.repo.clone(), name }));
            expired.push(self.expire_completion(&mut tx, row, now).await?);
        }
        // In order, so that two who do this at once do not wait for each other in a circle.
        for line in &lines {
            self.arrange(&mut tx, line).await?;
        }
        if !expired.is_empty() {
            self.commit_change(tx).await?;
            self.inner.hinter.progressed();
        }
        Ok(expired)
    }

    async fn expire_claim(&self, tx: &mut Tx, row: ExpiredClaim, now: Timestamp) -> Result<Expired, StoreError> {
        let job = JobId::from_uuid(row.id);
        let what = || format!("job {job}");
        let attempt = AttemptNo(number(row.attempt, what)?);
        let late = Timestamp(row.held.lease_until);
        let message =
            format!("worker {} let its lease run out at {late}: it was killed, or cut off from the database", row.worker);
        let outcome = Outcome::new(OutcomeClass::LeaseLost, message);
        let settled = settle(&row.held, &outcome, &self.config().retry, now)?;
        write_job(tx, (job, attempt), &settled, None, now).await?;
        let log: Option<LogBytes> = tx.first(LOG_BYTES, args![job, attempt]).await?;
        let end = log.map_or(Ok(0), |log| number(log.log_bytes, what))?;
        let log = LogVerdict::Gap { from: end, to: end };
        let attempt_end = AttemptEnd { outcome: &outcome, resources: Resources::default(), salvage: None, log };
        close_attempt(tx, (job, attempt), attempt_end, now).await?;
        tx.run(CLOSE_STAGES, args![job, attempt, now, OutcomeClass::LeaseLost.as_str()]).await?;
        Ok(Expired::Claim { job, attempt, worker: WorkerId::new(row.worker), state: settled.state })
    }

    async fn expire_completion(&self, tx: &mut Tx, row: ExpiredCompletion, now: Timestamp) -> Result<Expired, StoreError> {
        let dead = row.deliveries >= i64::from(self.config().completion_deliveries);
        let state = if dead { CompletionState::Dead } else { CompletionState::Pending };
        let late = format!("consumer {} let its lease run out", row.consumer);
        let why = if dead { format!("given up after {} deliveries; the last one: {late}", row.deliveries) } else { late };
        tx.run(RETURN_COMPLETION, args![row.id, state.as_str(), &why, dead.then_some(now), (!dead).then_some(now)]).await?;
        Ok(Expired::Completion { id: CompletionId::from_uuid(row.id), consumer: row.consumer, state })
    }
}
