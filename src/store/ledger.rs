//! The ledger: what attempts used of models, by attempt, by execution and by project.
//!
//! The one rule: what is on record of an attempt is in the sums, no more and no less, at any time. Whoever changes the one adds the difference
//! to the others, in the same transaction and behind the fence. What is there is never taken back: what was used was used, and who says less
//! in the end than before, because its last word was lost say, has used the larger. So an attempt counts while it runs, with what it has said so far; its
//! end adds what came since; and whoever closes one that says nothing any more, because its lease is over, has nothing to add. A look at
//! a sum reads one row for each day, however many run. Sums stay when retention removes attempts.

use std::collections::BTreeMap;

use super::Store;
use super::error::StoreError;
use super::rows::number;
use super::statement::{args, tuples};
use super::tx::{Lock, Tx};
use super::writer::Durability;
use crate::clock::Timestamp;
use crate::job::Claim;
use crate::job::budget::{MicroUsd, Spent, day_of};
use crate::job::completion::Usage;

const ON_RECORD: &str = "SELECT j.prompt_tokens, j.completion_tokens, j.cost_micro_usd, j.model, \
    (SELECT o.share FROM jobs o WHERE o.id = $1) AS share, (SELECT o.execution FROM jobs o WHERE o.id = $1) AS execution \
    FROM attempts j WHERE j.job = $1 AND j.attempt = $2";
const RECORD: &str = "UPDATE attempts SET prompt_tokens = $3, completion_tokens = $4, cost_micro_usd = $5, model = $6 \
    WHERE job = $1 AND attempt = $2";
const ADD: (&str, &str) = (
    "INSERT INTO spending (scope, name, day, attempts, prompt_tokens, completion_tokens, cost_micro_usd) VALUES ",
    " ON CONFLICT (scope, name, day) DO UPDATE SET attempts = spending.attempts + excluded.attempts, \
     prompt_tokens = spending.prompt_tokens + excluded.prompt_tokens, \
     completion_tokens = spending.completion_tokens + excluded.completion_tokens, \
     cost_micro_usd = spending.cost_micro_usd + excluded.cost_micro_usd",
);

/// The fence of one who does not lock the job: who renews waits for nobody who waits for a sum. Whoever ends the attempt writes to its row,
/// so that one of the two finds what the other has written.
const WHILE_IT_RUNS: &str = " AND j.ended_at IS NULL AND EXISTS (SELECT 1 FROM jobs o WHERE o.id = $1 AND o.attempt = $2 AND o.token = $3 \
    AND o.worker IS NOT DISTINCT FROM $4 AND o.state = 'running')";

/// An attempt's row, and whom it counts for.
#[derive(sqlx::FromRow)]
struct AttemptRow {
    #[sqlx(flatten)]
    used: UsedRow,
    share: Option<String>,
    execution: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, sqlx::FromRow)]
struct UsedRow {
    prompt_tokens: Option<i64>,
    completion_tokens: Option<i64>,
    cost_micro_usd: Option<i64>,
    model: Option<String>,
}

/// What is to be added to a sum.
#[derive(Debug, Default, Clone, Copy)]
struct Difference {
    attempts: i64,
    prompt_tokens: i64,
    completion_tokens: i64,
    cost_micro_usd: i64,
}

impl UsedRow {
    fn of(usage: &Usage) -> Self {
        // Sums are made of what one attempt is believed, which is far from what a number can be.
        let spent = Spent::of(usage);
        Self {
            prompt_tokens: Some(spent.prompt_tokens.cast_signed()),
            completion_tokens: Some(spent.completion_tokens.cast_signed()),
            cost_micro_usd: usage.cost_usd.map(|_| spent.cost_usd.0.cast_signed()),
            model: usage.model.clone(),
        }
    }

    /// What was used by the one or the other that says more.
    fn or_more(self, other: Self) -> Self {
        Self {
            prompt_tokens: self.prompt_tokens.max(other.prompt_tokens),
            completion_tokens: self.completion_tokens.max(other.completion_tokens),
            cost_micro_usd: self.cost_micro_usd.max(other.cost_micro_usd),
            model: self.model.or(other.model),
        }
    }

    fn attempts(&self) -> i64 {
        i64::from(self.prompt_tokens.is_some())
    }

    fn beyond(&self, before: &Self) -> Difference {
        let more = |now: Option<i64>, before: Option<i64>| now.unwrap_or(0) - before.unwrap_or(0);
        Difference {
            attempts: self.attempts() - before.attempts(),
            prompt_tokens: more(self.prompt_tokens, before.prompt_tokens),
            completion_tokens: more(self.completion_tokens, before.completion_tokens),
            cost_micro_usd: more(self.cost_micro_usd, before.cost_micro_usd),
        }
    }

    fn spent(&self) -> Result<Spent, StoreError> {
        let what = || "what an attempt used".to_owned();
        let of = |column: Option<i64>| number(column.unwrap_or(0), what);
        Ok(Spent {
            attempts: number(self.attempts(), what)?,
            prompt_tokens: of(self.prompt_tokens)?,
            completion_tokens: of(self.completion_tokens)?,
            cost_usd: MicroUsd(of(self.cost_micro_usd)?),
        })
    }
}

impl Difference {
    fn add(&mut self, other: &Self) {
        self.attempts += other.attempts;
        self.prompt_tokens += other.prompt_tokens;
        self.completion_tokens += other.completion_tokens;
        self.cost_micro_usd += other.cost_micro_usd;
    }
}

/// What is to be added to which sums, in order, so that two who write several at once do not wait for each other in a circle.
type Sums = BTreeMap<(&'static str, String), Difference>;

/// Puts what attempts used in all on record, whose claims this transaction holds, where that is more than they said before.
pub(super) async fn record(tx: &mut Tx, used: &[(&Claim, &Usage)], now: Timestamp) -> Result<(), StoreError> {
    let mut sums = Sums::new();
    for (claim, usage) in used {
        let before: Option<AttemptRow> = tx.first_locked(ON_RECORD, Lock::Change, args![claim.job, claim.attempt]).await?;
        if let Some(before) = before {
            put(tx, claim, usage, before, &mut sums).await?;
        }
    }
    add(tx, &sums, day_of(now)).await
}

/// The same of one that runs, whose claim nobody holds.
async fn record_running(tx: &mut Tx, claim: &Claim, usage: &Usage, now: Timestamp) -> Result<(), StoreError> {
    tx.in_passing().await?;
    let fence = args![claim.job, claim.attempt, claim.token, &claim.worker];
    let before = tx.first_locked(&format!("{ON_RECORD}{WHILE_IT_RUNS}"), Lock::Change, fence).await?;
    let mut sums = Sums::new();
    put(tx, claim, usage, before.ok_or(StoreError::LeaseLost)?, &mut sums).await?;
    add(tx, &sums, day_of(now)).await
}

/// Writes to the row of an attempt, which is locked, and notes what that adds to sums.
async fn put(tx: &mut Tx, claim: &Claim, usage: &Usage, before: AttemptRow, sums: &mut Sums) -> Result<(), StoreError> {
    let AttemptRow { used: before, share, execution } = before;
    let after = UsedRow::of(usage).or_more(before.clone());
    if after == before {
        return Ok(());
    }
    let UsedRow { prompt_tokens, completion_tokens, cost_micro_usd, model } = &after;
    let row = args![claim.job, claim.attempt, *prompt_tokens, *completion_tokens, *cost_micro_usd, model.as_deref()];
    tx.run(RECORD, row).await?;
    for (scope, name) in [("execution", execution), ("project", share.filter(|share| !share.is_empty()))] {
        if let Some(name) = name {
            sums.entry((scope, name)).or_default().add(&after.beyond(&before));
        }
    }
    Ok(())
}

async fn add(tx: &mut Tx, sums: &Sums, day: i64) -> Result<(), StoreError> {
    if sums.is_empty() {
        return Ok(());
    }
    let rows = sums.iter().flat_map(|((scope, name), sum)| {
        args![*scope, name, day, sum.attempts, sum.prompt_tokens, sum.completion_tokens, sum.cost_micro_usd]
    });
    let sql = format!("{}{}{}", ADD.0, tuples(1, sums.len(), 7), ADD.1);
    tx.run(&sql, rows.collect()).await.map(drop)
}

/// What is on record of the attempt of a claim.
pub(super) async fn of_attempt(tx: &mut Tx, claim: &Claim) -> Result<Spent, StoreError> {
    let row: Option<AttemptRow> = tx.first(ON_RECORD, args![claim.job, claim.attempt]).await?;
    row.map_or_else(|| Ok(Spent::default()), |row| row.used.spent())
}

impl Store {
    /// Puts what the running attempt of a claim has used so far on record, where that is more than it said before: from then on it counts for
    /// all whom its budgets concern.
    ///
    /// A crash of the host may undo it, as if it had not been said yet: the commit does not wait for the disk, since all that run for
    /// one project meet in the row of its sum. Nor does it wait for long where others hold that: it is to be said again.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`], and nothing has changed.
    pub async fn record_usage(&self, claim: &Claim, used: &Usage) -> Result<(), StoreError> {
        let mut tx = self.db().begin_with(Durability::Nothing).await?;
        match record_running(&mut tx, claim, used, self.now()).await {
            Ok(()) => tx.commit().await,
            Err(error) => {
                tx.rollback().await;
                Err(error)
            }
        }
    }
}
