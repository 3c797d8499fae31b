//! The janitor: empties the trash and ends the time of kept workspaces, off every job's path.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::caches::Shelf;
use crate::git::Bases;
use crate::workspace::{Kept, StateDir};

/// How often it looks.
const INTERVAL: Duration = Duration::from_secs(2);

/// Who sweeps a state directory. All clones are the same one, and sweep one at a time.
#[derive(Debug, Clone)]
pub(super) struct Janitor {
    state: StateDir,
    /// Base checkouts, where worktrees stand on them.
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

    /// Evicts bases until there are so many more bytes on the disk or, where nobody's are left, saved caches, which cost more to make again.
    /// Says whether any went.
    pub(super) async fn evict_once(&self, wanted: u64) -> bool {
        if let Some(bases) = self.bases.clone()
            && self.evicted("bases", move || bases.shrink_once(wanted)).await
        {
            return true;
        }
        let caches = self.caches.clone();
        self.evicted("saved caches", move || caches.shrink_once(wanted)).await
    }

    async fn evicted<E: std::error::Error + Send + 'static>(
        &self,
        what: &str,
        shrink: impl FnOnce() -> Result<Vec<PathBuf>, E> + Send + 'static,
    ) -> bool {
        let gone = match tokio::task::spawn_blocking(shrink).await {
            Ok(Ok(gone)) => gone,
            Ok(Err(error)) => {
                warn!("cannot make room by evicting {what}: {error}");
                return false;
            }
            Err(_) => {
                warn!("evicting {what} panicked; please report it as a defect");
                return false;
            }
        };
        if !gone.is_empty() {
            info!("evicted {} {what} to make room on the disk", gone.len());
            self.sweep_once().await;
        }
        !gone.is_empty()
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
