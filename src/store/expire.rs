//! Taking back what ran out of its lease.
//!
//! The one rule: an expired claim is an attempt that infrastructure failed, so it burns nothing, but is not repeated for ever.
//! Any process may do this, and several at once: each takes rows that no other has locked.

use std::collections::BTreeSet;
use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::error::StoreError;
use super::fence::Held;
use super::limits::{self, Limited, UnderLimits};
use super::line::Line;
use super::rows::{held_until, number};
use super::settle::{AttemptEnd, JobEnd, close_attempts, settle, write_jobs};
use super::statement::args;
use super::steps::{Seen, Steps};
use super::tx::{Lock, Tx};
use super::types::Expired;
use super::{Store, dependencies};
use crate::clock::{Timestamp, human};
use crate::ids::{AttemptNo, CompletionId, JobId, WorkerId};
use crate::job::attempt::Resources;
use crate::job::{CompletionState, LogVerdict, Outcome, OutcomeClass};

/// All that runs is looked at, which has a worker that is not called nothing: the ends of leases are in no index.
const DUE: &str = concat!(
    "SELECT 1 AS due WHERE EXISTS (SELECT 1 FROM jobs WHERE worker > '' AND lease_until <= $1) \
     OR EXISTS (SELECT 1 FROM jobs /*! INDEXED BY jobs_start_by */ WHERE state = 'queued' AND start_by <= $1) \
     OR EXISTS (SELECT 1 FROM jobs j WHERE j.held = 'answer' AND ",
    held_until!(),
    " AND j.ready_at <= $1) OR EXISTS (SELECT 1 FROM completions WHERE lease_until <= $1)"
);
const UNANSWERED: &str = concat!(
    "SELECT j.id, j.outcome_message FROM jobs j WHERE j.held = 'answer' AND ",
    held_until!(),
    " AND j.ready_at <= $1 ORDER BY j.ready_at LIMIT $2"
);
/// It may have been answered, or ended, before it was locked.
const END_UNANSWERED: &str = "UPDATE jobs SET state = 'failed', held = NULL, finished_at = $2, outcome_class = $3, outcome_message = $4 \
    WHERE id = $1 AND held = 'answer' AND ready_at <= $2";
const EXPIRED_CLAIMS: &str = "SELECT j.id, j.attempt, j.worker, j.lease_until, j.cancel_reason, j.attempts_used, j.attempts_max, \
    j.resets, j.needed, j.share, j.concurrency_key, j.concurrency_limit FROM jobs j \
    WHERE j.worker > '' AND j.lease_until <= $1 ORDER BY j.lease_until LIMIT $2";
const LOG_BYTES: &str = "SELECT log_bytes FROM attempts WHERE job = $1 AND attempt = $2";
const EXPIRED_COMPLETIONS: &str = "SELECT j.id, j.repo, j.line, j.consumer, j.deliveries FROM completions j \
    WHERE j.lease_until <= $1 ORDER BY j.lease_until LIMIT $2";
const RETURN_COMPLETION: &str = "UPDATE completions SET state = $2, visible_at = $5, consumer = NULL, token = NULL, lease_until = NULL, \
    last_error = $3, ended_at = $4 WHERE id = $1 AND state = 'claimed'";
const LATE: &str = "SELECT j.id, j.start_by, j.share, j.concurrency_key, j.concurrency_limit FROM jobs j \
    /*! INDEXED BY jobs_start_by */ WHERE j.state = 'queued' AND j.start_by <= $1 ORDER BY j.start_by LIMIT $2";
/// It may have started, or ended, before it was locked.
const END_LATE: &str = "UPDATE jobs SET state = 'failed', held = NULL, finished_at = $2, outcome_class = $3, outcome_message = $4 \
    WHERE id = $1 AND state = 'queued' AND start_by IS NOT NULL";

/// Late jobs in one transaction.
const LATE_MAX: u32 = 100;
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
struct Late {
    id: uuid::Uuid,
    start_by: i64,
    #[sqlx(flatten)]
    under: UnderLimits,
}

impl Limited for Late {
    fn under(&self) -> &UnderLimits {
        &self.under
    }
}

#[derive(sqlx::FromRow)]
struct Unanswered {
    id: uuid::Uuid,
    outcome_message: Option<String>,
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
    /// Fails at most `limit` jobs that had to start by now and have not, as many whose questions nobody has answered in time, and takes
    /// back at most `limit` claims and `limit` completions whose leases have run out.
    ///
    /// The attempt ends as `lease_lost`; its log gets the verdict `gap n-n`, where n is its length so far: what the worker had
    /// not shipped by then is not known. The job waits for a retry (a reset), has failed where `retry.resets` are used up, or
    /// is cancelled where that had been asked for. A completion is pending again, or dead once it was handed out as often as
    /// is allowed.
    ///
    /// Nothing expires on a server that was started less than `queue.lease` ago, nor by a process that could not reach it all that
    /// time (it may have recovered for long before it let anybody in): while it was down nobody could renew. Nor does anything for
    /// `queue.lease` after the clock by which leases run went ahead of the host's, which it does where the host of a file was suspended.
    ///
    /// # Errors
    /// When the database cannot be asked; nothing has changed then.
    pub async fn expire_once(&self, limit: u32) -> Result<Vec<Expired>, StoreError> {
        let seen = Seen::now(&self.inner.clock);
        let (now, may_expire) = (seen.clock, self.steps().may_expire(seen, self.config().lease));
        // Outside of a transaction: there is seldom something to do, and SQLite's writer is not to be bothered for nothing.
        let due = self.db().first::<Due>(DUE, args![now]).await;
        let reached = self.reached(due.is_ok());
        if due?.is_none() || !may_expire {
            return Ok(Vec::new());
        }
        if let Some(started) = self.db().started_at().await?
            && (now.since(started) < self.config().lease || reached < self.config().lease)
        {
            return Ok(Vec::new());
        }
        let mut tx = self.db().begin().await?;
        let mut expired = Vec::new();
        let claims: Vec<ExpiredClaim> = tx.all_locked(EXPIRED_CLAIMS, Lock::ChangeFree, args![now, limit]).await?;
        expired.extend(self.expire_claims(&mut tx, &claims, now).await?);
        if expired.is_empty() {
            tx.rollback().await
        } else {
            self.commit_change(tx).await?
        }
        expired.extend(self.expire_late(limit, now).await?);
        expired.extend(self.expire_unanswered(limit, now).await?);
        // By itself: who has a line must not wait for jobs.
        expired.extend(self.expire_completions(limit, now).await?);
        if !expired.is_empty() {
            self.inner.hinter.progressed();
        }
        Ok(expired)
    }

    fn steps(&self) -> MutexGuard<'_, Steps> {
        self.inner.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For how long the database has answered all questions of this kind, this one included.
    fn reached(&self, answered: bool) -> Duration {
        let mut since = self.inner.reached.lock().unwrap_or_else(PoisonError::into_inner);
        *since = answered.then(|| since.unwrap_or_else(Instant::now));
        since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    async fn expire_claims(&self, tx: &mut Tx, rows: &[ExpiredClaim], now: Timestamp) -> Result<Vec<Expired>, StoreError> {
        let mut settled = Vec::new();
        for row in rows {
            let late = Timestamp(row.held.lease_until);
            let message =
                format!("worker {} let its lease run out at {late}: it was killed, or cut off from the database", row.worker);
            let outcome = Outcome::new(OutcomeClass::LeaseLost, message);
            let attempt = AttemptNo(number(row.attempt, || format!("job {}", row.id))?);
            settled.push((row, attempt, settle(&row.held, &outcome, &self.config().retry, now)?, outcome));
        }
        let ends: Vec<JobEnd<'_>> = settled
            .iter()
            .map(|(row, attempt, settled, _)| JobEnd {
                job: JobId::from_uuid(row.id),
                attempt: *attempt,
                before: &row.held,
                settled,
                commit: None,
            })
            .collect();
        write_jobs(tx, &ends, now).await?;
        let mut expired = Vec::new();
        for (row, attempt, settled, outcome) in &settled {
            let job = JobId::from_uuid(row.id);
            close_lost(tx, job, *attempt, outcome, now).await?;
            let worker = WorkerId::new(row.worker.as_str());
            expired.push(Expired::Claim { job, attempt: *attempt, worker, state: settled.state });
        }
        Ok(expired)
    }

    /// Fails jobs that have not started in time. A transaction of its own, because it locks them with those that wait for them, in
    /// order.
    async fn expire_late(&self, limit: u32, now: Timestamp) -> Result<Vec<Expired>, StoreError> {
        let late: Vec<Late> = self.db().all(LATE, args![now, limit.min(LATE_MAX)]).await?;
        if late.is_empty() {
            return Ok(Vec::new());
        }
        let mut tx = self.db().begin().await?;
        let result = expire_late_within(&mut tx, &late, now).await;
        self.conclude(tx, result).await
    }

    /// Fails jobs whose questions nobody has answered in time.
    async fn expire_unanswered(&self, limit: u32, now: Timestamp) -> Result<Vec<Expired>, StoreError> {
        let waited: Vec<Unanswered> = self.db().all(UNANSWERED, args![now, limit.min(LATE_MAX)]).await?;
        if waited.is_empty() {
            return Ok(Vec::new());
        }
        let within = human::format(self.config().answer_within);
        let mut tx = self.db().begin().await?;
        let result = expire_unanswered_within(&mut tx, &waited, &within, now).await;
        self.conclude(tx, result).await
    }

    async fn expire_completions(&self, limit: u32, now: Timestamp) -> Result<Vec<Expired>, StoreError> {
        let mut tx = self.db().begin().await?;
        let (mut expired, mut lines) = (Vec::new(), BTreeSet::new());
        for row in tx.all_locked::<ExpiredCompletion>(EXPIRED_COMPLETIONS, Lock::ChangeFree, args![now, limit]).await? {
            lines.extend(row.line.clone().map(|name| Line { repo: row.repo.clone(), name }));
            expired.push(self.expire_completion(&mut tx, row, now).await?);
        }
        // In order, so that two who do this at once do not wait for each other in a circle.
        for line in &lines {
            self.arrange(&mut tx, line).await?;
        }
        if expired.is_empty() {
            tx.rollback().await
        } else {
            self.commit_change(tx).await?
        }
        Ok(expired)
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

/// Closes the attempt of a claim that ran out.
async fn close_lost(tx: &mut Tx, job: JobId, attempt: AttemptNo, outcome: &Outcome, now: Timestamp) -> Result<(), StoreError> {
    let log: Option<LogBytes> = tx.first(LOG_BYTES, args![job, attempt]).await?;
    let end = log.map_or(Ok(0), |log| number(log.log_bytes, || format!("job {job}")))?;
    let log = LogVerdict::Gap { from: end, to: end };
    let end = AttemptEnd { job, attempt, outcome, resources: Resources::default(), salvage: None, log };
    close_attempts(tx, &[end], now).await?;
    tx.run(CLOSE_STAGES, args![job, attempt, now, OutcomeClass::LeaseLost.as_str()]).await.map(drop)
}

async fn expire_unanswered_within(
    tx: &mut Tx,
    waited: &[Unanswered],
    within: &str,
    now: Timestamp,
) -> Result<Vec<Expired>, StoreError> {
    dependencies::lock_with_waiting(tx, &waited.iter().map(|row| JobId::from_uuid(row.id)).collect::<Vec<_>>()).await?;
    let (mut expired, mut ended) = (Vec::new(), Vec::new());
    for row in waited {
        let job = JobId::from_uuid(row.id);
        let question = row.outcome_message.as_deref().unwrap_or_default();
        let message = format!("nobody answered within {within}: {question}");
        if tx.run(END_UNANSWERED, args![job, now, OutcomeClass::Clarification.as_str(), &message]).await? == 1 {
            expired.push(Expired::Question { job });
            ended.push(job);
        }
    }
    dependencies::tell_failed(tx, &ended, now).await?;
    Ok(expired)
}

async fn expire_late_within(tx: &mut Tx, late: &[Late], now: Timestamp) -> Result<Vec<Expired>, StoreError> {
    dependencies::lock_with_waiting(tx, &late.iter().map(|row| JobId::from_uuid(row.id)).collect::<Vec<_>>()).await?;
    let (mut expired, mut ended) = (Vec::new(), Vec::new());
    for row in late {
        let job = JobId::from_uuid(row.id);
        let message = format!("it had to start by {} and had not", Timestamp(row.start_by));
        if tx.run(END_LATE, args![job, now, OutcomeClass::Expired.as_str(), &message]).await? == 1 {
            expired.push(Expired::Start { job });
            ended.push(row);
        }
    }
    dependencies::tell_failed(tx, &ended.iter().map(|row| JobId::from_uuid(row.id)).collect::<Vec<_>>(), now).await?;
    // Any of them may have come back for the room of a limit, also since it was looked for.
    limits::let_back(tx, &ended).await?;
    Ok(expired)
}
