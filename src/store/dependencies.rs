//! Jobs that wait for the end of others.
//!
//! The one rule: what an end means for those that wait for it is written in the transaction of that end. A job can only wait for
//! jobs that were there before it, so there are no circles, and everybody locks in the direction of the waiting.

use std::collections::BTreeSet;

use super::error::StoreError;
use super::outbox::add_ends;
use super::rows::parse;
use super::statement::{Arg, args, tuples};
use super::turn;
use super::tx::{Lock, Tx};
use super::types::NewJob;
use crate::clock::Timestamp;
use crate::ids::{JobId, ObjectId};
use crate::job::{AfterFailure, Hold, Job, JobSpec, JobState, OutcomeClass};

const NEEDED: &str = "SELECT j.state, j.repo, j.commit_id, j.base FROM jobs j WHERE j.id = $1";
const DOCUMENT: &str = "SELECT s.document FROM job_specs s WHERE s.job = $1";
const MARK_NEEDED: &str = "UPDATE jobs SET needed = 1 WHERE id = $1 AND needed = 0";
const PUT: &str = "INSERT INTO dependencies (job, needs, cascade, gives_base, met) VALUES ($1, $2, $3, $4, $5) \
    ON CONFLICT (job, needs) DO UPDATE SET met = excluded.met";
const HOLD_AGAIN: &str = "UPDATE jobs SET held = $2, base = coalesce($3, base) WHERE id = $1 AND state = 'queued'";
/// Those that wait for some, each with the one that it waits for.
const WAITING: (&str, &str) = (
    "SELECT j.id, d.needs, d.gives_base FROM dependencies d /*! CROSS */ JOIN jobs j ON j.id = d.job \
     WHERE d.met = 0 AND j.held = 'dependency' AND d.needs IN ",
    " ORDER BY j.id",
);
/// Those that end because some have ended without success, and because these do, each with the one for whose sake.
const CASCADE: (&str, &str) = (
    "WITH RECURSIVE ending (id, needs) AS (SELECT d.job, d.needs FROM dependencies d /*! CROSS */ JOIN jobs j ON j.id = d.job \
     WHERE d.met = 0 AND d.cascade = 1 AND j.held = 'dependency' AND d.needs IN ",
    " UNION SELECT d.job, d.needs FROM ending /*! CROSS */ JOIN dependencies d ON d.needs = ending.id \
     /*! CROSS */ JOIN jobs j ON j.id = d.job WHERE d.met = 0 AND d.cascade = 1 AND j.held = 'dependency') SELECT id, needs FROM ending",
);
/// All that wait for some, and that wait for those.
const REACHED: (&str, &str) = (
    "WITH RECURSIVE reached (id) AS (SELECT d.job FROM dependencies d WHERE d.met = 0 AND d.needs IN ",
    " UNION SELECT d.job FROM reached r JOIN dependencies d ON d.needs = r.id WHERE d.met = 0) SELECT id FROM reached",
);
const LOCK: &str = "SELECT j.id FROM jobs j WHERE j.id IN ";
const MET: &str = "UPDATE dependencies SET met = 1 WHERE met = 0 AND needs IN ";
const GIVE_BASE: &str = "UPDATE jobs SET base = $2 WHERE held = 'dependency' \
    AND id IN (SELECT d.job FROM dependencies d WHERE d.needs = $1 AND d.gives_base = 1)";
/// One without a `run_at` was ready when it came, also where who enqueued it makes the clock some milliseconds later than who lets it go.
const RELEASE: &str = concat!(
    "UPDATE jobs SET held = CASE WHEN ready_at > $1 AND ready_at > created_at THEN 'scheduled' END, position = ",
    turn::back!(),
    " WHERE held = 'dependency' AND NOT EXISTS (SELECT 1 FROM dependencies d WHERE d.job = jobs.id AND d.met = 0) AND id IN "
);
/// A job with the sentence of its end.
const END: &str = " UPDATE jobs /*! INDEXED BY sqlite_autoindex_jobs_1 */ SET state = 'cancelled', held = NULL, finished_at = $1, outcome_class = $2, \
    outcome_message = to_message FROM ends WHERE id = of_job AND held = 'dependency' RETURNING id";

/// Ids in one statement.
const BATCH: usize = 100;

#[derive(sqlx::FromRow)]
struct NeededRow {
    state: String,
    repo: String,
    commit_id: Option<String>,
    base: String,
}

#[derive(sqlx::FromRow)]
struct Waiting {
    id: uuid::Uuid,
    needs: uuid::Uuid,
    gives_base: i64,
}

#[derive(sqlx::FromRow)]
struct Ending {
    id: uuid::Uuid,
    needs: uuid::Uuid,
}

#[derive(sqlx::FromRow)]
struct Reached {
    id: uuid::Uuid,
}

#[derive(sqlx::FromRow)]
struct Document {
    document: String,
}

/// One that a job waits for.
struct Need {
    job: JobId,
    gives_base: bool,
    /// Whether there is nothing left to wait for.
    met: bool,
}

/// What a job that is queued, or queued again, finds of those that it waits for.
pub(super) struct Needs {
    list: Vec<Need>,
    cascade: bool,
    /// One that is not there.
    missing: Option<JobId>,
    /// The commit that it starts from, where that is known already.
    pub(super) base: Option<String>,
    /// One that has failed already, where that ends this one too.
    pub(super) failed: Option<JobId>,
}

impl Needs {
    /// Whether there is something left to wait for.
    pub(super) fn hold(&self) -> bool {
        self.list.iter().any(|need| !need.met)
    }

    /// What a job finds that waits for nobody.
    pub(super) const fn nothing() -> Self {
        Self { list: Vec::new(), cascade: true, missing: None, base: None, failed: None }
    }

    /// Looks at what `new` waits for, and keeps it from ending unnoticed until the end of the transaction.
    pub(super) async fn of(tx: &mut Tx, new: &NewJob) -> Result<Self, StoreError> {
        let needs = Self::look(tx, &new.spec, &new.repo).await?;
        needs.missing.map_or(Ok(needs), |job| Err(StoreError::NoSuchDependency(job)))
    }

    /// Looks again at what `job` waits for that is to be queued again: another end of one of those may have come, or be to come.
    ///
    /// To be called before the job itself is locked, because whoever ends one of those locks in that order.
    pub(super) async fn again(tx: &mut Tx, job: &Job) -> Result<Self, StoreError> {
        let mut needs = Self::look(tx, &job.spec, &job.repo).await?;
        if job.attempt.is_none() && (needs.cascade || needs.missing == job.spec.base_from) {
            // It was never let go, and how the one that is gone ended is not on record.
            needs.failed = needs.failed.or(needs.missing);
        }
        Ok(needs)
    }

    async fn look(tx: &mut Tx, spec: &JobSpec, repo: &str) -> Result<Self, StoreError> {
        let cascade = spec.after_failure == AfterFailure::Cascade;
        let mut needs = Self { list: Vec::new(), cascade, missing: None, base: None, failed: None };
        let all: BTreeSet<JobId> = spec.after.iter().chain(&spec.base_from).copied().collect();
        for job in all {
            let row: Option<NeededRow> = tx.first_locked(NEEDED, Lock::Change, args![job]).await?;
            let Some(row) = row else {
                needs.missing.get_or_insert(job);
                continue;
            };
            let state: JobState = parse(&row.state, || format!("job {job}"))?;
            let gives_base = spec.base_from == Some(job);
            if gives_base && row.repo != repo {
                return Err(StoreError::ForeignBase { job, repo: row.repo });
            }
            // One that has delivered no change gives what it started from.
            if gives_base && (row.commit_id.is_some() || !state.is_final()) && !pushes(tx, job).await? {
                return Err(StoreError::UnpushedBase(job));
            }
            if gives_base && state == JobState::Succeeded {
                // One that succeeded without a change delivers what it started from.
                needs.base = Some(row.commit_id.unwrap_or(row.base));
            }
            if matches!(state, JobState::Failed | JobState::Cancelled) && (cascade || gives_base) {
                needs.failed.get_or_insert(job);
            }
            if !state.is_final() {
                tx.run(MARK_NEEDED, args![job]).await?;
            }
            needs.list.push(Need { job, gives_base, met: state.is_final() });
        }
        Ok(needs)
    }

    pub(super) async fn write(&self, tx: &mut Tx, job: JobId) -> Result<(), StoreError> {
        for need in &self.list {
            let flag = |is: bool| i64::from(is);
            let cascade = flag(self.cascade || need.gives_base);
            tx.run(PUT, args![job, need.job, cascade, flag(need.gives_base), flag(need.met)]).await?;
        }
        Ok(())
    }

    /// Has `job`, which this transaction has queued again, wait again for those that have not ended, and start from the commit
    /// that it is to start from.
    pub(super) async fn hold_again(&self, tx: &mut Tx, job: JobId) -> Result<(), StoreError> {
        if self.list.is_empty() {
            return Ok(());
        }
        self.write(tx, job).await?;
        let held = self.hold().then(|| Hold::Dependency.as_str());
        tx.run(HOLD_AGAIN, args![job, held, self.base.as_deref()]).await.map(drop)
    }
}

/// Whether what a job delivers is pushed.
async fn pushes(tx: &mut Tx, job: JobId) -> Result<bool, StoreError> {
    let Some(Document { document }) = tx.first(DOCUMENT, args![job]).await? else { return Ok(true) };
    let spec: JobSpec = serde_json::from_str(&document).map_err(|error| StoreError::corrupt(format!("job {job}"), error))?;
    Ok(spec.deliver.push)
}

/// The sentence of a job that ends because another did.
pub(super) fn outcome_of(needs: JobId) -> (OutcomeClass, String) {
    (OutcomeClass::Dependency, format!("job {needs}, which it waits for, did not succeed"))
}

/// Locks jobs that end, or may, and all whom that may concern, in the one order in which everybody locks several jobs; so cascades
/// that meet do not wait for each other in a circle.
pub(super) async fn lock_with_waiting(tx: &mut Tx, ends: &[JobId]) -> Result<(), StoreError> {
    let listed = |ids: &[JobId]| ids.iter().copied().map(Arg::from).collect();
    let sql = format!("{}{}{}", REACHED.0, tuples(1, 1, ends.len()), REACHED.1);
    let reached: Vec<Reached> = tx.all(&sql, listed(ends)).await?;
    let all: BTreeSet<JobId> = reached.into_iter().map(|row| JobId::from_uuid(row.id)).chain(ends.iter().copied()).collect();
    for batch in all.into_iter().collect::<Vec<_>>().chunks(BATCH) {
        let sql = format!("{LOCK}{} ORDER BY j.id", tuples(1, 1, batch.len()));
        tx.all_locked::<Reached>(&sql, Lock::Change, listed(batch)).await?;
    }
    Ok(())
}

/// A job that has ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ended<'a> {
    pub(super) job: JobId,
    pub(super) state: JobState,
    /// What it delivered.
    pub(super) commit: Option<&'a ObjectId>,
}

impl Ended<'_> {
    fn without_success(jobs: &[JobId], state: JobState) -> Vec<Self> {
        jobs.iter().map(|job| Self { job: *job, state, commit: None }).collect()
    }
}

/// Tells those that wait for `ended` of these ends, which this transaction has written. Several, or one that is no success, are locked
/// before with all whom they may concern (see [`lock_with_waiting`]).
///
/// However many end because others did, and in however long chains: each statement is for as many as it takes.
pub(super) async fn tell(tx: &mut Tx, ended: &[Ended<'_>], now: Timestamp) -> Result<(), StoreError> {
    let mut over = cascade(tx, ended, now).await?;
    over.extend(ended.iter().map(|end| end.job));
    for batch in over.chunks(BATCH) {
        let needs = || batch.iter().copied().map(Arg::from);
        let listed = tuples(1, 1, batch.len());
        let sql = format!("{}{listed}{}", WAITING.0, WAITING.1);
        let waiting: Vec<Waiting> = tx.all_locked(&sql, Lock::Change, needs().collect()).await?;
        for end in ended.iter().filter(|end| end.state == JobState::Succeeded && batch.contains(&end.job)) {
            give_base(tx, end, &waiting).await?;
        }
        tx.run(&format!("{MET}{listed}"), needs().collect()).await?;
        let ids: BTreeSet<uuid::Uuid> = waiting.iter().map(|row| row.id).collect();
        for_each_batch(tx, RELEASE, &[Arg::from(now)], &ids.into_iter().collect::<Vec<_>>()).await?;
    }
    Ok(())
}

/// Ends those that end with `ended`, and those that end with these, and says which.
async fn cascade(tx: &mut Tx, ended: &[Ended<'_>], now: Timestamp) -> Result<Vec<JobId>, StoreError> {
    let failed: Vec<JobId> = ended.iter().filter(|end| end.state != JobState::Succeeded).map(|end| end.job).collect();
    let (mut seen, mut ending) = (BTreeSet::new(), Vec::new());
    for batch in failed.chunks(BATCH) {
        let sql = format!("{}{}{}", CASCADE.0, tuples(1, 1, batch.len()), CASCADE.1);
        let rows: Vec<Ending> = tx.all(&sql, batch.iter().copied().map(Arg::from).collect()).await?;
        // One that waits for several ends for the sake of the first.
        ending.extend(rows.into_iter().filter(|row| seen.insert(row.id)));
    }
    let mut ids = Vec::new();
    for batch in ending.chunks(BATCH) {
        let mut args = args![now, OutcomeClass::Dependency.as_str()];
        args.extend(batch.iter().flat_map(|row| args![row.id, &outcome_of(JobId::from_uuid(row.needs)).1]));
        let sql = format!("WITH ends (of_job, to_message) AS (VALUES {}){END}", tuples(3, batch.len(), 2));
        // One that came while the others were locked may have ended otherwise.
        ids.extend(tx.all::<Reached>(&sql, args).await?.into_iter().map(|row| JobId::from_uuid(row.id)));
    }
    add_ends(tx, &ids.iter().map(|id| (*id, None, JobState::Cancelled)).collect::<Vec<_>>(), now).await?;
    Ok(ids)
}

/// Tells those that wait for any of `cancelled`, which this transaction has ended.
pub(super) async fn tell_all(tx: &mut Tx, cancelled: &[JobId], now: Timestamp) -> Result<(), StoreError> {
    if cancelled.is_empty() {
        return Ok(());
    }
    lock_with_waiting(tx, cancelled).await?;
    tell(tx, &Ended::without_success(cancelled, JobState::Cancelled), now).await
}

/// Puts the ends of jobs on record that this transaction has failed before they started, and that were locked with all whom they may concern,
/// and tells those that wait for them.
pub(super) async fn tell_failed(tx: &mut Tx, failed: &[JobId], now: Timestamp) -> Result<(), StoreError> {
    add_ends(tx, &failed.iter().map(|job| (*job, None, JobState::Failed)).collect::<Vec<_>>(), now).await?;
    tell(tx, &Ended::without_success(failed, JobState::Failed), now).await
}

/// Has those that start from what a job delivered start there; without a commit that is where it started itself.
async fn give_base(tx: &mut Tx, end: &Ended<'_>, waiting: &[Waiting]) -> Result<(), StoreError> {
    let job = end.job;
    if !waiting.iter().any(|row| row.gives_base == 1 && row.needs == job.as_uuid()) {
        return Ok(());
    }
    let base = match end.commit {
        Some(commit) => commit.to_string(),
        None => tx.first::<NeededRow>(NEEDED, args![job]).await?.ok_or_else(|| StoreError::not_found("job", job))?.base,
    };
    tx.run(GIVE_BASE, args![job, &base]).await.map(drop)
}

/// Runs a statement that ends with a list of ids.
async fn for_each_batch(tx: &mut Tx, sql: &str, before: &[Arg], ids: &[uuid::Uuid]) -> Result<(), StoreError> {
    for batch in ids.chunks(BATCH) {
        let mut args = before.to_vec();
        args.extend(batch.iter().copied().map(Arg::from));
        tx.run(&format!("{sql}{}", tuples(before.len() + 1, 1, batch.len())), args).await?;
    }
    Ok(())
}
