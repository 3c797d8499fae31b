//! Changes that other processes make to a SQLite file, seen by the file's data version.
//!
//! The one rule: it looks through the connection that writes. SQLite counts there only what *other* connections have
//! committed, so what this process writes itself, and has hinted at already, is never taken for news.

use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::db::Db;
use super::hints::Hinter;

/// How often it looks. One look takes some 50 microseconds.
const LOOK: Duration = Duration::from_millis(50);

/// Gives a hint whenever another process has changed the file, until `stop`.
pub(super) async fn watch_loop(db: Db, hinter: Hinter, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = None;
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        // A file that cannot be asked now is asked again; whoever waits looks for himself after a while.
        let Ok(Some(version)) = db.data_version().await else { continue };
        if last.is_some_and(|last| last != version) {
            hinter.job_changed();
            hinter.progressed();
        }
        last = Some(version);
    }
}
