//! Handing out jobs.
//!
//! The one rule: a claim is one transaction in which the job's row passes from queued to running, gets a token that no other
//! claim shares, and an attempt row; so that a crash at any point leaves a job that waits or a claim that expires. Its cost
//! does not depend on how many jobs wait, are held back or have ended: `jobs_claim` is exactly its order.

use std::collections::BTreeSet;

use super::Store;
use super::db::{Lock, Tx};
use super::error::StoreError;
use super::rows::{ClaimedRow, job_columns};
use super::statement::{Arg, args, tuples};
use super::types::ClaimRequest;
use crate::clock::Timestamp;
use crate::ids::{ClaimToken, JobId, WorkerId};
use crate::job::ClaimedJob;

/// One arm for each backend: a list of backends in one condition would not be read in the order of the index.
const HEADS: &str = "SELECT backend, priority, id FROM jobs WHERE state = 'queued' AND held IS NULL AND backend = ";
const PICK: &str =
    "SELECT j.id FROM jobs j WHERE j.state = 'queued' AND j.held IS NULL AND j.backend = $1 ORDER BY j.priority, j.id LIMIT ";
/// The rows are locked, and a row without a token does not run. Naming state and `held` again would let PostgreSQL look for the
/// rows by walking all of `jobs_claim`.
const START: &str = " UPDATE jobs SET state = 'running', attempt = attempt + 1, worker = $1, started_at = coalesce(started_at, $2), \
    lease_until = $3, token = picked_token FROM picked WHERE id = picked_job AND token IS NULL";
const ADD_ATTEMPTS: &str =
    "INSERT INTO attempts (job, attempt, worker, started_at) SELECT id, attempt, worker, $1 FROM jobs WHERE id IN ";
const CLAIMED: &str = concat!(
    "SELECT ",
    job_columns!(),
    ", j.token, j.lease_until, c.started_at AS claimed_at, p.attempt AS previous_attempt, p.outcome_class AS previous_class, \
     p.outcome_message AS previous_message, p.salvage AS previous_salvage \
     FROM jobs j JOIN job_specs s ON s.job = j.id JOIN attempts c ON c.job = j.id AND c.attempt = j.attempt \
     LEFT JOIN attempts p ON p.job = j.id AND p.attempt = j.attempt - 1 WHERE "
);

/// At most so many in one call, however many slots are free.
const LIMIT_MAX: u32 = 256;

#[derive(sqlx::FromRow)]
struct Head {
    backend: String,
    priority: i64,
    id: uuid::Uuid,
}

#[derive(sqlx::FromRow)]
struct Picked {
    id: uuid::Uuid,
}

impl Store {
    /// Claims the most urgent jobs, of equally urgent ones the oldest, of the backends asked for.
    ///
    /// Cancelling: either nothing was claimed, or (while it was being committed) claims exist that nobody knows of until they
    /// expire; so this belongs into a task of its own.
    ///
    /// # Errors
    /// When the database cannot be asked; nothing is claimed then, or, where the answer to the commit was lost, it expires.
    pub async fn claim(&self, ask: &ClaimRequest) -> Result<Vec<ClaimedJob>, StoreError> {
        // Outside of a transaction, so that an idle worker takes no lock: on SQLite there is only one for all writers.
        let wanted = self.heads(ask).await?;
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let mut tx = self.db().begin().await?;
        let mut picked = Vec::new();
        for (backend, count) in wanted {
            // A literal limit: the planner has no generic plan for it that reads the whole table.
            let sql = format!("{PICK}{count}");
            picked.extend(tx.all_locked::<Picked>(&sql, Lock::ChangeFree, args![&backend]).await?);
        }
        if picked.is_empty() {
            return Ok(Vec::new());
        }
        let ids: Vec<JobId> = picked.into_iter().map(|row| JobId::from_uuid(row.id)).collect();
        let claimed = start(&mut tx, &ids, ask, self.now()).await?;
        tx.commit().await?;
        self.inner.hinter.progressed();
        Ok(claimed)
    }

    /// The claims that `worker` holds and that have not run out: what it takes up again after a restart.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn held_by(&self, worker: &WorkerId) -> Result<Vec<ClaimedJob>, StoreError> {
        let sql = format!("{CLAIMED} j.worker = $1 AND j.lease_until > $2 ORDER BY j.id");
        let rows: Vec<ClaimedRow> = self.db().all(&sql, args![worker, self.now()]).await?;
        rows.into_iter().map(ClaimedJob::try_from).collect()
    }

    /// How many jobs of which backend are the next ones. Others may take them first; then the ones after them are taken.
    async fn heads(&self, ask: &ClaimRequest) -> Result<Vec<(String, usize)>, StoreError> {
        let limit = ask.limit.min(LIMIT_MAX);
        let backends: BTreeSet<&String> = ask.backends.iter().collect();
        if limit == 0 || backends.is_empty() {
            return Ok(Vec::new());
        }
        let arm = |number| format!("SELECT * FROM ({HEADS}${number} ORDER BY priority, id LIMIT {limit}) AS h{number}");
        let arms: Vec<String> = (1..=backends.len()).map(arm).collect();
        let args: Vec<Arg> = backends.into_iter().map(Arg::from).collect();
        let mut heads: Vec<Head> = self.db().all(&arms.join(" UNION ALL "), args).await?;
        heads.sort_by_key(|head| (head.priority, head.id));
        let mut wanted: Vec<(String, usize)> = Vec::new();
        for head in heads.into_iter().take(limit as usize) {
            match wanted.iter_mut().find(|(backend, _)| *backend == head.backend) {
                Some((_, count)) => *count += 1,
                None => wanted.push((head.backend, 1)),
            }
        }
        Ok(wanted)
    }
}

/// Turns the picked rows, which nobody else can change, into claims.
async fn start(tx: &mut Tx, ids: &[JobId], ask: &ClaimRequest, now: Timestamp) -> Result<Vec<ClaimedJob>, StoreError> {
    let mut args = args![&ask.worker, now, now + ask.lease];
    args.extend(ids.iter().flat_map(|id| [Arg::from(*id), Arg::from(ClaimToken::generate())]));
    let sql = format!("WITH picked (picked_job, picked_token) AS (VALUES {}){START}", tuples(4, ids.len(), 2));
    let started = tx.run(&sql, args).await?;
    if started != ids.len() as u64 {
        return Err(StoreError::corrupt("the queue", format!("{started} of {} picked jobs could be started", ids.len())));
    }
    let listed = |first| tuples(first, 1, ids.len());
    let mut args = args![now];
    args.extend(ids.iter().copied().map(Arg::from));
    tx.run(&format!("{ADD_ATTEMPTS}{}", listed(2)), args).await?;
    let args = ids.iter().copied().map(Arg::from).collect();
    let sql = format!("{CLAIMED} j.id IN {} ORDER BY j.priority, j.id", listed(1));
    let rows: Vec<ClaimedRow> = tx.all(&sql, args).await?;
    rows.into_iter().map(ClaimedJob::try_from).collect()
}
