//! The janitor: empties the trash and ends the time of kept workspaces, off every job's path.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::reclaim::evict_recycled;
use crate::caches::Shelf;
use crate::git::Bases;
use crate::workspace::{Kept, StateDir};

/// How often it looks.
const INTERVAL: Duration = Duration::from_secs(2);

/// Who sweeps a state directory. All clones are the same one, and sweep one at a time.
#[derive(Debug, Clone)]
pub(super) struct Janitor {
    state: StateDir,
    /// Base checkouts, where worktrees are made from them.
    bases: Option<Bases>,
    /// Saved caches.
    caches: Shelf,
    ttl: Duration,
    /// With less room than this, in bytes, it sweeps before a slot is free again.
    little_room: u64,
    sweeping: Arc<Mutex<()>>,
}

impl Janitor {
    pub(super) fn new(state: StateDir, (bases, caches): (Option<Bases>, Shelf), ttl: Duration, little_room: u64) -> Self {
        Self { state, bases, caches, ttl, little_room, sweeping: Arc::default() }
    }

    /// Runs [`Janitor::sweep_once`] now and then until the token is cancelled.
    pub(super) async fn sweep_loop(self, ended: CancellationToken) {
        while ended.run_until_cancelled(tokio::time::sleep(INTERVAL)).await.is_some() {
            self.sweep_once().await;
        }
    }

    /// Sweeps now where the disk has little room: what an attempt left must not be what the next one lacks.
    pub(super) async fn make_room(&self) {
        if self.state.free_space().is_ok_and(|free| free < self.little_room) {
            self.sweep_once().await;
        }
    }

    /// Evicts trees that wait in slots, bases and, where nobody's are left of these, saved caches, which cost most to make again, until there
    /// are so many more bytes on the disk. Says whether any went.
    pub(super) async fn evict_once(&self, wanted: u64) -> bool {
        let (state, bases, caches) = (self.state.clone(), self.bases.clone(), self.caches.clone());
        if self
            .evicted("trees and bases", move || {
                let recycled = evict_recycled(&state, wanted)?;
                let bases = bases.map_or(Ok(Vec::new()), |bases| bases.shrink_once(wanted))?;
                Ok(recycled + bases.len())
            })
            .await
        {
            return true;
        }
        self.evicted("saved caches", move || Ok(caches.shrink_once(wanted)?.len())).await
    }

    async fn evicted(&self, what: &str, shrink: impl FnOnce() -> anyhow::Result<usize> + Send + 'static) -> bool {
        let gone = match tokio::task::spawn_blocking(shrink).await {
            Ok(Ok(gone)) => gone,
            Ok(Err(error)) => {
                warn!("cannot make room by evicting {what}: {error:#}");
                return false;
            }
            Err(_) => {
                warn!("evicting {what} panicked; please report it as a defect");
                return false;
            }
        };
        if gone > 0 {
            info!("evicted {gone} {what} to make room on the disk");
            self.sweep_once().await;
        }
        gone > 0
    }

    /// One pass.
    pub(super) async fn sweep_once(&self) {
        let _alone = self.sweeping.lock().await;
        let (state, ttl) = (self.state.clone(), self.ttl);
        if tokio::task::spawn_blocking(move || sweep(&state, ttl)).await.is_err() {
            warn!("sweeping panicked; please report it as a defect");
        }
    }
}

/// One pass. Blocks.
fn sweep(state: &StateDir, ttl: Duration) {
    let trash = state.trash();
    match Kept::new(state.kept(), trash.clone()).expire_once(ttl, SystemTime::now()) {
        Ok(0) => {}
        Ok(count) => info!("the time of {count} kept workspaces is over"),
        Err(error) => warn!("cannot look after kept workspaces: {error}"),
    }
    if let Err(error) = trash.empty_once() {
        warn!("cannot empty the trash: {error}");
    }
}
