//! What a worker writes while it runs a job: all of it behind the fence.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::Store;
use super::db::{Lock, Tx};
use super::error::StoreError;
use super::statement::{Arg, args, tuples};
use super::types::{Renewal, StopRequest};
use super::verdict::stop_request;
use crate::clock::Timestamp;
use crate::ids::{ClaimToken, ObjectId, WorkerId};
use crate::job::{Claim, StageRecord};

/// The fence: the one row of `jobs` that a claim gives the right to act for.
const HELD: &str = "SELECT j.lease_until, j.cancel_reason, j.attempts_used, j.attempts_max, j.resets FROM jobs j \
    WHERE j.id = $1 AND j.attempt = $2 AND j.token = $3 AND j.worker = $4 AND j.state = 'running'";
const RENEW: &str = " UPDATE jobs SET lease_until = $2 FROM asked \
    WHERE id = asked_job AND attempt = asked_attempt AND token = asked_token AND worker = $1 AND state = 'running' \
    RETURNING token, cancel_reason, requeue_reason";
const SET_BASE: &str = "UPDATE attempts SET base = $3 WHERE job = $1 AND attempt = $2";
const PUT_STAGES: (&str, &str) = (
    "INSERT INTO attempt_stages (job, attempt, seq, stage, started_at, ended_at, outcome, detail) VALUES ",
    " ON CONFLICT (job, attempt, seq) DO UPDATE SET stage = excluded.stage, started_at = excluded.started_at, \
     ended_at = excluded.ended_at, outcome = excluded.outcome, detail = excluded.detail",
);

/// Rows in one statement: well below the number of placeholders that either database takes.
const BATCH: usize = 100;

/// The running job behind a claim.
#[derive(Debug, sqlx::FromRow)]
pub(super) struct Held {
    pub(super) lease_until: i64,
    pub(super) cancel_reason: Option<String>,
    pub(super) attempts_used: i64,
    pub(super) attempts_max: i64,
    pub(super) resets: i64,
}

#[derive(sqlx::FromRow)]
struct Renewed {
    token: uuid::Uuid,
    cancel_reason: Option<String>,
    requeue_reason: Option<String>,
}

fn fence(claim: &Claim) -> Vec<Arg> {
    args![claim.job, claim.attempt, claim.token, &claim.worker]
}

/// Finds the claim's row and locks it until the end of the transaction, or reports that the lease is lost.
pub(super) async fn hold(tx: &mut Tx, claim: &Claim, lock: Lock) -> Result<Held, StoreError> {
    tx.first_locked(HELD, lock, fence(claim)).await?.ok_or(StoreError::LeaseLost)
}

/// Writes stages of an attempt whose claim is held, replacing those of the same number.
pub(super) async fn put_stages(tx: &mut Tx, claim: &Claim, stages: &[StageRecord]) -> Result<(), StoreError> {
    // One statement may touch a row once only: the last one of a number counts.
    let by_seq: BTreeMap<u32, &StageRecord> = stages.iter().map(|stage| (stage.seq, stage)).collect();
    let rows: Vec<&StageRecord> = by_seq.into_values().collect();
    for batch in rows.chunks(BATCH) {
        let sql = format!("{}{}{}", PUT_STAGES.0, tuples(1, batch.len(), 8), PUT_STAGES.1);
        let args = batch.iter().flat_map(|stage| {
            args![
                claim.job,
                claim.attempt,
                stage.seq,
                stage.stage.as_str(),
                stage.started_at,
                stage.ended_at,
                stage.outcome.map(|class| class.as_str()),
                stage.detail.as_deref(),
            ]
        });
        tx.run(&sql, args.collect()).await?;
    }
    Ok(())
}

impl Store {
    /// Renews claims of one worker, all in one transaction, and says of each whether it holds and what is asked of its
    /// worker. A lease that has run out is renewed all the same where nobody has taken note of it yet.
    ///
    /// # Errors
    /// [`StoreError::ForeignClaim`] for a claim of another worker. When the database cannot be reached, nothing is known.
    pub async fn renew(&self, worker: &WorkerId, claims: &[Claim], lease: Duration) -> Result<Vec<Renewal>, StoreError> {
        if let Some(foreign) = claims.iter().find(|claim| claim.worker != *worker) {
            return Err(StoreError::ForeignClaim { asked: worker.clone(), holder: foreign.worker.clone() });
        }
        if claims.is_empty() {
            return Ok(Vec::new());
        }
        let lease_until = self.now() + lease;
        // Always in the same order, so that two renewals at once do not wait for each other in a circle.
        let mut ordered: Vec<&Claim> = claims.iter().collect();
        ordered.sort_by_key(|claim| claim.job);
        let mut held: HashMap<ClaimToken, Option<StopRequest>> = HashMap::new();
        let mut tx = self.db().begin().await?;
        for batch in ordered.chunks(BATCH) {
            let mut args = args![worker, lease_until];
            args.extend(batch.iter().flat_map(|claim| args![claim.job, claim.attempt, claim.token]));
            let asked = tuples(3, batch.len(), 3);
            let sql = format!("WITH asked (asked_job, asked_attempt, asked_token) AS (VALUES {asked}){RENEW}");
            let rows: Vec<Renewed> = tx.all(&sql, args).await?;
            held.extend(rows.into_iter().map(|row| {
                let stop = stop_request(row.cancel_reason.as_deref(), row.requeue_reason.as_deref());
                (ClaimToken::from_uuid(row.token), stop)
            }));
        }
        tx.commit().await?;
        let renewal = |claim: &Claim| match held.get(&claim.token) {
            Some(stop) => Renewal::Held { lease_until, stop: stop.clone() },
            None => Renewal::Lost,
        };
        Ok(claims.iter().map(renewal).collect())
    }

    /// Looks whether a claim holds and has not run out, and until when: the last question before something is published.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`], also when the lease has run out and nobody has taken note of it yet.
    pub async fn check_claim(&self, claim: &Claim) -> Result<Timestamp, StoreError> {
        let held: Held = self.db().first(HELD, fence(claim)).await?.ok_or(StoreError::LeaseLost)?;
        let lease_until = Timestamp(held.lease_until);
        if lease_until <= self.now() { Err(StoreError::LeaseLost) } else { Ok(lease_until) }
    }

    /// Records the exact commit that the attempt starts from.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`].
    pub async fn record_base(&self, claim: &Claim, base: &ObjectId) -> Result<(), StoreError> {
        let mut tx = self.db().begin().await?;
        hold(&mut tx, claim, Lock::Keep).await?;
        tx.run(SET_BASE, args![claim.job, claim.attempt, base]).await?;
        tx.commit().await
    }

    /// Records stages of the attempt, replacing those of the same number.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`].
    pub async fn record_stages(&self, claim: &Claim, stages: &[StageRecord]) -> Result<(), StoreError> {
        let mut tx = self.db().begin().await?;
        hold(&mut tx, claim, Lock::Keep).await?;
        put_stages(&mut tx, claim, stages).await?;
        tx.commit().await?;
        self.inner.hinter.progressed();
        Ok(())
    }
}
