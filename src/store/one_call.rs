//! What a file is asked in one call: to enqueue, to claim and to end jobs that nothing else concerns.
//!
//! The one rule: it does what the transactions of `enqueue`, `claims` and `finish` would do, or nothing; see `at_once`, which does the same on
//! PostgreSQL. Here several statements go there together, with their transaction (see `writer`). They share their arguments: `$3` is the
//! same in all.

use std::collections::BTreeMap;

use super::Store;
use super::at_once::{ASKED, STEPS, asked_rows, step_rows};
use super::claims::{CLAIMED, Wanted, set_started};
use super::dependencies::Needs;
use super::enqueue::{document, insert_job, row, waits_for_nobody};
use super::error::StoreError;
use super::finish::Pending;
use super::rows::{ClaimedRow, JobRow, job_columns};
use super::statement::{Arg, args};
use super::tx::Tx;
use super::types::{ClaimRequest, NewJob};
use super::writer::Durability;
use crate::ids::JobId;
use crate::job::{ClaimedJob, Job};

/// `$1` is the worker, `$2` the time, `$3` the end of the lease, `$5` the route. `$4` is the first half of the tokens of this claim, by which
/// its rows are told among those of the worker; the other half is each row's own.
const CLAIM: (&str, &str) = (
    concat!(
        "UPDATE jobs INDEXED BY sqlite_autoindex_jobs_1 SET ",
        set_started!("$1", "$2", "$3", "unhex($4 || hex(randomblob(8)))"),
        " WHERE id IN (SELECT j.id FROM jobs j /*! INDEXED BY jobs_claim */ WHERE j.state = 'queued' AND j.held IS NULL AND j.route = $5 \
         AND (j.start_by IS NULL OR j.start_by > $2)"
    ),
    ") AND concurrency_key IS NULL AND budgeted = 0 AND NOT EXISTS (SELECT 1 FROM project_limits l WHERE l.project = share); \
     INSERT INTO attempts (job, attempt, worker, started_at) SELECT id, attempt, worker, $2 FROM jobs \
     WHERE worker = $1 AND hex(substr(token, 1, 8)) = $4; ",
);
const OF_THIS_CLAIM: &str = "j.worker = $1 AND hex(substr(j.token, 1, 8)) = $4 ORDER BY j.priority, j.position, j.id";

/// `$1` is the time. Whose attempt is still open has ended just now; from then on its event tells.
const END_JOBS: &str = concat!(
    " UPDATE jobs INDEXED BY sqlite_autoindex_jobs_1 SET state = 'succeeded', attempts_used = attempts_used + 1, \
     outcome_class = 'succeeded', outcome_message = to_message, commit_id = NULL, finished_at = $1, worker = NULL, token = NULL, \
     lease_until = NULL, requeue_requested_at = NULL, requeue_reason = NULL FROM asked \
     WHERE id = of_job AND attempt = of_attempt AND token = of_token AND worker IS NOT DISTINCT FROM of_worker AND needed = 0 \
     AND concurrency_key IS NULL AND NOT EXISTS (SELECT 1 FROM project_limits l WHERE l.project = share) \
     AND EXISTS (SELECT 1 FROM attempts a WHERE a.job = of_job AND a.attempt = of_attempt AND a.ended_at IS NULL) RETURNING ",
    job_columns!("jobs", "(SELECT s.document FROM job_specs s WHERE s.job = jobs.id) AS document"),
    "; "
);
const TELL: &str = " INSERT INTO outbox (id, job, attempt, state, created_at) SELECT event, j.id, j.attempt, j.state, $1 \
    FROM asked CROSS JOIN jobs j ON j.id = of_job AND j.attempt = of_attempt AND j.state = 'succeeded' \
    CROSS JOIN attempts a ON a.job = j.id AND a.attempt = j.attempt AND a.ended_at IS NULL; ";
const PUT_STAGES: &str = " INSERT INTO attempt_stages (job, attempt, seq, stage, started_at, ended_at, outcome, detail) \
    SELECT step_job, step_attempt, step_seq, step_stage, step_started, step_ended, step_outcome, step_detail \
    FROM steps CROSS JOIN asked ON of_job = step_job CROSS JOIN outbox o ON o.job = of_job AND o.id = event WHERE TRUE \
    ON CONFLICT (job, attempt, seq) DO UPDATE SET stage = excluded.stage, started_at = excluded.started_at, \
    ended_at = excluded.ended_at, outcome = excluded.outcome, detail = excluded.detail; ";
const CLOSE: &str = " UPDATE attempts INDEXED BY sqlite_autoindex_attempts_1 SET ended_at = $1, outcome_class = 'succeeded', outcome_message = to_message, exit_code = to_code, \
    signal = to_signal, peak_memory_bytes = to_memory, cpu_ms = to_cpu, salvage = to_salvage, log_verdict = to_verdict \
    FROM asked CROSS JOIN outbox o ON o.job = of_job AND o.id = event \
    WHERE attempts.job = of_job AND attempts.attempt = of_attempt AND ended_at IS NULL";

/// After [`insert_job`], whose arguments come first.
const ADD: &str = concat!(
    " RETURNING ",
    job_columns!("jobs", "$25 AS document"),
    "; INSERT INTO job_specs (job, digest, document) SELECT $5, $24, $25 WHERE changes() = 1"
);

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
        let of_priority = wanted.of_priority();
        let limit = wanted.count;
        let sql = format!(
            "{}{of_priority} ORDER BY j.priority, j.position, j.id LIMIT {limit}{}{CLAIMED}{OF_THIS_CLAIM}",
            CLAIM.0, CLAIM.1
        );
        let args = args![&ask.worker, now, now + ask.lease, &mark, wanted.route];
        // Whoever has the file has its host too: where a claim is undone, nobody is left who holds it.
        let rows: Vec<ClaimedRow> = self.db().in_one_call(Durability::Nothing, &sql, args).await?;
        rows.into_iter().map(ClaimedJob::try_from).collect()
    }

    /// Ends those attempts that succeeded without delivering anything and that nothing else concerns; the others are left as they
    /// are. Answers with the jobs that have ended.
    pub(super) async fn finish_in_one_call(&self, ends: &[&Pending]) -> Result<BTreeMap<JobId, Job>, StoreError> {
        let simple: Vec<&Pending> = ends.iter().copied().filter(|pending| pending.is_simple()).collect();
        if simple.is_empty() {
            return Ok(BTreeMap::new());
        }
        let mut args = args![self.now()];
        let asked = format!("WITH {ASKED}{})", asked_rows(&mut args, &simple)?);
        let staged = match step_rows(&mut args, &simple) {
            Some(steps) => format!("{asked}, {STEPS}{steps}){PUT_STAGES}"),
            None => String::new(),
        };
        let sql = format!("{asked}{END_JOBS}{asked}{TELL}{staged}{asked}{CLOSE}");
        let ended: Vec<JobRow> = self.db().in_one_call(Durability::Disk, &sql, args).await?;
        ended.into_iter().map(|row| Job::try_from(row).map(|job| (job.id, job))).collect()
    }
}
