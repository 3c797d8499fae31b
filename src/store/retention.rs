//! Removing what has ended long ago: jobs with all that is on record of them, and workers that are no more.
//!
//! The one rule: a batch is small, a transaction of its own, and locks only rows that have ended; so no claim waits for it for
//! longer than for any other write, and being killed at any moment costs one batch. One process at a time does it: each batch
//! takes the duty again, or learns that another has it. Nothing goes that somebody may still want: see [`WANTED`].

use std::collections::HashSet;
use std::time::Duration;

use uuid::Uuid;

use super::error::StoreError;
use super::statement::{Arg, args, tuples};
use super::tx::{Lock, Tx};
use super::{Store, duty};
use crate::clock::Timestamp;

/// Along `jobs_finished`, from where the sweep has come to.
const ENDED: &str = "SELECT j.id, j.finished_at FROM jobs j \
    WHERE j.finished_at <= $1 AND (j.finished_at, j.id) > ($2, $3) ORDER BY j.finished_at, j.id LIMIT ";
/// The jobs among those listed that are to stay: a completion of theirs is not done with, or not for long enough. What else is
/// to keep a job (others that wait for it, say) goes here, as one more arm; whoever makes such a reason locks the job's row
/// (`FOR SHARE`, or more) before, and so either finds the job gone or is seen here.
const WANTED: &str = "SELECT DISTINCT c.job FROM completions c WHERE (c.ended_at IS NULL OR c.ended_at > $1) AND c.job IN ";
const CHUNKS: &str = "SELECT a.job, CAST(sum(a.log_next_seq) AS BIGINT) AS chunks FROM attempts a WHERE a.job IN ";
const TRIM_LOG: &str = "DELETE FROM log_chunks WHERE (job, attempt, seq) IN \
    (SELECT job, attempt, seq FROM log_chunks WHERE job = $1 ORDER BY job, attempt, seq LIMIT $2)";
/// Document, attempts, stages, logs, completions and events go with it.
const REMOVE: &str = "DELETE FROM jobs WHERE token IS NULL AND id IN ";
/// Whatever they said last: they have not said anything for so long. A drain stands for when they come back.
const REMOVE_WORKERS: &str = "DELETE FROM workers WHERE seen_at <= $1 AND drain_asked_at IS NULL \
    AND NOT EXISTS (SELECT 1 FROM jobs WHERE jobs.worker = workers.id)";

/// Jobs looked at in one batch.
const BATCH: usize = 50;
/// Pieces of log removed in one batch.
const BATCH_CHUNKS: i64 = 400;
/// How long the duty stays with a process that says no more.
const DUTY: Duration = Duration::from_secs(30);

#[derive(Debug, sqlx::FromRow)]
struct Ended {
    id: Uuid,
    finished_at: i64,
}

#[derive(sqlx::FromRow)]
struct Wanted {
    job: Uuid,
}

#[derive(sqlx::FromRow)]
struct Chunks {
    job: Uuid,
    chunks: i64,
}

/// One walk through what has ended, oldest first.
#[derive(Debug, Clone)]
pub struct Sweep {
    holder: Uuid,
    /// What ended until then goes.
    until: Timestamp,
    /// The last job looked at.
    after: (i64, Uuid),
}

/// What one batch of a sweep came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swept {
    /// So many jobs were removed, and there may be more.
    Some(u64),
    /// The sweep is over: nothing is left that may go.
    All,
    /// Another process has this duty at the moment.
    NotOurs,
}

impl Store {
    /// Begins a walk through what ended longer than `age` ago. Nothing is removed yet.
    #[must_use]
    pub fn sweep(&self, age: Duration) -> Sweep {
        Sweep { holder: self.inner.process, until: self.now() - age, after: (i64::MIN, Uuid::nil()) }
    }

    /// Removes the next few jobs of a sweep. Of one with a long log first only pieces of that go: a job whose removal was cut
    /// short has lost the beginning of its log, and goes with the next sweep.
    ///
    /// # Errors
    /// When the database cannot be asked; nothing has changed then, and the same call can be made again.
    pub async fn sweep_once(&self, sweep: &mut Sweep) -> Result<Swept, StoreError> {
        let sql = format!("{ENDED}{BATCH}");
        let from = |sweep: &Sweep| args![sweep.until, sweep.after.0, sweep.after.1];
        // Outside of a transaction: there is seldom something to do, and SQLite's writer is not to be bothered for nothing.
        let over = self.db().first::<Ended>(&sql, from(sweep)).await?.is_none();
        let mut tx = self.db().begin().await?;
        let now = self.now();
        if !duty::take(&mut tx, duty::RETENTION, sweep.holder, DUTY, now).await? {
            tx.rollback().await;
            return Ok(Swept::NotOurs);
        }
        if over {
            tx.run(REMOVE_WORKERS, args![sweep.until]).await?;
            tx.commit().await?;
            return Ok(Swept::All);
        }
        let ended: Vec<Ended> = tx.all_locked(&sql, Lock::ChangeFree, from(sweep)).await?;
        let (removed, after) = remove(&mut tx, ended, sweep).await?;
        tx.commit().await?;
        sweep.after = after;
        self.inner.hinter.progressed();
        Ok(Swept::Some(removed))
    }
}

/// Removes those of the jobs, which are locked, that nobody may want, up to a limited length of log. Says how many went, and
/// which was the last one dealt with.
async fn remove(tx: &mut Tx, ended: Vec<Ended>, sweep: &Sweep) -> Result<(u64, (i64, Uuid)), StoreError> {
    let Some(last) = ended.last() else {
        // All of them are locked by somebody: they have their turn in the next sweep, and this one is over.
        return Ok((0, (sweep.until.0, Uuid::max())));
    };
    let mut after = (last.finished_at, last.id);
    let ids = || ended.iter().map(|job| Arg::from(job.id));
    let mut args = args![sweep.until];
    args.extend(ids());
    // After the rows are locked: what is a reason by now is seen, and no further one can come.
    let wanted: Vec<Wanted> = tx.all(&format!("{WANTED}{}", tuples(2, 1, ended.len())), args).await?;
    let wanted: HashSet<Uuid> = wanted.into_iter().map(|row| row.job).collect();
    let sql = format!("{CHUNKS}{} GROUP BY a.job", tuples(1, 1, ended.len()));
    let chunks: Vec<Chunks> = tx.all(&sql, ids().collect()).await?;
    let chunks_of = |id: Uuid| chunks.iter().find(|row| row.job == id).map_or(0, |row| row.chunks);

    let mut going = Vec::new();
    let mut room = BATCH_CHUNKS;
    for job in ended.iter().filter(|job| !wanted.contains(&job.id)) {
        let long = chunks_of(job.id);
        if long > room && going.is_empty() {
            let trimmed = tx.run(TRIM_LOG, args![job.id, BATCH_CHUNKS]).await?;
            if trimmed >= BATCH_CHUNKS.unsigned_abs() {
                return Ok((0, sweep.after));
            }
            room = 0;
        } else if long > room {
            break;
        } else {
            room -= long;
        }
        going.push(job.id);
        after = (job.finished_at, job.id);
    }
    if ended.iter().all(|job| wanted.contains(&job.id) || going.contains(&job.id)) {
        after = (last.finished_at, last.id);
    }
    if going.is_empty() {
        return Ok((0, after));
    }
    let sql = format!("{REMOVE}{}", tuples(1, 1, going.len()));
    let removed = tx.run(&sql, going.iter().copied().map(Arg::from).collect()).await?;
    Ok((removed, after))
}
