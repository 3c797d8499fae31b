//! What PostgreSQL does in one statement, which is its own transaction: to claim, to end and to enqueue jobs that nothing else
//! concerns.
//!
//! The one rule: it does what the transactions of `claims`, `finish` and `enqueue` would do, or nothing. A row that a limit, a
//! dependency or a lost lease concerns does not match, and its caller takes the long way, which knows why. Over a network it is
//! the round trips that cost; SQLite has none, and no statement that changes several tables.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::{ColumnIndex, Decode, FromRow, Type};
use uuid::Uuid;

use super::Store;
use super::claims::{LIMIT_MAX, Wanted, set_started};
use super::enqueue::insert_job;
use super::error::StoreError;
use super::fence::last_of_each;
use super::finish::Pending;
use super::routes::all_routes;
use super::rows::{ClaimedRow, JobRow, job_columns};
use super::settle::log_verdict;
use super::statement::{Arg, args, tuples};
use super::types::{ClaimRequest, NewJob};
use super::walk::Place;
use crate::clock::{Timestamp, human};
use crate::ids::JobId;
use crate::job::{ClaimedJob, Job, StageRecord};

/// Which of the two a join is: the row that another names, found by its key. As a plain `=` it would also be a way to put both in order, and
/// while the planner takes a table for empty (nothing was in it when it was last counted) it reads all of it in that order, whatever has come
/// since.
macro_rules! found_by {
    ($column:literal, $name:literal) => {
        concat!($column, " = ANY (ARRAY[", $name, "])")
    };
}

/// `$1` is the route, `$2` the worker, `$3` the length of the lease, `$5` how many. What a limit concerns is picked and left. The time is that of
/// the server when it claims, and not of who asks; and after `$4` nothing is claimed: a question that a broken link held up must not
/// be answered with a lease that is over, nor with a claim that nobody waits for any more.
///
/// The commit does not wait for the disk. A crash of the server may undo a claim of its last moments, but only where nothing came
/// after it: every write of its holder that is on the disk has the claim there before it. Then the job waits as before, and the holder
/// hears that its lease is lost. No limit is concerned, whose room would be given twice.
const CLAIM: (&str, &str) = (
    "WITH clock AS MATERIALIZED (SELECT (extract(epoch FROM clock_timestamp()) * 1000)::BIGINT AS now, \
     set_config('synchronous_commit', 'off', TRUE)), \
     picked AS MATERIALIZED (SELECT * FROM (SELECT j.id AS picked_job, j.concurrency_key IS NULL AND j.budgeted = 0 AND NOT EXISTS \
     (SELECT 1 FROM project_limits l WHERE l.project = j.share) AS free FROM jobs j \
     WHERE j.state = 'queued' AND j.held IS NULL AND j.route = $1 AND (SELECT now FROM clock) <= $4 \
     AND (j.start_by IS NULL OR j.start_by > (SELECT now FROM clock))",
    concat!(
        " FOR NO KEY UPDATE OF j SKIP LOCKED) q LIMIT $5), \
         started AS (UPDATE jobs SET ",
        set_started!("$2", "(SELECT now FROM clock)", "(SELECT now FROM clock) + $3", "gen_random_uuid()"),
        " FROM picked WHERE ",
        found_by!("id", "picked_job"),
        " AND free AND token IS NULL RETURNING jobs.*), \
         added AS (INSERT INTO attempts (job, attempt, worker, started_at) SELECT id, attempt, worker, now FROM started CROSS JOIN clock) \
         SELECT f.limited, f.routes, j.priority, j.position, ",
        job_columns!(),
        ", j.token, j.lease_until, f.now AS claimed_at, p.attempt AS previous_attempt, p.outcome_class AS previous_class, \
         p.outcome_message AS previous_message, p.salvage AS previous_salvage \
         FROM (SELECT (SELECT count(*) FROM picked WHERE NOT free) AS limited, ",
        all_routes!(),
        " AS routes, now FROM clock) f LEFT JOIN (started j JOIN job_specs s ON ",
        found_by!("s.job", "j.id"),
        " LEFT JOIN attempts p ON ",
        found_by!("p.job", "j.id"),
        " AND p.attempt = j.attempt - 1) ON TRUE ORDER BY j.priority, j.position, j.id"
    ),
);

/// What is asked: a row for each attempt that is to end.
const ASKED: &str = "asked (of_job, of_attempt, of_token, of_worker, to_message, to_code, to_signal, to_memory, to_cpu, \
    to_salvage, to_verdict, event) AS (VALUES ";
/// What is known of its stages.
const STEPS: &str = "steps (step_job, step_attempt, step_seq, step_stage, step_started, step_ended, step_outcome, \
    step_detail) AS (VALUES ";

/// `$1` is the time. A success is a success whatever is on record of the job, so nothing of it needs to be read first. What ended goes on
/// with what was asked of it in one row: each join of the two would compare each with each.
const END: (&str, &str) = (
    concat!(
        "), ended AS (UPDATE jobs SET state = 'succeeded', attempts_used = attempts_used + 1, outcome_class = 'succeeded', \
         outcome_message = to_message, commit_id = NULL, finished_at = $1, worker = NULL, token = NULL, lease_until = NULL, \
         requeue_requested_at = NULL, requeue_reason = NULL FROM asked WHERE ",
        found_by!("id", "of_job"),
        " AND attempt = of_attempt AND token = of_token AND worker IS NOT DISTINCT FROM of_worker AND needed = 0 \
         AND concurrency_key IS NULL AND NOT EXISTS (SELECT 1 FROM project_limits l WHERE l.project = share) RETURNING *), \
         closed AS (UPDATE attempts SET ended_at = $1, outcome_class = 'succeeded', outcome_message = to_message, exit_code = to_code, \
         signal = to_signal, peak_memory_bytes = to_memory, cpu_ms = to_cpu, salvage = to_salvage, log_verdict = to_verdict \
         FROM ended e WHERE ",
        found_by!("attempts.job", "e.id"),
        " AND attempts.attempt = e.attempt AND ended_at IS NULL), \
         told AS (INSERT INTO outbox (id, job, attempt, state, created_at) SELECT event, e.id, e.attempt, e.state, $1 FROM ended e)"
    ),
    concat!(" SELECT ", job_columns!(), " FROM ended j JOIN job_specs s ON ", found_by!("s.job", "j.id")),
);
const STAGED: &str = "), staged AS (INSERT INTO attempt_stages (job, attempt, seq, stage, started_at, ended_at, outcome, detail) \
    SELECT step_job, step_attempt, step_seq, step_stage, step_started, step_ended, step_outcome, step_detail \
    FROM steps JOIN ended e ON e.id = step_job \
    ON CONFLICT (job, attempt, seq) DO UPDATE SET stage = excluded.stage, started_at = excluded.started_at, \
    ended_at = excluded.ended_at, outcome = excluded.outcome, detail = excluded.detail)";

/// Writes a word into the write-ahead log, and so does not come back before everything that was committed earlier is on the disk. It has to
/// write: a commit of nothing waits for nothing.
const REACH_THE_DISK: &str = "SELECT pg_logical_emit_message(TRUE, 'sawmill', '')::TEXT AS at";

/// A question that was under way for so long is in time, however short the lease.
const IN_TIME: Duration = Duration::from_secs(1);

/// A job that was enqueued.
pub(super) struct Added {
    pub(super) job: Job,
    /// Whether it is on the disk already.
    pub(super) on_disk: bool,
}

#[derive(sqlx::FromRow)]
struct Reached {
    #[expect(dead_code, reason = "that it was asked for is what counts")]
    at: String,
}

/// What is claimed of a route, and what the claim saw.
pub(super) struct Claimed {
    pub(super) jobs: Vec<ClaimedJob>,
    /// Whether limits concern some of those that were next.
    pub(super) limited: bool,
    /// Which routes there are.
    pub(super) routes: Option<i64>,
}

struct ClaimRow {
    now: i64,
    limited: i64,
    routes: i64,
    claimed: Option<(Place, ClaimedRow)>,
}

impl<'r, R: sqlx::Row> FromRow<'r, R> for ClaimRow
where
    &'static str: ColumnIndex<R>,
    i64: Decode<'r, R::Database> + Type<R::Database>,
    Option<Uuid>: Decode<'r, R::Database> + Type<R::Database>,
    ClaimedRow: FromRow<'r, R>,
{
    fn from_row(row: &'r R) -> Result<Self, sqlx::Error> {
        let claimed = match row.try_get("id")? {
            Some(id) => {
                let place = Place { priority: row.try_get("priority")?, position: row.try_get("position")?, id };
                Some((place, ClaimedRow::from_row(row)?))
            }
            None => None,
        };
        Ok(Self { now: row.try_get("claimed_at")?, limited: row.try_get("limited")?, routes: row.try_get("routes")?, claimed })
    }
}

impl Store {
    /// Claims at most as many jobs of a route as are wanted, passing over those that limits concern.
    pub(super) async fn claim_at_once(&self, wanted: Wanted, ask: &ClaimRequest) -> Result<Claimed, StoreError> {
        let (walks, arrivals) = (&self.inner.walks, self.inner.hinter.arrivals());
        let from = if wanted.priority.is_none() { walks.place(wanted.route, arrivals) } else { None };
        let (mut claimed, last) = self.claim_from(wanted, ask, from).await?;
        let missing = wanted.count.saturating_sub(claimed.jobs.len());
        match last {
            Some(last) if missing == 0 && wanted.priority.is_none() => walks.came_to(wanted.route, from, last, arrivals),
            _ => walks.end(wanted.route),
        }
        if from.is_some() && missing > 0 && !claimed.limited {
            match self.claim_from(Wanted { count: missing, ..wanted }, ask, None).await {
                Ok((more, _)) => {
                    claimed.jobs.extend(more.jobs);
                    claimed.limited = more.limited;
                }
                // What was claimed before is claimed, and would wait for its lease to run out.
                Err(error) if !claimed.jobs.is_empty() => {
                    tracing::warn!(%error, "could not claim as many jobs as there are slots");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(claimed)
    }

    /// Claims behind a place, or from the front, and says which place it came to.
    async fn claim_from(
        &self,
        wanted: Wanted,
        ask: &ClaimRequest,
        from: Option<Place>,
    ) -> Result<(Claimed, Option<Place>), StoreError> {
        let lease_ms = u64::try_from(ask.lease.as_millis()).unwrap_or(u64::MAX);
        let asked_at = self.now();
        let latest = asked_at + (ask.lease / 4).max(IN_TIME);
        let mut args = args![wanted.route, &ask.worker, lease_ms, latest, wanted.count as u64];
        let mut narrower = wanted.of_priority();
        if let Some(Place { priority, position, id }) = from {
            narrower = " AND (j.priority, j.position, j.id) > ($6, $7, $8)".to_owned();
            args.extend(args![priority, position, id]);
        }
        // One text however many are wanted, since each has to be prepared; the number in it tells the planner that they are few.
        let sql = format!("{}{narrower} ORDER BY j.priority, j.position, j.id LIMIT {LIMIT_MAX}{}", CLAIM.0, CLAIM.1);
        let rows: Vec<ClaimRow> = self.db().all(&sql, args).await?;
        let limited = rows.first().is_some_and(|row| row.limited > 0);
        let routes = rows.first().map(|row| row.routes);
        if let Some(now) = rows.first().map(|row| Timestamp(row.now)).filter(|now| *now > latest) {
            let ahead = human::format(now.since(asked_at));
            tracing::warn!(
                "the database's clock was {ahead} ahead when a claim arrived, so nothing was claimed; reading it again"
            );
            self.db().sample(&self.inner.clock).await?;
        }
        let mut last = None;
        let mut jobs = Vec::new();
        for (place, row) in rows.into_iter().filter_map(|row| row.claimed) {
            last = Some(place);
            jobs.push(ClaimedJob::try_from(row)?);
        }
        Ok((Claimed { jobs, limited, routes }, last))
    }

    /// Ends those attempts that succeeded without delivering anything and that nothing else concerns; the others are left as they
    /// are. Answers with the jobs that have ended.
    pub(super) async fn finish_at_once(&self, ends: &[&Pending]) -> Result<BTreeMap<JobId, Job>, StoreError> {
        let mut simple: Vec<&Pending> = ends.iter().copied().filter(|pending| pending.is_simple()).collect();
        if simple.is_empty() {
            return Ok(BTreeMap::new());
        }
        // In the order in which everybody locks.
        simple.sort_unstable_by_key(|pending| pending.claim.job);
        let mut args = args![self.now()];
        let asked = asked_rows(&mut args, &simple)?;
        let staged = match step_rows(&mut args, &simple) {
            Some(steps) => format!(", {STEPS}{steps}{STAGED}"),
            None => String::new(),
        };
        let sql = format!("WITH {ASKED}{asked}{}{staged}{}", END.0, END.1);
        let ended: Vec<JobRow> = self.db().all(&sql, args).await?;
        ended.into_iter().map(|row| Job::try_from(row).map(|job| (job.id, job))).collect()
    }

    /// Enqueues a job that waits for nobody, and tells of it; none where its id, key or branch is taken.
    ///
    /// Where others are told of it in the same statement, they begin while the disk takes it: the job counts at once, and who enqueues it is to be
    /// answered when it is on the disk. A crash of the server in between undoes it, but only where nothing came after it (see [`CLAIM`]).
    pub(super) async fn enqueue_at_once(&self, new: &NewJob, row: Vec<Arg>, document: &str) -> Result<Option<Added>, StoreError> {
        let (digest, text) = (row.len() + 1, row.len() + 2);
        let mut args = row;
        args.extend(args![&new.digest, document]);
        let notifier = self.inner.notifier.as_deref();
        let along = notifier.filter(|notifier| notifier.take_along());
        let mut told = String::new();
        if let Some(notifier) = along {
            told = format!(
                ", pg_notify(${}, ${})::TEXT AS told, set_config('synchronous_commit', 'off', TRUE)",
                args.len() + 1,
                args.len() + 2
            );
            args.extend(args![&notifier.channel, &notifier.payload]);
        }
        let sql = format!(
            "WITH added AS ({} RETURNING *), said AS (INSERT INTO job_specs (job, digest, document) SELECT id, ${digest}, ${text} \
             FROM added) SELECT {}{told} FROM added j CROSS JOIN (SELECT ${text} AS document) s",
            insert_job(),
            job_columns!()
        );
        let added = self.db().first::<JobRow>(&sql, args).await?.map(Job::try_from).transpose()?;
        if added.is_some() {
            self.inner.hinter.job_changed();
            if along.is_none()
                && let Some(notifier) = notifier
            {
                notifier.changed().await;
            }
        }
        Ok(added.map(|job| Added { job, on_disk: along.is_none() }))
    }

    /// Returns when all that the server has committed so far is on its disk, whatever its commits waited for.
    pub(super) async fn reach_the_disk(&self) -> Result<(), StoreError> {
        self.db().all::<Reached>(REACH_THE_DISK, Vec::new()).await.map(drop)
    }
}

/// Adds what is asked to the arguments, and answers their places. A length of a power of two, so that few occur: each is a statement that
/// has to be prepared.
fn asked_rows(args: &mut Vec<Arg>, ends: &[&Pending]) -> Result<String, StoreError> {
    let mut asked = ends.iter().map(|pending| end_row(pending)).collect::<Result<Vec<_>, _>>()?;
    let (first, rows) = (args.len() + 1, ends.len().next_power_of_two());
    asked.resize_with(rows, no_end);
    args.extend(asked.into_iter().flatten());
    Ok(tuples(first, rows, 12))
}

/// The same for stages; none where there are none.
fn step_rows(args: &mut Vec<Arg>, ends: &[&Pending]) -> Option<String> {
    let of = |pending: &&Pending| {
        last_of_each(&pending.end.stages).into_iter().map(|step| step_row(pending, step)).collect::<Vec<_>>()
    };
    let mut steps: Vec<Vec<Arg>> = ends.iter().flat_map(of).collect();
    if steps.is_empty() {
        return None;
    }
    let (first, rows) = (args.len() + 1, steps.len().next_power_of_two());
    steps.resize_with(rows, no_step);
    args.extend(steps.into_iter().flatten());
    Some(tuples(first, rows, 8))
}

fn end_row(Pending { claim, end, .. }: &Pending) -> Result<Vec<Arg>, StoreError> {
    let verdict = log_verdict(claim.job, claim.attempt, end.log)?;
    Ok(args![
        claim.job,
        claim.attempt,
        claim.token,
        &claim.worker,
        &end.outcome.message,
        end.resources.exit_code,
        end.resources.signal,
        end.resources.peak_memory_bytes,
        end.resources.cpu_ms,
        end.salvage.as_ref(),
        &verdict,
        Uuid::now_v7(),
    ])
}

/// A row that is nobody's.
fn no_end() -> Vec<Arg> {
    use Arg::{Int, Text};
    let uuid = || Arg::Uuid(None);
    vec![
        uuid(),
        Int(None),
        uuid(),
        Text(None),
        Text(None),
        Int(None),
        Int(None),
        Int(None),
        Int(None),
        Text(None),
        Text(None),
        uuid(),
    ]
}

pub(super) fn step_row(Pending { claim, .. }: &Pending, step: &StageRecord) -> Vec<Arg> {
    args![
        claim.job,
        claim.attempt,
        step.seq,
        step.stage.as_str(),
        step.started_at,
        step.ended_at,
        step.outcome.map(|class| class.as_str()),
        step.detail.as_deref(),
    ]
}

pub(super) fn no_step() -> Vec<Arg> {
    use Arg::{Int, Text};
    vec![Arg::Uuid(None), Int(None), Int(None), Text(None), Int(None), Int(None), Text(None), Text(None)]
}
