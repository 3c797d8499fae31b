//! Credentials whose usage limit was met: for how long nothing that draws on one is started.
//!
//! The one rule: a pause begins in the transaction that ends the attempt which met the limit, behind its fence, and its job waits
//! for the end of it. Claims do not look here: workers know what is paused, because they hear of it with every answer to a renewal
//! and at every hint, and ask for jobs of other backends meanwhile.

use super::Store;
use super::error::StoreError;
use super::rows::{held_until, number};
use super::statement::{Arg, args, tuples};
use super::tx::{Lock, TRIES, Tx};
use super::types::CredentialNews;
use crate::clock::Timestamp;
use crate::job::{Claim, LimitMet, Pause, PausePolicy};

macro_rules! pause_columns {
    () => {
        "j.credential, j.since, j.until, j.reason, j.times, j.reset_known"
    };
}

const ALL: &str = concat!("SELECT ", pause_columns!(), " FROM pauses j ORDER BY j.credential");
const ONE: &str = concat!("SELECT ", pause_columns!(), " FROM pauses j WHERE j.credential = $1");
const ADD: &str = "INSERT INTO pauses (credential, since, until, reason, times, reset_known) VALUES ($1, $2, $3, $4, $5, $6) \
    ON CONFLICT DO NOTHING";
const SET: &str = "UPDATE pauses SET since = $2, until = $3, reason = $4, times = $5, reset_known = $6 WHERE credential = $1";
const DROP: &str = "DELETE FROM pauses WHERE credential = $1";
const FORGET: &str = "DELETE FROM pauses WHERE credential = $1 \
    AND until <= (SELECT a.started_at FROM attempts a WHERE a.job = $2 AND a.attempt = $3)";
const NAME_CREDENTIAL: &str = "UPDATE attempts SET credential = $3 WHERE job = $1 AND attempt = $2 RETURNING started_at";
/// Those whose last attempt met the limit of the credential.
const LIMITED: &str = concat!(
    "SELECT j.id FROM jobs j JOIN attempts a ON a.job = j.id AND a.attempt = j.attempt WHERE j.held = 'backoff' AND ",
    held_until!(),
    " AND j.outcome_class = 'usage_limit' AND a.credential = $1 ORDER BY j.id"
);
const LET_GO: &str = "UPDATE jobs SET ready_at = $1 WHERE held = 'backoff' AND ready_at > $1 AND id IN ";

/// Jobs in one statement.
const BATCH: usize = 100;

#[derive(sqlx::FromRow)]
struct PauseRow {
    credential: String,
    since: i64,
    until: i64,
    reason: String,
    times: i64,
    reset_known: i64,
}

/// As one comes beside something else, which may be there without one.
#[derive(sqlx::FromRow)]
pub(super) struct MaybePauseRow {
    credential: Option<String>,
    since: Option<i64>,
    until: Option<i64>,
    reason: Option<String>,
    times: Option<i64>,
    reset_known: Option<i64>,
}

#[derive(sqlx::FromRow)]
struct Began {
    started_at: i64,
}

#[derive(sqlx::FromRow)]
struct Limited {
    id: uuid::Uuid,
}

impl TryFrom<PauseRow> for Pause {
    type Error = StoreError;

    fn try_from(row: PauseRow) -> Result<Self, StoreError> {
        Ok(Self {
            times: number(row.times, || format!("the pause of credential {:?}", row.credential))?,
            credential: row.credential,
            since: Timestamp(row.since),
            until: Timestamp(row.until),
            reason: row.reason,
            reset_known: row.reset_known == 1,
        })
    }
}

impl MaybePauseRow {
    pub(super) fn pause(self) -> Option<Result<Pause, StoreError>> {
        let row = PauseRow {
            credential: self.credential?,
            since: self.since?,
            until: self.until?,
            reason: self.reason?,
            times: self.times?,
            reset_known: self.reset_known?,
        };
        Some(row.try_into())
    }
}

impl Store {
    /// The pauses on record, by credential: those in force, and those that are over while nothing has succeeded since.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn pauses(&self) -> Result<Vec<Pause>, StoreError> {
        let rows: Vec<PauseRow> = self.db().all(ALL, args![]).await?;
        rows.into_iter().map(Pause::try_from).collect()
    }

    /// Ends the pause of a credential, and makes those jobs ready that wait for the end of it. Says what the pause was.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] where it is not paused.
    pub async fn lift_pause(&self, credential: &str) -> Result<Pause, StoreError> {
        let mut tries = 1;
        loop {
            let mut tx = self.db().begin().await?;
            let result = lift(&mut tx, credential, self.now()).await;
            match self.conclude(tx, result).await {
                Err(error) if error.is_deadlock() && tries < TRIES => tries += 1,
                result => return result,
            }
        }
    }
}

/// All that are on record, as this transaction sees them.
pub(super) async fn all(tx: &mut Tx) -> Result<Vec<Pause>, StoreError> {
    let rows: Vec<PauseRow> = tx.all(ALL, args![]).await?;
    rows.into_iter().map(Pause::try_from).collect()
}

/// Puts on record what an attempt, whose claim this transaction holds, says of its credential. Where that is paused: until when.
pub(super) async fn hear(
    tx: &mut Tx,
    policy: &PausePolicy,
    claim: &Claim,
    news: &CredentialNews,
    reason: &str,
    now: Timestamp,
) -> Result<Option<Timestamp>, StoreError> {
    let (credential, retry_at) = match news {
        CredentialNews::Works { credential } => {
            tx.run(FORGET, args![credential, claim.job, claim.attempt]).await?;
            return Ok(None);
        }
        CredentialNews::Limited { credential, retry_at } => (credential, *retry_at),
    };
    let began: Option<Began> = tx.first(NAME_CREDENTIAL, args![claim.job, claim.attempt, credential]).await?;
    let began = began.map_or(now, |row| Timestamp(row.started_at));
    let met = LimitMet { credential, retry_at, reason, began };
    loop {
        let first = policy.after(None, &met, now);
        if tx.run(ADD, row(&first)).await? == 1 {
            return Ok(Some(first.until));
        }
        let before: Option<PauseRow> = tx.first_locked(ONE, Lock::Change, args![credential]).await?;
        // None: somebody has forgotten or lifted it since.
        if let Some(before) = before {
            let next = policy.after(Some(&before.try_into()?), &met, now);
            tx.run(SET, row(&next)).await?;
            return Ok(Some(next.until));
        }
    }
}

fn row(pause: &Pause) -> Vec<Arg> {
    args![&pause.credential, pause.since, pause.until, &pause.reason, pause.times, i64::from(pause.reset_known),]
}

async fn lift(tx: &mut Tx, credential: &str, now: Timestamp) -> Result<Pause, StoreError> {
    // Jobs before pauses: so does who ends an attempt.
    let limited: Vec<Limited> = tx.all_locked(LIMITED, Lock::Change, args![credential]).await?;
    let found: Option<PauseRow> = tx.first_locked(ONE, Lock::Change, args![credential]).await?;
    let pause = found.map(Pause::try_from).transpose()?.filter(|pause| pause.is_on(now));
    let pause = pause.ok_or_else(|| StoreError::not_found("pause of credential", credential))?;
    tx.run(DROP, args![credential]).await?;
    for batch in limited.chunks(BATCH) {
        let mut args = args![now];
        args.extend(batch.iter().map(|row| Arg::from(row.id)));
        tx.run(&format!("{LET_GO}{}", tuples(2, 1, batch.len())), args).await?;
    }
    Ok(pause)
}
