//! Duties that one process at a time has, for all.
//!
//! The one rule: a duty is a row with an end. Whoever has it says so again before that; whoever finds it over takes it. Two that have it
//! at once, because one of them was stopped for longer, do what each of them may do alone.

use std::time::Duration;

use uuid::Uuid;

use super::Store;
use super::db::Kind;
use super::error::StoreError;
use super::statement::args;
use super::tx::Tx;
use crate::clock::Timestamp;

const TAKE: &str = "INSERT INTO duties (name, holder, until) VALUES ($1, $2, $3) \
    ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until \
    WHERE duties.holder = excluded.holder OR duties.until <= $4";

/// Removing what ended long ago.
pub(super) const RETENTION: &str = "retention";
/// Removing routes that no job has.
pub(super) const ROUTES: &str = "routes";
/// Looking for what is over, and for room.
const REAPING: &str = "reaping";

/// Takes a duty for so long, or learns that another has it.
pub(super) async fn take(tx: &mut Tx, name: &str, holder: Uuid, long: Duration, now: Timestamp) -> Result<bool, StoreError> {
    Ok(tx.run(TAKE, args![name, holder, now + long, now]).await? == 1)
}

impl Store {
    /// Takes the duty to look for leases that are over, and for room under limits, for `long`; false where another process has it. Of those
    /// who share a file each has it: they are few, and looking costs less there than saying so.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn take_reaping(&self, long: Duration) -> Result<bool, StoreError> {
        if self.db().kind() == Kind::Sqlite {
            return Ok(true);
        }
        let mut tx = self.db().begin().await?;
        match take_reaping_within(&mut tx, self.inner.process, long, self.now()).await {
            Ok(true) => tx.commit().await.map(|()| true),
            taken => {
                tx.rollback().await;
                taken
            }
        }
    }
}

async fn take_reaping_within(tx: &mut Tx, holder: Uuid, long: Duration, now: Timestamp) -> Result<bool, StoreError> {
    // Who takes it over after a crash that undid this has lost nothing.
    tx.in_passing().await?;
    take(tx, REAPING, holder, long, now).await
}
