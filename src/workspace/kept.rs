//! Workspaces that are kept for a person to look at, until their time is over.
//!
//! A kept worktree is what it was in its slot: an overlay stays one, and its base stays leased. But one that nobody would see, because
//! the worker is not root and mounts for itself only, becomes a checkout.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tracing::error;
use uuid::Uuid;

use super::slot::SlotDir;
use super::trash::Trash;
use crate::git::{self, GitError};
use crate::ids::{AttemptNo, JobId};

/// The kept workspaces of a worker.
#[derive(Debug, Clone)]
pub struct Kept {
    dir: PathBuf,
    trash: Trash,
}

impl Kept {
    /// Those below `dir`, which exists. Their time over, they go to the trash.
    #[must_use]
    pub const fn new(dir: PathBuf, trash: Trash) -> Self {
        Self { dir, trash }
    }

    /// Moves the worktree of an ended attempt, where it is known of which, out of its slot, and says where it is now. What is
    /// there no more was moved before. Blocks.
    ///
    /// # Errors
    /// A part cannot be moved.
    pub fn keep(&self, slot: &SlotDir, of: Option<(JobId, AttemptNo)>) -> Result<PathBuf, GitError> {
        let name = of.map_or_else(|| Uuid::now_v7().to_string(), |(job, attempt)| format!("{job}-{attempt}"));
        let place = self.dir.join(name);
        git::relocate(slot.root(), &place, self.trash.dir())?;
        Ok(place)
    }

    /// Mounts those again that are overlays and are not mounted, as after a start of the host. One that cannot be is left as it
    /// is, and said.
    pub fn mount_again(&self) {
        let places = fs::read_dir(&self.dir).into_iter().flatten().flatten().map(|entry| entry.path());
        for place in places {
            if let Err(error) = git::revive(&place, self.trash.dir()) {
                error!("the kept workspace {} cannot be used: {error}", place.display());
            }
        }
    }

    /// All of them, each with when its time is over.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn list(&self, ttl: Duration) -> io::Result<Vec<(PathBuf, SystemTime)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            let kept_since = path.symlink_metadata()?.modified()?;
            found.push((path, kept_since + ttl));
        }
        Ok(found)
    }

    /// Moves one to the trash.
    ///
    /// # Errors
    /// What the system says.
    pub fn expire(&self, place: &Path) -> io::Result<()> {
        git::release(place).map_err(io::Error::other)?;
        self.trash.take(place)
    }

    /// Moves those to the trash that were kept for longer than `ttl`, and says how many.
    ///
    /// # Errors
    /// What the system says.
    pub fn expire_once(&self, ttl: Duration, now: SystemTime) -> io::Result<u64> {
        let mut expired = 0;
        for (place, _) in self.list(ttl)?.into_iter().filter(|(_, until)| *until < now) {
            self.expire(&place)?;
            expired += 1;
        }
        Ok(expired)
    }
}
