//! The queue of completions, which integrators take from.
//!
//! The one rule: a completion is handed out at least once and never to two at a time. It comes back when its consumer refuses
//! it or lets the lease run out, at most as often as is allowed; every answer to it names the token of that delivery.

use std::time::Duration;

use super::Store;
use super::db::{Lock, Tx};
use super::error::StoreError;
use super::jobs::{Listing, page};
use super::rows::{json, number, word};
use super::statement::{Arg, args, tuples};
use super::types::{CompletionFilter, HeldCompletion, Page, Refusal};
use crate::clock::Timestamp;
use crate::ids::{ClaimToken, CompletionId};
use crate::job::{CompletionEntry, CompletionState};

/// The columns of an [`EntryRow`], from `completions j`.
macro_rules! entry_columns {
    () => {
        "j.id, j.state, j.consumer, j.token, j.lease_until, j.deliveries, j.last_error, j.body"
    };
}

const LIST: &str = concat!("SELECT ", entry_columns!(), " FROM completions j WHERE ");
const VISIBLE: &str = "SELECT j.id FROM completions j WHERE j.visible_at <= $1 ORDER BY j.visible_at, j.id LIMIT ";
const HAND_OUT: &str = " UPDATE completions SET state = 'claimed', visible_at = NULL, consumer = $1, lease_until = $2, deliveries = deliveries + 1, \
    token = picked_token FROM picked WHERE id = picked_id AND state = 'pending'";
const RENEW: &str = "UPDATE completions SET lease_until = $3 WHERE id = $1 AND token = $2 AND state = 'claimed'";
const ACK: &str = "UPDATE completions SET state = 'acked', lease_until = NULL, ended_at = coalesce(ended_at, $3) \
    WHERE id = $1 AND token = $2 AND state IN ('claimed', 'acked')";
const NACK: &str = "UPDATE completions SET state = CASE WHEN deliveries >= $3 THEN 'dead' ELSE 'pending' END, \
    ended_at = CASE WHEN deliveries >= $3 THEN $4 END, visible_at = CASE WHEN deliveries >= $3 THEN NULL ELSE $5 END, last_error = $6, \
    consumer = NULL, token = NULL, lease_until = NULL WHERE id = $1 AND token = $2 AND state = 'claimed'";

/// At most so many in one call.
const LIMIT_MAX: u32 = 256;

#[derive(sqlx::FromRow)]
struct EntryRow {
    id: uuid::Uuid,
    state: String,
    consumer: Option<String>,
    token: Option<uuid::Uuid>,
    lease_until: Option<i64>,
    deliveries: i64,
    last_error: Option<String>,
    body: String,
}

#[derive(sqlx::FromRow)]
struct Visible {
    id: uuid::Uuid,
}

impl TryFrom<EntryRow> for CompletionEntry {
    type Error = StoreError;

    fn try_from(row: EntryRow) -> Result<Self, StoreError> {
        let what = || format!("completion {}", row.id);
        Ok(Self {
            completion: json(&row.body, what)?,
            state: word(&row.state, what)?,
            lease_until: row.lease_until.map(Timestamp),
            deliveries: number(row.deliveries, what)?,
            consumer: row.consumer,
            last_error: row.last_error,
        })
    }
}

impl TryFrom<EntryRow> for HeldCompletion {
    type Error = StoreError;

    fn try_from(row: EntryRow) -> Result<Self, StoreError> {
        let token = row.token.ok_or_else(|| StoreError::corrupt(format!("completion {}", row.id), "it has no token"))?;
        Ok(Self { entry: row.try_into()?, token: ClaimToken::from_uuid(token) })
    }
}

impl Store {
    /// Completions, newest first.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn completions(&self, filter: &CompletionFilter) -> Result<Page<CompletionEntry>, StoreError> {
        let mut list = Listing::new();
        list.only("j.state =", filter.state.map(|state| state.as_str().into()));
        list.only("j.job =", filter.job.map(Arg::from));
        list.only("j.id <", filter.before.map(Arg::from));
        let (sql, args) = list.newest_first(LIST, filter.limit);
        page(self.db().all::<EntryRow>(&sql, args).await?, filter.limit)
    }

    /// Hands out at most `limit` completions, those first that have waited longest, for `lease` or the configured time.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn claim_completions(
        &self,
        consumer: &str,
        limit: u32,
        lease: Option<Duration>,
    ) -> Result<Vec<HeldCompletion>, StoreError> {
        let now = self.now();
        let sql = format!("{VISIBLE}{}", limit.min(LIMIT_MAX));
        // Outside of a transaction first: an idle integrator is not to bother SQLite's writer.
        if self.db().first::<Visible>(&sql, args![now]).await?.is_none() {
            return Ok(Vec::new());
        }
        let mut tx = self.db().begin().await?;
        let visible: Vec<Visible> = tx.all_locked(&sql, Lock::ChangeFree, args![now]).await?;
        if visible.is_empty() {
            return Ok(Vec::new());
        }
        let mut args = args![consumer, now + lease.unwrap_or(self.config().completion_lease)];
        args.extend(visible.iter().flat_map(|row| [Arg::from(row.id), Arg::from(ClaimToken::generate())]));
        let picked = tuples(3, visible.len(), 2);
        tx.run(&format!("WITH picked (picked_id, picked_token) AS (VALUES {picked}){HAND_OUT}"), args).await?;
        let args = visible.iter().map(|row| Arg::from(row.id)).collect();
        let sql = format!("{LIST} j.id IN {} ", tuples(1, 1, visible.len()));
        let mut rows: Vec<EntryRow> = tx.all(&sql, args).await?;
        rows.sort_by_key(|row| visible.iter().position(|picked| picked.id == row.id));
        tx.commit().await?;
        self.inner.hinter.progressed();
        rows.into_iter().map(HeldCompletion::try_from).collect()
    }

    /// Holds a completion for `lease`, or the configured time, from now on.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::LeaseLost`] when it is no longer this delivery's.
    pub async fn renew_completion(
        &self,
        id: CompletionId,
        token: ClaimToken,
        lease: Option<Duration>,
    ) -> Result<CompletionEntry, StoreError> {
        let until = self.now() + lease.unwrap_or(self.config().completion_lease);
        let tx = self.db().begin().await?;
        self.answer(tx, RENEW, args![id, token, until], id).await
    }

    /// Says that a completion is done with. Saying so again is no error.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::LeaseLost`] when it is no longer this delivery's.
    pub async fn ack_completion(&self, id: CompletionId, token: ClaimToken) -> Result<CompletionEntry, StoreError> {
        let tx = self.db().begin().await?;
        self.answer(tx, ACK, args![id, token, self.now()], id).await
    }

    /// Gives a completion back, with the reason: to be handed out again, or for good.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::LeaseLost`] when it is no longer this delivery's.
    pub async fn nack_completion(
        &self,
        id: CompletionId,
        token: ClaimToken,
        reason: &str,
        refusal: Refusal,
    ) -> Result<CompletionEntry, StoreError> {
        let now = self.now();
        let (deliveries, visible_at) = match refusal {
            Refusal::Retry { after } => (self.config().completion_deliveries, now + after),
            Refusal::Dead => (0, now),
        };
        let tx = self.db().begin().await?;
        self.answer(tx, NACK, args![id, token, deliveries, now, visible_at, reason], id).await
    }

    /// Runs a statement that must change the one row of a delivery.
    async fn answer(&self, mut tx: Tx, sql: &str, args: Vec<Arg>, id: CompletionId) -> Result<CompletionEntry, StoreError> {
        let changed = tx.run(sql, args).await?;
        let row: Option<EntryRow> = tx.first(&format!("{LIST} j.id = $1"), args![id]).await?;
        let row = row.ok_or_else(|| StoreError::not_found("completion", id))?;
        if changed != 1 {
            return Err(StoreError::LeaseLost);
        }
        let entry = CompletionEntry::try_from(row)?;
        if entry.state == CompletionState::Pending {
            self.commit_change(tx).await?;
        } else {
            tx.commit().await?;
            self.inner.hinter.progressed();
        }
        Ok(entry)
    }
}
