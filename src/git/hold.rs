//! Who uses a mirror: held while it is looked into and worktrees are made from it, so that nothing of it goes meanwhile.
//!
//! The one rule: from the first look into a mirror to the journal of the worktree that borrows it there is no moment in which neither a
//! hold nor a journal names it. Whoever takes objects from a mirror, or the mirror itself, needs it alone, and then must find no journal
//! that names it (see [`super::borrowers`]). A process that is killed holds nothing any more.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::error::{GitError, io_error};
use super::lock::{self, Lock};

/// How the file beside a mirror ends that is locked. When it was last written to, the mirror was last used.
const USE: &str = "use";

/// The mirrors that are held for one piece of work: its own, and those of its submodules. All clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Holds {
    held: Arc<Mutex<Vec<Held>>>,
}

/// A mirror with the lock on it.
#[derive(Debug)]
struct Held {
    mirror: PathBuf,
    _shared: Lock,
}

/// A mirror that nobody else holds.
#[derive(Debug)]
pub(super) struct Alone {
    _exclusive: Lock,
}

impl Holds {
    /// Holds a mirror until the last clone of this goes. Waits, for at most `limit`, while somebody has it alone.
    pub(super) async fn take(&self, mirror: &Path, action: &str, limit: Duration) -> Result<(), GitError> {
        if self.held.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|held| held.mirror == mirror) {
            return Ok(());
        }
        let path = file_of(mirror);
        // Whoever has it alone for long looks at this.
        let shared = Lock::share(&path, touch, action, limit).await?;
        touch(shared.file()).map_err(io_error("touch", &path))?;
        self.held.lock().unwrap_or_else(PoisonError::into_inner).push(Held { mirror: mirror.to_owned(), _shared: shared });
        Ok(())
    }
}

impl Alone {
    /// Takes a mirror that nobody holds now.
    pub(super) fn with(mirror: &Path) -> Option<Self> {
        Lock::take_free(&file_of(mirror)).map(|lock| Self { _exclusive: lock })
    }
}

/// When a mirror was last used, or somebody last waited to use it; for one that was used before there was such a file that is now.
pub(super) fn last_used(mirror: &Path) -> SystemTime {
    let file = lock::open(&file_of(mirror)).ok();
    file.and_then(|file| file.metadata().ok()?.modified().ok()).unwrap_or_else(SystemTime::now)
}

fn file_of(mirror: &Path) -> PathBuf {
    mirror.with_extension(USE)
}

fn touch(file: &File) -> io::Result<()> {
    file.set_modified(SystemTime::now())
}
