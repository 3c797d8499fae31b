//! Renewing leases, and telling a worker what it must hear.
//!
//! The one rule: whatever a worker must hear (a lease lost, a job's end asked for, a deadline moved, a drain, a credential paused)
//! comes with the
//! answer to a renewal, so that a worker that gets no hint hears of everything within a third of a lease.

use std::collections::HashMap;
use std::time::Duration;

use super::Store;
use super::error::StoreError;
use super::fence::BATCH;
use super::pauses::MaybePauseRow;
use super::rows::number;
use super::statement::{args, tuples};
use super::types::{Renewal, StopRequest};
use super::verdict::stop_request;
use super::workers::DrainRow;
use crate::clock::Timestamp;
use crate::ids::{AttemptNo, ClaimToken, JobId, WorkerId};
use crate::job::worker_record::Drain;
use crate::job::{Claim, Pause};

/// Between the two, when the lease ends.
const RENEW: (&str, &str) = (
    " UPDATE jobs /*! INDEXED BY sqlite_autoindex_jobs_1 */ SET lease_until = ",
    " FROM asked WHERE id = asked_job AND attempt = asked_attempt AND token = asked_token AND worker IS NOT DISTINCT FROM $1 AND state = 'running' \
     RETURNING token, lease_until, cancel_reason, requeue_reason, \
     (SELECT a.deadline_at FROM attempts a WHERE a.job = jobs.id AND a.attempt = jobs.attempt) AS deadline_at",
);
/// One row for each pause, and one at least.
const HEARD: &str = "SELECT w.drain_asked_at, w.drain_asked_by, w.drain_reason, p.credential, p.since, p.until, p.reason, p.times, \
    p.reset_known FROM (SELECT 1 AS one) o LEFT JOIN workers w ON w.id = $1 LEFT JOIN pauses p ON 1 = 1 ORDER BY p.credential";
/// A row that has a worker runs: naming the state too, SQLite would walk all that run.
const ORDERS: &str = "SELECT j.id, j.attempt, j.cancel_reason, j.requeue_reason, a.deadline_at FROM jobs j \
    JOIN attempts a ON a.job = j.id AND a.attempt = j.attempt \
    WHERE j.worker = $1 AND (j.cancel_requested_at IS NOT NULL OR j.requeue_requested_at IS NOT NULL OR a.deadline_at IS NOT NULL)";

#[derive(sqlx::FromRow)]
struct RenewedRow {
    token: uuid::Uuid,
    lease_until: i64,
    cancel_reason: Option<String>,
    requeue_reason: Option<String>,
    deadline_at: Option<i64>,
}

#[derive(sqlx::FromRow)]
struct OrderRow {
    id: uuid::Uuid,
    attempt: i64,
    cancel_reason: Option<String>,
    requeue_reason: Option<String>,
    deadline_at: Option<i64>,
}

#[derive(sqlx::FromRow)]
struct HeardRow {
    #[sqlx(flatten)]
    drain: DrainRow,
    #[sqlx(flatten)]
    pause: MaybePauseRow,
}

/// What every worker must hear.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Heard {
    /// Who asked for its drain, if somebody did.
    pub drain: Option<Drain>,
    /// The pauses of credentials that are on record.
    pub pauses: Vec<Pause>,
}

/// The answer to a renewal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewed {
    /// What became of each claim, in the order in which they were named.
    pub renewals: Vec<Renewal>,
    /// What else there is.
    pub heard: Heard,
}

/// What a worker must hear, beside what became of its leases.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Orders {
    /// Of its jobs: those of which something is asked.
    pub jobs: Vec<JobOrder>,
    /// What else there is.
    pub heard: Heard,
}

/// What is asked of a running job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobOrder {
    /// The job.
    pub job: JobId,
    /// The attempt that is meant.
    pub attempt: AttemptNo,
    /// Whether it is to stop, and why.
    pub stop: Option<StopRequest>,
    /// When it must be over, where that was moved.
    pub deadline: Option<Timestamp>,
}

impl Store {
    /// Renews claims of one worker, all in one transaction, and says of each whether it holds and what is asked of its job. A
    /// lease that has run out is renewed all the same where nobody has taken note of it yet.
    ///
    /// # Errors
    /// [`StoreError::ForeignClaim`] for a claim of another worker. When the database cannot be reached, nothing is known.
    pub async fn renew(&self, worker: &WorkerId, claims: &[Claim], lease: Duration) -> Result<Renewed, StoreError> {
        if let Some(foreign) = claims.iter().find(|claim| claim.worker != *worker) {
            return Err(StoreError::ForeignClaim { asked: worker.clone(), holder: foreign.worker.clone() });
        }
        if claims.is_empty() {
            return Ok(Renewed { renewals: Vec::new(), heard: self.heard(worker).await? });
        }
        let (until, ends) = self.inner.clock.end_of(lease);
        // Always in the same order, so that two renewals at once do not wait for each other in a circle.
        let mut ordered: Vec<&Claim> = claims.iter().collect();
        ordered.sort_by_key(|claim| claim.job);
        let mut held: HashMap<ClaimToken, RenewedRow> = HashMap::new();
        let mut tx = self.db().begin().await?;
        for batch in ordered.chunks(BATCH) {
            let mut args = args![worker, ends];
            args.extend(batch.iter().flat_map(|claim| args![claim.job, claim.attempt, claim.token]));
            let asked = tuples(3, batch.len(), 3);
            let sql =
                format!("WITH asked (asked_job, asked_attempt, asked_token) AS (VALUES {asked}){}{until}{}", RENEW.0, RENEW.1);
            let rows: Vec<RenewedRow> = tx.all(&sql, args).await?;
            held.extend(rows.into_iter().map(|row| (ClaimToken::from_uuid(row.token), row)));
        }
        let heard: Vec<HeardRow> = tx.all(HEARD, args![worker]).await?;
        tx.commit().await?;
        let renewal = |claim: &Claim| match held.remove(&claim.token) {
            Some(row) => {
                let stop = stop_request(row.cancel_reason.as_deref(), row.requeue_reason.as_deref());
                Renewal::Held { lease_until: Timestamp(row.lease_until), stop, deadline: row.deadline_at.map(Timestamp) }
            }
            None => Renewal::Lost,
        };
        Ok(Renewed { renewals: claims.iter().map(renewal).collect(), heard: Heard::of(heard)? })
    }

    /// Makes sure that a claim holds, and says until when: the last question before something is published. After the database
    /// was away for everybody a lease may have run out that nobody has taken note of; then it is renewed first.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`].
    pub async fn assure_claim(&self, claim: &Claim) -> Result<Timestamp, StoreError> {
        match self.check_claim(claim).await {
            Err(StoreError::LeaseLost) => {
                self.renew(&claim.worker, std::slice::from_ref(claim), self.config().lease).await?;
                self.check_claim(claim).await
            }
            checked => checked,
        }
    }

    /// What is asked of a worker and of the jobs that it runs. Cheap enough to ask at every hint: it writes nothing.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn orders(&self, worker: &WorkerId) -> Result<Orders, StoreError> {
        let rows: Vec<OrderRow> = self.db().all(ORDERS, args![worker]).await?;
        let order = |row: OrderRow| {
            let job = JobId::from_uuid(row.id);
            Ok(JobOrder {
                job,
                attempt: AttemptNo(number(row.attempt, || format!("job {job}"))?),
                stop: stop_request(row.cancel_reason.as_deref(), row.requeue_reason.as_deref()),
                deadline: row.deadline_at.map(Timestamp),
            })
        };
        let jobs = rows.into_iter().map(order).collect::<Result<_, StoreError>>()?;
        Ok(Orders { jobs, heard: self.heard(worker).await? })
    }

    async fn heard(&self, worker: &WorkerId) -> Result<Heard, StoreError> {
        Heard::of(self.db().all(HEARD, args![worker]).await?)
    }
}

impl Heard {
    fn of(rows: Vec<HeardRow>) -> Result<Self, StoreError> {
        let mut heard = Self::default();
        for row in rows {
            heard.drain = heard.drain.or(row.drain.drain());
            heard.pauses.extend(row.pause.pause().transpose()?);
        }
        Ok(heard)
    }
}
