//! What a file is asked in one call: to enqueue, to claim and to end jobs that nothing else concerns.
//!
//! The one rule: it does what the transactions of `enqueue`, `claims` and `finish` would do, or nothing; see `at_once`, which does the same on
//! PostgreSQL. Here several statements go there together, with their transaction (see `writer`). They share their arguments where these have
//! numbers: `$3` is the same in all. Where they have none (`?`), each goes on where the one before it stopped.

use std::collections::BTreeMap;

use sqlx::FromRow;
use uuid::Uuid;

use super::Store;
use super::at_once::{no_step, step_row};
use super::claims::{Wanted, set_started};
use super::dependencies::Needs;
use super::enqueue::{document, insert_job, row, waits_for_nobody};
use super::error::StoreError;
use super::fence::last_of_each;
use super::finish::Pending;
use super::rows::{ClaimedRow, JobRow, job_columns};
use super::settle::log_verdict;
use super::statement::{Arg, args};
use super::tx::Tx;
use super::types::{ClaimRequest, NewJob};
use super::writer::Durability;
use crate::clock::Timestamp;
use crate::ids::JobId;
use crate::job::{ClaimedJob, Job};

/// A column of the attempt before the one that begins.
macro_rules! previous {
    ($column:literal, $name:literal) => {
        concat!("(SELECT p.", $column, " FROM attempts p WHERE p.job = jobs.id AND p.attempt = jobs.attempt - 1) AS ", $name)
    };
}

/// `$1` is the worker, `$2` the time, `$3` the end of the lease, `$5` the route. `$4` is the first half of the tokens of this claim, by which
/// its rows are told among those of the worker; the other half is each row's own.
const CLAIM: (&str, &str, &str) = (
    concat!(
        "UPDATE jobs INDEXED BY sqlite_autoindex_jobs_1 SET ",
        set_started!("$1", "$2", "$3", "unhex($4 || hex(randomblob(8)))"),
        " WHERE id "
    ),
    "(SELECT j.id FROM jobs j /*! INDEXED BY jobs_claim */ WHERE j.state = 'queued' AND j.held IS NULL AND j.route = $5 \
     AND (j.start_by IS NULL OR j.start_by > $2)",
    concat!(
        ") AND concurrency_key IS NULL AND budgeted = 0 AND NOT EXISTS (SELECT 1 FROM project_limits l WHERE l.project = share) \
         RETURNING ",
        job_columns!("jobs", "(SELECT s.document FROM job_specs s WHERE s.job = jobs.id) AS document"),
        ", token, lease_until, $2 AS claimed_at, priority, position, ",
        previous!("attempt", "previous_attempt"),
        ", ",
        previous!("outcome_class", "previous_class"),
        ", ",
        previous!("outcome_message", "previous_message"),
        ", ",
        previous!("salvage", "previous_salvage"),
        "; INSERT INTO attempts (job, attempt, worker, started_at) SELECT id, attempt, worker, $2 FROM jobs \
         WHERE worker = $1 AND hex(substr(token, 1, 8)) = $4",
    ),
);

/// An end, in statements each of which does something only where the one before it did: together they set nothing aside. In the order of
/// [`end_args`], since numbers would be the same in the statements of all ends.
const END: &str = concat!(
    "UPDATE jobs INDEXED BY sqlite_autoindex_jobs_1 SET state = 'succeeded', attempts_used = attempts_used + 1, \
     outcome_class = 'succeeded', outcome_message = ?, commit_id = NULL, finished_at = ?, worker = NULL, token = NULL, \
     lease_until = NULL, requeue_requested_at = NULL, requeue_reason = NULL \
     WHERE id = ? AND attempt = ? AND token = ? AND worker IS NOT DISTINCT FROM ? AND needed = 0 AND concurrency_key IS NULL \
     AND NOT EXISTS (SELECT 1 FROM project_limits l WHERE l.project = share) AND EXISTS \
     (SELECT 1 FROM attempts a WHERE a.job = jobs.id AND a.attempt = jobs.attempt AND a.ended_at IS NULL) RETURNING ",
    job_columns!("jobs", "(SELECT s.document FROM job_specs s WHERE s.job = jobs.id) AS document"),
    "; INSERT INTO outbox (id, job, attempt, state, created_at) SELECT ?, ?, ?, 'succeeded', ? WHERE changes() = 1; \
     UPDATE attempts SET ended_at = ?, outcome_class = 'succeeded', outcome_message = ?, exit_code = ?, signal = ?, \
     peak_memory_bytes = ?, cpu_ms = ?, salvage = ?, log_verdict = ? WHERE job = ? AND attempt = ? AND changes() = 1"
);
/// Its stages, after it.
const PUT_STAGES: (&str, &str) = (
    "; INSERT INTO attempt_stages (job, attempt, seq, stage, started_at, ended_at, outcome, detail) SELECT * FROM (VALUES ",
    ") AS steps WHERE changes() = 1 AND column1 IS NOT NULL ON CONFLICT (job, attempt, seq) DO UPDATE SET stage = excluded.stage, \
     started_at = excluded.started_at, ended_at = excluded.ended_at, outcome = excluded.outcome, detail = excluded.detail",
);

/// After [`insert_job`], whose arguments come first.
const ADD: &str = concat!(
    " RETURNING ",
    job_columns!("jobs", "$25 AS document"),
    "; INSERT INTO job_specs (job, digest, document) SELECT $5, $24, $25 WHERE changes() = 1"
);

/// A claim and its turn: rows come as they were written, in no order.
#[derive(FromRow)]
struct InTurn {
    #[sqlx(flatten)]
    claimed: ClaimedRow,
    priority: i64,
    position: i64,
}

impl Store {
    /// Enqueues a job that waits for nobody; none where its id, key or branch is taken.
    pub(super) async fn enqueue_in_one_call(&self, new: &NewJob, route: i64) -> Result<Option<Job>, StoreError> {
        let Some((sql, args)) = self.addition(new, route)? else { return Ok(None) };
        let rows: Vec<JobRow> = self.db().in_one_call(Durability::Disk, &sql, args).await?;
        rows.into_iter().next().map(Job::try_from).transpose()
    }

    /// The same in a transaction that is under way.
    pub(super) async fn add_in_one_call(&self, tx: &mut Tx, new: &NewJob, route: i64) -> Result<Option<Job>, StoreError> {
        let Some((sql, args)) = self.addition(new, route)? else { return Ok(None) };
        tx.first::<JobRow>(&sql, args).await?.map(Job::try_from).transpose()
    }

    fn addition(&self, new: &NewJob, route: i64) -> Result<Option<(String, Vec<Arg>)>, StoreError> {
        if !waits_for_nobody(new) {
            return Ok(None);
        }
        let mut args = row(new, route, &Needs::nothing(), &new.branch, self.now());
        args.extend(args![&new.digest, &document(new)?]);
        Ok(Some((format!("{}{ADD}", insert_job()), args)))
    }

    /// Claims at most as many jobs of a route as are wanted, passing over those that limits concern.
    pub(super) async fn claim_in_one_call(&self, wanted: Wanted, ask: &ClaimRequest) -> Result<Vec<ClaimedJob>, StoreError> {
        let (now, mark) = (self.now(), format!("{:016X}", rand::random::<u64>()));
        let (of_priority, limit) = (wanted.of_priority(), wanted.count);
        // For a list SQLite makes a table.
        let is = if limit == 1 { "=" } else { "IN" };
        let sql =
            format!("{}{is} {}{of_priority} ORDER BY j.priority, j.position, j.id LIMIT {limit}{}", CLAIM.0, CLAIM.1, CLAIM.2);
        let args = args![&ask.worker, now, now + ask.lease, &mark, wanted.route];
        // Whoever has the file has its host too: where a claim is undone, nobody is left who holds it.
        let mut rows: Vec<InTurn> = self.db().in_one_call(Durability::Nothing, &sql, args).await?;
        rows.sort_by_key(|row| (row.priority, row.position, row.claimed.id()));
        rows.into_iter().map(|row| ClaimedJob::try_from(row.claimed)).collect()
    }

    /// Ends those attempts that succeeded without delivering anything and that nothing else concerns; the others are left as they
    /// are. Answers with the jobs that have ended.
    pub(super) async fn finish_in_one_call(&self, ends: &[&Pending]) -> Result<BTreeMap<JobId, Job>, StoreError> {
        let simple: Vec<&Pending> = ends.iter().copied().filter(|pending| pending.is_simple()).collect();
        if simple.is_empty() {
            return Ok(BTreeMap::new());
        }
        let now = self.now();
        let steps: Vec<_> = simple.iter().map(|pending| last_of_each(&pending.end.stages)).collect();
        // Of powers of two, so that few texts occur: each is prepared.
        let most = steps.iter().map(Vec::len).max().filter(|most| *most > 0).map_or(0, usize::next_power_of_two);
        let mut args = Vec::new();
        for (pending, steps) in simple.iter().zip(steps) {
            args.extend(end_args(pending, now)?);
            let mut rows: Vec<_> = steps.into_iter().map(|step| step_row(pending, step)).collect();
            rows.resize_with(most, no_step);
            args.extend(rows.into_iter().flatten());
        }
        let calls = simple.len().next_power_of_two();
        args.resize(args.len() / simple.len() * calls, Arg::Int(None));
        let sql = vec![end_with(most); calls].join("; ");
        let ended: Vec<JobRow> = self.db().in_one_call(Durability::Disk, &sql, args).await?;
        ended.into_iter().map(|row| Job::try_from(row).map(|job| (job.id, job))).collect()
    }
}

/// An end with so many stages.
fn end_with(stages: usize) -> String {
    match stages {
        0 => END.to_owned(),
        stages => format!("{END}{}{}{}", PUT_STAGES.0, vec!["(?, ?, ?, ?, ?, ?, ?, ?)"; stages].join(", "), PUT_STAGES.1),
    }
}

fn end_args(Pending { claim, end, .. }: &Pending, now: Timestamp) -> Result<Vec<Arg>, StoreError> {
    let verdict = log_verdict(claim.job, claim.attempt, end.log)?;
    let (message, used) = (&end.outcome.message, end.resources);
    let mut args = args![message, now, claim.job, claim.attempt, claim.token, &claim.worker];
    args.extend(args![Uuid::now_v7(), claim.job, claim.attempt, now]);
    args.extend(args![now, message, used.exit_code, used.signal, used.peak_memory_bytes, used.cpu_ms, end.salvage.as_ref()]);
    args.extend(args![&verdict, claim.job, claim.attempt]);
    Ok(args)
}
