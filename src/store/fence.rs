//! What a worker writes while it runs a job: all of it behind the fence.

use std::collections::{BTreeMap, HashMap};

use super::Store;
use super::db::Kind;
use super::error::StoreError;
use super::lease_clock::server_now;
use super::limits::{Limited, UnderLimits};
use super::statement::{Arg, args, tuples};
use super::tx::{Lock, Tx};
use super::writer::Durability;
use crate::clock::Timestamp;
use crate::ids::{ClaimToken, ObjectId};
use crate::job::attempt::RunsOn;
use crate::job::{Claim, StageRecord};

/// The fence: the one row of `jobs` that a claim gives the right to act for. The worker is compared in words that no index answers
/// to, here and in the other statements behind the fence: while statistics say that nothing runs, PostgreSQL would rather look among
/// the worker's rows, all those that it ever had until they are vacuumed, than for the one with the id.
macro_rules! of_claim {
    () => {
        " FROM jobs j WHERE j.id = $1 AND j.attempt = $2 AND j.token = $3 AND j.worker IS NOT DISTINCT FROM $4 AND j.state = 'running'"
    };
}

const HELD: &str = concat!(
    "SELECT j.lease_until, j.cancel_reason, j.attempts_used, j.attempts_max, j.resets, j.needed, j.share, j.concurrency_key, \
     j.concurrency_limit",
    of_claim!()
);
/// A server compares the end of a lease with its own clock; for a file `$5` is the time.
const CHECK: (&str, &str) = (
    concat!("SELECT j.lease_until, $5 AS now", of_claim!()),
    concat!("SELECT j.lease_until, ", server_now!(), " AS now", of_claim!()),
);
const ALL_HELD: &str = " SELECT j.token, j.lease_until, j.cancel_reason, j.attempts_used, j.attempts_max, j.resets, j.needed, j.share, \
    j.concurrency_key, j.concurrency_limit FROM asked /*! CROSS */ JOIN jobs j ON j.id = asked_job AND j.attempt = asked_attempt \
    AND j.token = asked_token AND j.worker IS NOT DISTINCT FROM asked_worker ORDER BY j.id";
const SET_BASE: &str = "UPDATE attempts SET base = $3 WHERE job = $1 AND attempt = $2";
const SET_RUNS_ON: &str = "UPDATE attempts SET runs_on = $3 WHERE job = $1 AND attempt = $2";
const PUT_STAGES: (&str, &str) = (
    "INSERT INTO attempt_stages (job, attempt, seq, stage, started_at, ended_at, outcome, detail) VALUES ",
    " ON CONFLICT (job, attempt, seq) DO UPDATE SET stage = excluded.stage, started_at = excluded.started_at, \
     ended_at = excluded.ended_at, outcome = excluded.outcome, detail = excluded.detail",
);

/// For what only tells of an attempt. Whoever has a file has its host too: when that loses its power the attempt has ended.
const OF_AN_ATTEMPT: Durability = Durability::Nothing;
/// Rows in one statement: well below the number of placeholders that either database takes.
pub(super) const BATCH: usize = 100;

/// The running job behind a claim.
#[derive(Debug, sqlx::FromRow)]
pub(super) struct Held {
    pub(super) lease_until: i64,
    pub(super) cancel_reason: Option<String>,
    pub(super) attempts_used: i64,
    pub(super) attempts_max: i64,
    pub(super) resets: i64,
    pub(super) needed: i64,
    #[sqlx(flatten)]
    pub(super) under: UnderLimits,
}

impl Limited for Held {
    fn under(&self) -> &UnderLimits {
        &self.under
    }
}

#[derive(sqlx::FromRow)]
struct Checked {
    lease_until: i64,
    now: i64,
}

#[derive(sqlx::FromRow)]
struct HeldRow {
    token: uuid::Uuid,
    #[sqlx(flatten)]
    held: Held,
}

fn fence(claim: &Claim) -> Vec<Arg> {
    args![claim.job, claim.attempt, claim.token, &claim.worker]
}

/// Finds the claim's row and locks it until the end of the transaction, or reports that the lease is lost.
pub(super) async fn hold(tx: &mut Tx, claim: &Claim, lock: Lock) -> Result<Held, StoreError> {
    tx.first_locked(HELD, lock, fence(claim)).await?.ok_or(StoreError::LeaseLost)
}

/// Finds the rows of several claims and locks them until the end of the transaction. Those that are missing have lost their
/// leases.
pub(super) async fn hold_all(tx: &mut Tx, claims: &[&Claim]) -> Result<HashMap<ClaimToken, Held>, StoreError> {
    let mut held = HashMap::new();
    for batch in claims.chunks(BATCH) {
        let args = batch.iter().flat_map(|claim| fence(claim)).collect();
        let sql = format!(
            "WITH asked (asked_job, asked_attempt, asked_token, asked_worker) AS (VALUES {}){ALL_HELD}",
            tuples(1, batch.len(), 4)
        );
        let rows: Vec<HeldRow> = tx.all_locked(&sql, Lock::Change, args).await?;
        held.extend(rows.into_iter().map(|row| (ClaimToken::from_uuid(row.token), row.held)));
    }
    Ok(held)
}

/// Writes stages of attempts whose claims are held, replacing those of the same number.
pub(super) async fn put_stages(tx: &mut Tx, stages: &[(&Claim, &[StageRecord])]) -> Result<(), StoreError> {
    let mut rows: Vec<(&Claim, &StageRecord)> = Vec::new();
    for (claim, stages) in stages {
        rows.extend(last_of_each(stages).into_iter().map(|stage| (*claim, stage)));
    }
    for batch in rows.chunks(BATCH) {
        let sql = format!("{}{}{}", PUT_STAGES.0, tuples(1, batch.len(), 8), PUT_STAGES.1);
        let args = batch.iter().flat_map(|(claim, stage)| {
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

/// One statement may touch a row once only: the last one of a number counts.
pub(super) fn last_of_each(stages: &[StageRecord]) -> Vec<&StageRecord> {
    let by_seq: BTreeMap<u32, &StageRecord> = stages.iter().map(|stage| (stage.seq, stage)).collect();
    by_seq.into_values().collect()
}

impl Store {
    /// Looks whether a claim holds and has not run out, and until when.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`], also when the lease has run out and nobody has taken note of it yet.
    pub async fn check_claim(&self, claim: &Claim) -> Result<Timestamp, StoreError> {
        let mut args = fence(claim);
        let sql = match self.db().kind() {
            Kind::Sqlite => {
                args.push(self.now().into());
                CHECK.0
            }
            Kind::Postgres => CHECK.1,
        };
        let checked: Checked = self.db().first(sql, args).await?.ok_or(StoreError::LeaseLost)?;
        if checked.lease_until <= checked.now { Err(StoreError::LeaseLost) } else { Ok(Timestamp(checked.lease_until)) }
    }

    /// Records the exact commit that the attempt starts from. It is safe when this returns, and the claim with it: nothing that an attempt
    /// leaves elsewhere, such as a branch, may outlive its number.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`].
    pub async fn record_base(&self, claim: &Claim, base: &ObjectId) -> Result<(), StoreError> {
        let mut tx = self.db().begin().await?;
        hold(&mut tx, claim, Lock::Keep).await?;
        tx.run(SET_BASE, args![claim.job, claim.attempt, base]).await?;
        tx.commit().await
    }

    /// Records where the attempt's commands run.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`].
    pub async fn record_runs_on(&self, claim: &Claim, runs_on: &RunsOn) -> Result<(), StoreError> {
        let text = serde_json::to_string(runs_on).expect("it is made of texts");
        let mut tx = self.db().begin_with(OF_AN_ATTEMPT).await?;
        hold(&mut tx, claim, Lock::Keep).await?;
        tx.run(SET_RUNS_ON, args![claim.job, claim.attempt, text.as_str()]).await?;
        tx.commit().await
    }

    /// Records stages of the attempt, replacing those of the same number.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`].
    pub async fn record_stages(&self, claim: &Claim, stages: &[StageRecord]) -> Result<(), StoreError> {
        let mut tx = self.db().begin_with(OF_AN_ATTEMPT).await?;
        hold(&mut tx, claim, Lock::Keep).await?;
        put_stages(&mut tx, &[(claim, stages)]).await?;
        tx.commit().await?;
        self.inner.hinter.progressed();
        Ok(())
    }
}
