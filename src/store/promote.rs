//! Letting waiting jobs into the claim's index when their time has come.
//!
//! The one rule: a job that cannot be claimed is not in the index that claims walk, so that a hundred thousand jobs scheduled
//! for tomorrow cost today's nothing.

use super::error::StoreError;
use super::rows::held_until;
use super::statement::{Arg, args, tuples};
use super::tx::Lock;
use super::{Store, turn};
use crate::clock::Timestamp;
use crate::job::Hold;

/// One arm for each reason: both in one condition would not be read in the order of the index.
const NEXT: &str = concat!(
    "SELECT ready_at FROM (SELECT * FROM (SELECT j.ready_at FROM jobs j WHERE j.held = 'scheduled' AND ",
    held_until!(),
    " ORDER BY j.ready_at LIMIT 1) AS s UNION ALL SELECT * FROM (SELECT j.ready_at FROM jobs j WHERE j.held = 'backoff' AND ",
    held_until!(),
    " ORDER BY j.ready_at LIMIT 1) AS b) AS n ORDER BY ready_at LIMIT 1"
);
const DUE: &str =
    concat!("SELECT j.id FROM jobs j WHERE j.held = $1 AND ", held_until!(), " AND j.ready_at <= $2 ORDER BY j.ready_at LIMIT ");
const RELEASE: &str =
    concat!("UPDATE jobs SET held = NULL, position = ", turn::back!(), " WHERE held IN ('scheduled', 'backoff') AND id IN ");

/// At most so many in one call.
const LIMIT_MAX: u32 = 1_000;

#[derive(sqlx::FromRow)]
struct Next {
    ready_at: i64,
}

#[derive(sqlx::FromRow)]
struct Ready {
    id: uuid::Uuid,
}

impl Store {
    /// Makes at most `limit` jobs claimable whose time has come, and counts them. Safe when several processes do it.
    ///
    /// # Errors
    /// When the database cannot be asked; nothing has changed then.
    pub async fn promote_once(&self, limit: u32) -> Result<u64, StoreError> {
        let now = self.now();
        if limit == 0 || self.next_ready_at().await?.is_none_or(|ready_at| ready_at > now) {
            return Ok(0);
        }
        let mut tx = self.db().begin().await?;
        let mut ready: Vec<Ready> = Vec::new();
        for hold in [Hold::Scheduled, Hold::Backoff] {
            let sql = format!("{DUE}{}", limit.min(LIMIT_MAX) as usize - ready.len());
            ready.extend(tx.all_locked::<Ready>(&sql, Lock::ChangeFree, args![hold.as_str(), now]).await?);
        }
        if ready.is_empty() {
            return Ok(0);
        }
        let listed = tuples(1, 1, ready.len());
        let args = ready.into_iter().map(|row| Arg::from(row.id)).collect();
        let promoted = tx.run(&format!("{RELEASE}{listed}"), args).await?;
        self.commit_change(tx).await?;
        Ok(promoted)
    }

    /// When the next waiting job becomes claimable, by the clock of [`Store::now`]: [`Store::promote_once`] is due then.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn next_ready_at(&self) -> Result<Option<Timestamp>, StoreError> {
        let next: Option<Next> = self.db().first(NEXT, args![]).await?;
        Ok(next.map(|next| Timestamp(next.ready_at)))
    }
}
