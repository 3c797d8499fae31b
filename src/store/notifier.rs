//! Telling other processes that something has changed, and not more often than anybody can use.
//!
//! The one rule: a process notifies at most once in [`PAUSE`], whatever it does. PostgreSQL lets only one transaction at a time
//! commit that has a notification, for the whole server, so it would serialize everything; and it is a hint, which may be lost.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::db::Db;
use super::error::StoreError;
use super::statement::args;

/// Changes within this time are told together.
const PAUSE: Duration = Duration::from_millis(4);
const NOTIFY: &str = "SELECT pg_notify($1, $2)::TEXT AS told";

/// Where hints for other processes are sent.
#[derive(Debug)]
pub(super) struct Notifier {
    pub(super) db: Db,
    pub(super) channel: String,
    pub(super) payload: String,
    sent: Mutex<Option<Instant>>,
    more: Notify,
}

#[derive(sqlx::FromRow)]
struct Told {
    #[expect(dead_code, reason = "the function has no result")]
    told: String,
}

impl Notifier {
    pub(super) fn new(db: Db, channel: String, payload: String) -> Self {
        Self { db, channel, payload, sent: Mutex::new(None), more: Notify::new() }
    }

    /// Tells of a change at once, or within [`PAUSE`] where another one was just told.
    pub(super) async fn changed(&self) {
        if self.take_turn().is_none() {
            self.tell().await;
        } else {
            self.more.notify_one();
        }
    }

    /// Has a change told of soon, without waiting for it.
    pub(super) fn changed_soon(&self) {
        self.more.notify_one();
    }

    /// Whether a statement may tell of the change that it makes: so rarely, it costs less there than by itself.
    pub(super) fn take_along(&self) -> bool {
        self.take_turn().is_none()
    }

    /// Tells of what came too soon after another.
    pub(super) async fn tell_loop(&self, stop: CancellationToken) {
        while stop.run_until_cancelled(self.more.notified()).await.is_some() {
            while let Some(wait) = self.take_turn() {
                tokio::time::sleep(wait).await;
            }
            self.tell().await;
        }
    }

    /// How long to wait still; none where it is our turn now.
    fn take_turn(&self) -> Option<Duration> {
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let wait = sent.map_or(Duration::ZERO, |sent| PAUSE.saturating_sub(now.saturating_duration_since(sent)));
        if wait.is_zero() {
            *sent = Some(now);
            return None;
        }
        Some(wait)
    }

    async fn tell(&self) {
        let told: Result<Vec<Told>, StoreError> = self.db.all(NOTIFY, args![&self.channel, &self.payload]).await;
        if let Err(error) = told {
            tracing::debug!(%error, "could not tell others of a change; they look by themselves");
        }
    }
}
