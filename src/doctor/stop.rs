//! Ending early: a person presses Ctrl-C, or somebody sends TERM, while checks are made.
//!
//! The one rule: what has a container is waited for, and hears of it: it removes that first. Everything else is dropped where it is.

use std::io;

use tokio::sync::{Mutex, MutexGuard};
use tokio_util::sync::CancellationToken;

use crate::daemon::end_on_signals;

/// Whether the checks are to end.
#[derive(Debug, Default)]
pub struct Stop {
    asked: CancellationToken,
    /// Held by who has a container.
    lodged: Mutex<()>,
}

impl Stop {
    /// Asked for by SIGINT and SIGTERM, from now on.
    ///
    /// # Errors
    /// The handlers cannot be installed.
    pub fn on_signals() -> io::Result<Self> {
        let stop = Self::default();
        end_on_signals(&stop.asked)?;
        Ok(stop)
    }

    /// Does something to its end; nothing comes of it where the end is asked for before.
    pub(super) async fn unless_asked<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let ended = async {
            self.asked.cancelled().await;
            self.lodged.lock().await
        };
        tokio::select! {
            // Whoever has had a container waits behind this one for the next.
            biased;
            _nobody_lodges = ended => None,
            // What was cut short may have been the last of it.
            done = work => (!self.asked.is_cancelled()).then_some(done),
        }
    }

    /// Says that a container is to be had, which is removed before the guard goes.
    pub(super) async fn lodge(&self) -> MutexGuard<'_, ()> {
        self.lodged.lock().await
    }

    /// Waits until the end is asked for.
    pub(super) async fn asked(&self) {
        self.asked.cancelled().await;
    }
}
