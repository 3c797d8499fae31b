//! Workspaces that are kept for a person to look at, until their time is over.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use uuid::Uuid;

use super::slot::SlotDir;
use super::trash::Trash;
use crate::ids::{AttemptNo, JobId};

/// The kept workspaces of a worker.
#[derive(Debug, Clone)]
pub struct Kept {
    dir: PathBuf,
}

impl Kept {
    /// Those below `dir`, which exists.
    #[must_use]
    pub const fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Moves the worktree of an ended attempt, where it is known of which, out of its slot, and says where it is now. What is
    /// there no more was moved before.
    ///
    /// # Errors
    /// What the system says.
    pub fn keep(&self, slot: &SlotDir, of: Option<(JobId, AttemptNo)>) -> io::Result<PathBuf> {
        let name = of.map_or_else(|| Uuid::now_v7().to_string(), |(job, attempt)| format!("{job}-{attempt}"));
        let place = self.dir.join(name);
        fs::create_dir_all(&place)?;
        for (part, name) in [(slot.root().join("host.git"), "host.git"), (slot.tree(), "tree")] {
            match fs::rename(part, place.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(place)
    }

    /// Moves those to the trash that were kept for longer than `ttl`, and says how many.
    ///
    /// # Errors
    /// What the system says.
    pub fn expire_once(&self, trash: &Trash, ttl: Duration, now: SystemTime) -> io::Result<u64> {
        let mut expired = 0;
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if age(&path, now)? > ttl {
                trash.take(&path)?;
                expired += 1;
            }
        }
        Ok(expired)
    }
}

fn age(path: &Path, now: SystemTime) -> io::Result<Duration> {
    Ok(now.duration_since(path.symlink_metadata()?.modified()?).unwrap_or(Duration::ZERO))
}
