//! Why a job does not run: the facts, as of one moment. What follows from them is worked out in `job::explain`.
//!
//! The one rule: everything is read in one transaction that sees one moment, writes nothing and keeps nobody waiting, and none of
//! it costs more the more jobs wait: what may be many is counted up to a bound.

use super::Store;
use super::error::StoreError;
use super::jobs;
use super::rows::{number, parse, word};
use super::statement::{Arg, args};
use super::tx::Tx;
use super::{spending, workers};
use crate::clock::Timestamp;
use crate::ids::{AttemptNo, JobId, WorkerId};
use crate::job::explain::explain;
use crate::job::explain::facts::{CompletionPlace, Count, Facts, LatestAttempt, LimitInUse, Need, Runner};
use crate::job::{Explanation, Hold, Job, JobState};

const PLACE: &str = "SELECT j.route, j.priority, j.position, j.share, j.concurrency_limit, j.start_by, j.lease_until, \
    j.cancel_reason, j.requeue_reason FROM jobs j WHERE j.id = $1";
const ATTEMPT: &str = "SELECT a.attempt, a.worker, a.started_at, a.log_bytes, \
    (SELECT s.stage FROM attempt_stages s WHERE s.job = a.job AND s.attempt = a.attempt ORDER BY s.seq DESC LIMIT 1) AS stage, \
    (SELECT s.started_at FROM attempt_stages s WHERE s.job = a.job AND s.attempt = a.attempt ORDER BY s.seq DESC LIMIT 1) AS stage_since, \
    (SELECT c.at FROM log_chunks c WHERE c.job = a.job AND c.attempt = a.attempt ORDER BY c.seq DESC LIMIT 1) AS logged_at \
    FROM attempts a WHERE a.job = $1 ORDER BY a.attempt DESC LIMIT 1";
const NEEDS: &str = "SELECT j.id, j.state, j.worker, c.started_at, j.created_at FROM dependencies d JOIN jobs j ON j.id = d.needs \
    LEFT JOIN attempts c ON c.job = j.id AND c.attempt = j.attempt WHERE d.job = $1 AND d.met = 0 ORDER BY d.needs";
const PROJECT_LIMIT: &str = "SELECT l.running AS jobs FROM project_limits l \
    WHERE l.project = $1 AND l.running IS NOT NULL";
const UNDER_KEY: &str = "SELECT count(*) AS jobs FROM jobs WHERE concurrency_key = $1 AND token IS NOT NULL";
const IN_PROJECT: &str = "SELECT count(*) AS jobs FROM jobs \
    WHERE share = $1 AND worker > '' AND finished_at IS NULL AND share <> ''";
const RUNNERS_UNDER_KEY: &str = "SELECT j.id, j.worker, c.started_at FROM jobs j JOIN attempts c ON c.job = j.id AND c.attempt = j.attempt \
    WHERE j.concurrency_key = $1 AND j.token IS NOT NULL ORDER BY c.started_at, j.id LIMIT ";
const RUNNERS_IN_PROJECT: &str = "SELECT j.id, j.worker, c.started_at FROM jobs j JOIN attempts c ON c.job = j.id AND c.attempt = j.attempt \
    WHERE j.share = $1 AND j.worker > '' AND j.finished_at IS NULL AND j.share <> '' ORDER BY c.started_at, j.id LIMIT ";
/// Up to the job itself along the index of whatever it waits in, so no more is read than is counted.
const BEFORE: (&str, &str) = (
    "SELECT count(*) AS jobs FROM (SELECT b.id FROM jobs b WHERE ",
    " AND (b.priority, b.position, b.id) < ($2, $3, $4) ORDER BY b.priority, b.position, b.id LIMIT ",
);
const CLAIMABLE: &str = "b.state = 'queued' AND b.held IS NULL AND b.route = $1";
const HELD_BY_KEY: &str = "b.held = 'key' AND b.concurrency_key = $1";
const HELD_BY_PROJECT: &str = "b.held = 'project' AND b.share = $1";
/// Of a line at most one is offered or held, and `completions_head` has these alone.
const COMPLETION: &str = "SELECT c.state, c.consumer, c.lease_until, c.visible_at, c.created_at, c.last_error, \
    (SELECT h.job FROM completions h WHERE h.repo = c.repo AND h.line = c.line AND (h.visible_at IS NOT NULL OR h.lease_until IS NOT NULL) \
    AND c.state = 'pending' AND c.visible_at IS NULL LIMIT 1) AS behind FROM completions c \
    WHERE c.job = $1 ORDER BY c.attempt DESC LIMIT 1";

/// Jobs that come before another are counted up to here.
const BEFORE_MAX: u64 = 1_000;
/// Of the jobs that use up a limit at most so many are named.
const RUNNERS_MAX: usize = 10;

#[derive(sqlx::FromRow)]
struct Place {
    route: i64,
    priority: i64,
    position: i64,
    share: String,
    concurrency_limit: Option<i64>,
    start_by: Option<i64>,
    lease_until: Option<i64>,
    cancel_reason: Option<String>,
    requeue_reason: Option<String>,
}

#[derive(sqlx::FromRow)]
struct AttemptRow {
    attempt: i64,
    worker: String,
    started_at: i64,
    log_bytes: i64,
    stage: Option<String>,
    stage_since: Option<i64>,
    logged_at: Option<i64>,
}

#[derive(sqlx::FromRow)]
struct NeedRow {
    id: uuid::Uuid,
    state: String,
    worker: Option<String>,
    started_at: Option<i64>,
    created_at: i64,
}

#[derive(sqlx::FromRow)]
struct RunnerRow {
    id: uuid::Uuid,
    worker: String,
    started_at: i64,
}

#[derive(sqlx::FromRow)]
struct CompletionRow {
    state: String,
    consumer: Option<String>,
    lease_until: Option<i64>,
    visible_at: Option<i64>,
    created_at: i64,
    last_error: Option<String>,
    behind: Option<uuid::Uuid>,
}

#[derive(sqlx::FromRow)]
struct Jobs {
    jobs: i64,
}

impl Store {
    /// Why a job does not run, for each worker; or where it is.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn explain(&self, id: JobId) -> Result<Explanation, StoreError> {
        let mut tx = self.db().snapshot().await?;
        let facts = facts(&mut tx, id, self.now()).await;
        // There is nothing to undo, but a connection to give back.
        tx.rollback().await;
        facts.map(|facts| explain(&facts))
    }
}

async fn facts(tx: &mut Tx, id: JobId, now: Timestamp) -> Result<Facts, StoreError> {
    let job = jobs::get(tx, id).await?;
    let place: Place = tx.first(PLACE, args![id]).await?.ok_or_else(|| StoreError::not_found("job", id))?;
    let waits = job.state == JobState::Queued;
    let claimable = waits && job.held.is_none();
    Ok(Facts {
        now,
        start_by: place.start_by.map(Timestamp),
        cancel_reason: place.cancel_reason.clone(),
        requeue_reason: place.requeue_reason.clone(),
        lease_until: place.lease_until.map(Timestamp),
        attempt: attempt(tx, id).await?,
        needs: if waits { needs(tx, id).await? } else { Vec::new() },
        key: if waits { key(tx, &job, &place).await? } else { None },
        project: if waits { project(tx, &job, &place).await? } else { None },
        ahead: if claimable { Some(before(tx, CLAIMABLE, place.route.into(), &job, &place).await?) } else { None },
        budgets: if waits { spending::of_job(tx, id, &job.spec, now).await? } else { Vec::new() },
        workers: if job.state.is_final() { Vec::new() } else { workers::all(tx, now).await? },
        completion: completion(tx, id).await?,
        job,
    })
}

async fn attempt(tx: &mut Tx, id: JobId) -> Result<Option<LatestAttempt>, StoreError> {
    let what = || format!("the attempts at job {id}");
    let Some(row) = tx.first::<AttemptRow>(ATTEMPT, args![id]).await? else { return Ok(None) };
    let stage = row.stage.as_deref().map(|stage| word(stage, what)).transpose()?;
    Ok(Some(LatestAttempt {
        attempt: AttemptNo(number(row.attempt, what)?),
        worker: WorkerId::new(row.worker),
        started_at: Timestamp(row.started_at),
        stage: stage.zip(row.stage_since.map(Timestamp)),
        log_bytes: number(row.log_bytes, what)?,
        logged_at: row.logged_at.map(Timestamp),
    }))
}

async fn needs(tx: &mut Tx, id: JobId) -> Result<Vec<Need>, StoreError> {
    let rows: Vec<NeedRow> = tx.all(NEEDS, args![id]).await?;
    let need = |row: NeedRow| {
        let state = parse(&row.state, || format!("job {}", row.id))?;
        let since = row.started_at.filter(|_| state == JobState::Running).unwrap_or(row.created_at);
        let worker = row.worker.map(WorkerId::new);
        Ok(Need { job: JobId::from_uuid(row.id), state, worker, since: Timestamp(since) })
    };
    rows.into_iter().map(need).collect()
}

async fn key(tx: &mut Tx, job: &Job, place: &Place) -> Result<Option<LimitInUse>, StoreError> {
    let Some((concurrency, limit)) = job.spec.concurrency.as_ref().zip(place.concurrency_limit) else { return Ok(None) };
    let name = concurrency.key.as_str();
    let comes_back = matches!(job.held, None | Some(Hold::Key));
    Ok(Some(LimitInUse {
        name: name.to_owned(),
        limit: number(limit, || format!("the key {name:?}"))?,
        running: count(tx, UNDER_KEY, args![name]).await?,
        runners: runners(tx, RUNNERS_UNDER_KEY, name).await?,
        before: if comes_back { before(tx, HELD_BY_KEY, name.into(), job, place).await? } else { Count::NONE },
    }))
}

async fn project(tx: &mut Tx, job: &Job, place: &Place) -> Result<Option<LimitInUse>, StoreError> {
    let name = place.share.as_str();
    let Some(limit) = tx.first::<Jobs>(PROJECT_LIMIT, args![name]).await? else { return Ok(None) };
    let comes_back = matches!(job.held, None | Some(Hold::Project));
    Ok(Some(LimitInUse {
        name: name.to_owned(),
        limit: number(limit.jobs, || format!("the limit of project {name:?}"))?,
        running: count(tx, IN_PROJECT, args![name]).await?,
        runners: runners(tx, RUNNERS_IN_PROJECT, name).await?,
        before: if comes_back { before(tx, HELD_BY_PROJECT, name.into(), job, place).await? } else { Count::NONE },
    }))
}

async fn runners(tx: &mut Tx, sql: &str, name: &str) -> Result<Vec<Runner>, StoreError> {
    let rows: Vec<RunnerRow> = tx.all(&format!("{sql}{RUNNERS_MAX}"), args![name]).await?;
    let runner = |row: RunnerRow| Runner {
        job: JobId::from_uuid(row.id),
        worker: WorkerId::new(row.worker),
        since: Timestamp(row.started_at),
    };
    Ok(rows.into_iter().map(runner).collect())
}

/// How many come before a job, of those of which `of` and its argument say where they wait.
async fn before(tx: &mut Tx, of: &str, argument: Arg, job: &Job, place: &Place) -> Result<Count, StoreError> {
    let sql = format!("{}{of}{}{}) AS those_before", BEFORE.0, BEFORE.1, BEFORE_MAX + 1);
    let mut args = vec![argument];
    args.extend(args![place.priority, place.position, job.id]);
    Ok(Count::bounded(count(tx, &sql, args).await?, BEFORE_MAX))
}

async fn count(tx: &mut Tx, sql: &str, args: Vec<Arg>) -> Result<u64, StoreError> {
    let row: Option<Jobs> = tx.first(sql, args).await?;
    row.map_or(Ok(0), |row| number(row.jobs, || "a number of jobs".to_owned()))
}

async fn completion(tx: &mut Tx, id: JobId) -> Result<Option<CompletionPlace>, StoreError> {
    let Some(row) = tx.first::<CompletionRow>(COMPLETION, args![id]).await? else { return Ok(None) };
    Ok(Some(CompletionPlace {
        state: word(&row.state, || format!("the completion of job {id}"))?,
        consumer: row.consumer,
        lease_until: row.lease_until.map(Timestamp),
        visible_at: row.visible_at.map(Timestamp),
        behind: row.behind.map(JobId::from_uuid),
        created_at: Timestamp(row.created_at),
        last_error: row.last_error,
    }))
}
