//! The queue of completions, which integrators take from.
//!
//! The one rule: a completion is handed out at least once, never to two at a time, and never before an earlier one of its line
//! (see `line`) is done with. It comes back when its consumer refuses it or lets the lease run out, at most as often as is
//! allowed; then it is set aside as dead, with the reason, until somebody brings it back. Every answer to it names the token of
//! that delivery.

use super::Store;
use super::error::StoreError;
use super::jobs::{Conditions, page};
use super::line::Line;
use super::rows::{json, number, word};
use super::statement::{Arg, args, tuples};
use super::tx::{Lock, Tx};
use super::types::{CompletionAsk, CompletionFilter, HeldCompletion, Page, Refusal};
use crate::clock::Timestamp;
use crate::ids::{ClaimToken, CompletionId, JobId};
use crate::job::{CompletionEntry, CompletionState};

/// The columns of an [`EntryRow`], from `completions j`.
macro_rules! entry_columns {
    () => {
        "j.id, j.repo, j.line, j.state, j.visible_at, j.consumer, j.token, j.lease_until, j.deliveries, j.last_error, j.body"
    };
}

const LIST: &str = concat!("SELECT ", entry_columns!(), " FROM completions j WHERE ");
const VISIBLE: &str = "SELECT j.id FROM completions j WHERE ";
const HAND_OUT: &str = " UPDATE completions /*! INDEXED BY sqlite_autoindex_completions_1 */ SET state = 'claimed', visible_at = NULL, consumer = $1, lease_until = $2, deliveries = deliveries + 1, \
    token = picked_token FROM picked WHERE id = picked_id AND state = 'pending'";
/// Between the two, when the lease ends.
const RENEW: (&str, &str) = ("UPDATE completions SET lease_until = ", " WHERE id = $1 AND token = $3 AND state = 'claimed'");
const ACK: &str = "UPDATE completions SET state = 'acked', lease_until = NULL, ended_at = coalesce(ended_at, $3) \
    WHERE id = $1 AND token = $2 AND state IN ('claimed', 'acked')";
const NACK: &str = "UPDATE completions SET state = CASE WHEN deliveries >= $3 THEN 'dead' ELSE 'pending' END, \
    ended_at = CASE WHEN deliveries >= $3 THEN $4 END, visible_at = CASE WHEN deliveries >= $3 THEN NULL ELSE $5 END, last_error = $6, \
    consumer = NULL, token = NULL, lease_until = NULL WHERE id = $1 AND token = $2 AND state = 'claimed'";
const JOB_OF: &str = "SELECT j.job FROM completions j WHERE j.id = $1";
const KEEP_JOB: &str = "SELECT j.id FROM jobs j WHERE j.id = $1";
/// Into its old place in the line, where it waits until the line is arranged; one without a line may be handed out at once.
const BRING_BACK: &str = "UPDATE completions SET state = 'pending', deliveries = 0, ended_at = NULL, \
    visible_at = CASE WHEN line IS NULL THEN $2 END WHERE id = $1 AND state = 'dead'";

/// At most so many in one call.
const LIMIT_MAX: u32 = 256;

#[derive(sqlx::FromRow)]
struct EntryRow {
    id: uuid::Uuid,
    repo: String,
    line: Option<String>,
    state: String,
    visible_at: Option<i64>,
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

#[derive(sqlx::FromRow)]
struct JobOf {
    job: uuid::Uuid,
}

impl EntryRow {
    fn line(&self) -> Option<Line> {
        let name = self.line.clone()?;
        Some(Line { repo: self.repo.clone(), name })
    }
}

impl TryFrom<EntryRow> for CompletionEntry {
    type Error = StoreError;

    fn try_from(row: EntryRow) -> Result<Self, StoreError> {
        let what = || format!("completion {}", row.id);
        Ok(Self {
            completion: json(&row.body, what)?,
            state: word(&row.state, what)?,
            ready_at: row.visible_at.map(Timestamp),
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
        let mut such = Conditions::default();
        such.only("j.state =", filter.state.map(|state| state.as_str().into()));
        such.only("j.job =", filter.job.map(Arg::from));
        such.only("j.id <", filter.before.map(Arg::from));
        let sql = format!("{LIST}{} ORDER BY j.id DESC LIMIT {}", such.and("1 = 1"), u64::from(filter.limit) + 1);
        page(self.db().all::<EntryRow>(&sql, such.args).await?, filter.limit)
    }

    /// Hands out completions: of each line the first, those lines first that have waited longest.
    ///
    /// # Errors
    /// When the database cannot be asked; nothing is handed out then, or, where the answer to the commit was lost, it comes back
    /// when the lease runs out.
    pub async fn claim_completions(&self, ask: &CompletionAsk) -> Result<Vec<HeldCompletion>, StoreError> {
        let now = self.now();
        let (sql, wanted) = visible(ask, now);
        // Outside of a transaction first: an idle integrator is not to bother SQLite's writer.
        if self.db().first::<Visible>(&sql, wanted.clone()).await?.is_none() {
            return Ok(Vec::new());
        }
        let mut tx = self.db().begin().await?;
        let visible: Vec<Visible> = tx.all_locked(&sql, Lock::ChangeFree, wanted).await?;
        if visible.is_empty() {
            return Ok(Vec::new());
        }
        let now = tx.now(now).await?;
        let mut args = args![&ask.consumer, now + ask.lease.unwrap_or(self.config().completion_lease)];
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
        lease: Option<std::time::Duration>,
    ) -> Result<CompletionEntry, StoreError> {
        let lease = lease.unwrap_or(self.config().completion_lease);
        let (until, ends) = self.inner.clock.end_of(lease);
        self.answer(&format!("{}{until}{}", RENEW.0, RENEW.1), args![id, ends, token], id, Turn::Kept).await
    }

    /// Says that a completion is done with. Saying so again is no error.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::LeaseLost`] when it is no longer this delivery's.
    pub async fn ack_completion(&self, id: CompletionId, token: ClaimToken) -> Result<CompletionEntry, StoreError> {
        self.answer(ACK, args![id, token, self.now()], id, Turn::Given).await
    }

    /// Gives a completion back, with the reason: to be handed out again, or for good. One that waits for its retry keeps its
    /// place: the later ones of its line wait with it.
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
        self.answer(NACK, args![id, token, deliveries, now, visible_at, reason], id, Turn::Given).await
    }

    /// Brings a dead completion back, to its old place in its line and with its deliveries counted anew. One that waits to be
    /// handed out already is left as it is.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::NotDead`] for one that is held or acknowledged.
    pub async fn requeue_completion(&self, id: CompletionId) -> Result<CompletionEntry, StoreError> {
        let mut tx = self.db().begin().await?;
        let result = self.requeue_completion_within(&mut tx, id).await;
        self.conclude(tx, result).await
    }

    async fn requeue_completion_within(&self, tx: &mut Tx, id: CompletionId) -> Result<CompletionEntry, StoreError> {
        let unknown = || StoreError::not_found("completion", id);
        let job = JobId::from_uuid(tx.first::<JobOf>(JOB_OF, args![id]).await?.ok_or_else(unknown)?.job);
        // Retention, which looks at a job's completions before it removes the job, is kept from it meanwhile.
        tx.first_locked::<Visible>(KEEP_JOB, Lock::Keep, args![job]).await?.ok_or_else(unknown)?;
        let brought_back = tx.run(BRING_BACK, args![id, self.now()]).await? == 1;
        let row = entry(tx, id).await?.ok_or_else(unknown)?;
        let Some(line) = row.line().filter(|_| brought_back) else {
            let entry = CompletionEntry::try_from(row)?;
            return match entry.state {
                CompletionState::Pending => Ok(entry),
                state => Err(StoreError::NotDead { id, state }),
            };
        };
        self.arrange(tx, &line).await?;
        entry(tx, id).await?.ok_or_else(unknown)?.try_into()
    }

    /// Runs a statement that must change the one row of a delivery.
    async fn answer(&self, sql: &str, args: Vec<Arg>, id: CompletionId, turn: Turn) -> Result<CompletionEntry, StoreError> {
        let mut tx = self.db().begin().await?;
        let result = self.answer_within(&mut tx, sql, args, id, turn).await;
        match (result, turn) {
            (Ok(entry), Turn::Kept) => {
                tx.commit().await?;
                self.inner.hinter.progressed();
                Ok(entry)
            }
            (result, _) => self.conclude(tx, result).await,
        }
    }

    async fn answer_within(
        &self,
        tx: &mut Tx,
        sql: &str,
        args: Vec<Arg>,
        id: CompletionId,
        turn: Turn,
    ) -> Result<CompletionEntry, StoreError> {
        let changed = tx.run(sql, args).await?;
        let unknown = || StoreError::not_found("completion", id);
        let row = entry(tx, id).await?.ok_or_else(unknown)?;
        if changed != 1 {
            return Err(StoreError::LeaseLost);
        }
        if let Some(line) = row.line().filter(|_| turn == Turn::Given) {
            self.arrange(tx, &line).await?;
        }
        row.try_into()
    }
}

/// What an answer does to a completion's turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// It is held as before.
    Kept,
    /// It is held no more.
    Given,
}

async fn entry(tx: &mut Tx, id: CompletionId) -> Result<Option<EntryRow>, StoreError> {
    tx.first(&format!("{LIST} j.id = $1"), args![id]).await
}

/// What may be handed out now, of what is asked for, in order. Each filter has an index of its own.
fn visible(ask: &CompletionAsk, now: Timestamp) -> (String, Vec<Arg>) {
    let mut args = Vec::new();
    let mut sql = VISIBLE.to_owned();
    for (column, value) in [("project", &ask.project), ("repo", &ask.repo)] {
        if let Some(value) = value {
            args.push(Arg::from(value));
            sql.push_str(&format!("j.{column} = ${} AND ", args.len()));
        }
    }
    args.push(Arg::from(now));
    let limit = ask.limit.min(LIMIT_MAX);
    sql.push_str(&format!("j.visible_at <= ${} ORDER BY j.visible_at, j.id LIMIT {limit}", args.len()));
    (sql, args)
}
