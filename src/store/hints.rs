//! Hints: word that something may have changed, so that nobody has to poll often.
//!
//! The one rule: a hint is never the truth. Hints merge, come late, come for nothing and get lost; whoever waits for one
//! takes out its [`Hints`] *before* it looks at the database, and looks again after a while all the same.
//!
//! Within a process they are direct. Between processes PostgreSQL carries them (see `listener`); processes that share a
//! SQLite file look whether it has changed (see `watcher`). Progress (an attempt that began, a stage, new chunks of a log) is hinted
//! within the process only: it makes nothing claimable, and a `NOTIFY` for each would serialize all commits of the server.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tokio::sync::watch;

/// Word that something may have changed since this was taken out, or since the last word.
#[derive(Debug)]
pub struct Hints {
    jobs: watch::Receiver<u64>,
    progress: watch::Receiver<u64>,
}

impl Hints {
    /// Waits until a job, an attempt, a completion or a log may have changed. Safe to cancel. Never resolves once the store is gone.
    pub async fn next(&mut self) {
        tokio::select! {
            () = changed(&mut self.jobs) => {}
            () = changed(&mut self.progress) => {}
        }
    }

    /// Waits until something may have become claimable or may have ended, whatever progress is made. Safe to cancel. Never resolves once the
    /// store is gone.
    pub async fn next_change(&mut self) {
        changed(&mut self.jobs).await;
    }

    /// As [`Hints::next_change`], but not before this moment.
    pub async fn next_change_after(&mut self, moment: Instant) {
        tokio::time::sleep_until(moment.into()).await;
        self.next_change().await;
    }
}

async fn changed(receiver: &mut watch::Receiver<u64>) {
    if receiver.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// The giving end.
#[derive(Debug, Clone)]
pub(super) struct Hinter {
    jobs: Arc<watch::Sender<u64>>,
    progress: Arc<watch::Sender<u64>>,
    arrivals: Arc<AtomicU64>,
}

impl Hinter {
    pub(super) fn new() -> Self {
        let sender = || Arc::new(watch::Sender::new(0));
        Self { jobs: sender(), progress: sender(), arrivals: Arc::default() }
    }

    pub(super) fn subscribe(&self) -> Hints {
        Hints { jobs: self.jobs.subscribe(), progress: self.progress.subscribe() }
    }

    /// A job may have become claimable, or have ended.
    pub(super) fn job_changed(&self) {
        self.arrivals.fetch_add(1, Ordering::Release);
        self.job_ended();
    }

    /// How often something may have become claimable.
    pub(super) fn arrivals(&self) -> u64 {
        self.arrivals.load(Ordering::Acquire)
    }

    /// A job has ended, and nothing has become claimable by that.
    pub(super) fn job_ended(&self) {
        self.jobs.send_modify(|count| *count = count.wrapping_add(1));
    }

    pub(super) fn progressed(&self) {
        self.progress.send_modify(|count| *count = count.wrapping_add(1));
    }
}
