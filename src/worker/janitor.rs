//! The janitor: empties the trash and ends the time of kept workspaces, off every job's path.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::images::ReplacedImages;
use super::reclaim::evict_recycled;
use crate::caches::Shelf;
use crate::git::{Bases, Git};
use crate::janitor::Space;
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
    /// The mirrors.
    git: Git,
    /// Images that later ones have replaced.
    images: ReplacedImages,
    ttl: Duration,
    /// With less room than this it sweeps before a slot is free again.
    little_room: Space,
    sweeping: Arc<Mutex<()>>,
}

impl Janitor {
    pub(super) fn new(
        state: StateDir,
        (git, bases, caches): (&Git, Option<Bases>, Shelf),
        images: ReplacedImages,
        ttl: Duration,
        little_room: Space,
    ) -> Self {
        Self { state, bases, caches, git: git.clone(), images, ttl, little_room, sweeping: Arc::default() }
    }

    /// Runs [`Janitor::sweep_once`] now and then until the token is cancelled.
    pub(super) async fn sweep_loop(self, ended: CancellationToken) {
        while ended.run_until_cancelled(tokio::time::sleep(INTERVAL)).await.is_some() {
            self.sweep_once().await;
        }
    }

    /// Sweeps now where the disk has little room: what an attempt left must not be what the next one lacks.
    pub(super) async fn make_room(&self) {
        let Space { bytes, inodes } = self.little_room;
        let few_inodes = || self.state.free_files().ok().flatten().is_some_and(|free| free < inodes);
        if self.state.free_space().is_ok_and(|free| free < bytes) || few_inodes() {
            self.sweep_once().await;
        }
    }

    /// Evicts trees that wait in slots, bases and, where nobody's are left of these, saved caches, which cost more to make again, and then
    /// mirrors, until there is so much more space on the disk, and at last images that later ones have replaced. Says whether any went.
    pub(super) async fn evict_once(&self, wanted: Space) -> bool {
        let (state, bases, caches) = (self.state.clone(), self.bases.clone(), self.caches.clone());
        if self
            .evicted("trees and bases", move || {
                let (recycled, freed) = evict_recycled(&state, wanted)?;
                let bases = bases.map_or(Ok(Vec::new()), |bases| bases.shrink_once(wanted.without(freed)))?;
                Ok(recycled + bases.len())
            })
            .await
        {
            return true;
        }
        if self.evicted("saved caches", move || Ok(caches.shrink_once(wanted)?.len())).await {
            return true;
        }
        let git = self.git.clone();
        self.evicted("mirrors", move || Ok(git.shrink_mirrors_once(wanted)?.len())).await || self.images.evict_once().await
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use bytesize::ByteSize;
    use serde::de::DeserializeOwned;

    use super::*;
    use crate::janitor::boot_id;

    /// A section of the configuration that is shipped.
    fn shipped<T: DeserializeOwned>(section: &str) -> T {
        let all: toml::Table = include_str!("../../workers.toml").parse().expect("a configuration");
        all[section].clone().try_into().expect("a section")
    }

    /// A base that nobody uses, of this boot.
    fn base(state: &StateDir, bytes: u64) {
        let (boot, commit) = (boot_id().expect("its id"), "a".repeat(40));
        let dir = state.bases().join(format!("mirror/{commit}-{}", &boot[..8]));
        fs::create_dir_all(dir.join("leases")).expect("made");
        let record = serde_json::json!({
            "commit": commit, "bytes": bytes, "submodules": [], "attributes": "none", "attribute_files": [], "ignores": false,
        });
        fs::write(dir.join("lock"), "").expect("written");
        fs::write(dir.join("base.json"), record.to_string()).expect("written");
    }

    #[tokio::test]
    async fn of_bases_goes_what_evicted_trees_did_not_make_room_for() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = StateDir::create(dir.path()).expect("made");
        let config = crate::git::Config { search_path: "/usr/local/bin:/usr/bin:/bin".to_owned(), ..shipped("git") };
        let git = Git::open(&config, Path::new("/nowhere"), &state.mirrors()).expect("git");
        let bases = Bases::open(&git, ByteSize::gib(1)).expect("opened");
        let caches = Shelf::open(state.root(), &shipped("caches")).expect("opened");
        let engine = crate::sandbox::container::Config { socket: dir.path().join("none.sock"), ..shipped("container") };
        let stock = (&git, Some(bases.clone()), caches);
        let images = ReplacedImages::of(&engine);
        let janitor = Janitor::new(state.clone(), stock, images, Duration::from_secs(60), Space::default());
        base(&state, 1 << 20);
        let recycled = state.slot(0).recycled();
        fs::create_dir_all(&recycled).expect("made");
        fs::write(recycled.join("file"), vec![1; 4 << 20]).expect("written");
        let left = || bases.list().expect("listed").len();

        assert!(janitor.evict_once(Space::of_bytes(2 << 20)).await);
        assert_eq!((recycled.exists(), left()), (false, 1), "the tree was enough");
        assert!(janitor.evict_once(Space::of_bytes(2 << 20)).await);
        assert_eq!(left(), 0);
    }
}
