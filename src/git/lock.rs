//! Locks between processes, for what must not be done twice at once, or not while others are at it.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::error::{GitError, io_error};

/// A lock, held until it is dropped or the process ends, however it ends. The file stays.
#[derive(Debug)]
pub(super) struct Lock {
    file: Flock<File>,
}

impl Lock {
    /// Takes the lock on `path` if nobody holds it now.
    pub(super) fn take_free(path: &Path) -> Option<Self> {
        Flock::lock(open(path).ok()?, FlockArg::LockExclusiveNonblock).ok().map(|file| Self { file })
    }

    /// Whether nobody holds the lock on `path` now.
    pub(super) fn is_free(path: &Path) -> bool {
        let Ok(file) = File::open(path) else { return true };
        Flock::lock(file, FlockArg::LockExclusiveNonblock).is_ok()
    }

    /// Waits for the lock on `path` for at most `limit`.
    pub(super) async fn acquire(path: &Path, action: &str, limit: Duration) -> Result<Self, GitError> {
        Self::wait(path, FlockArg::LockExclusiveNonblock, |_| Ok(()), action, limit).await
    }

    /// The same for a lock that many may hold, and one who has it alone. `waiting` is done with the file whenever it is looked.
    pub(super) async fn share(
        path: &Path,
        waiting: impl Fn(&File) -> io::Result<()>,
        action: &str,
        limit: Duration,
    ) -> Result<Self, GitError> {
        Self::wait(path, FlockArg::LockSharedNonblock, waiting, action, limit).await
    }

    /// What is locked.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    async fn wait(
        path: &Path,
        how: FlockArg,
        waiting: impl Fn(&File) -> io::Result<()>,
        action: &str,
        limit: Duration,
    ) -> Result<Self, GitError> {
        let mut file = open(path).map_err(io_error("open the lock", path))?;
        let until = Instant::now() + limit;
        let mut pause = Duration::from_millis(2);
        loop {
            file = match Flock::lock(file, how) {
                Ok(file) => return Ok(Self { file }),
                Err((file, Errno::EWOULDBLOCK | Errno::EINTR)) => file,
                Err((_, errno)) => return Err(io_error("lock", path)(errno.into())),
            };
            if Instant::now() >= until {
                return Err(GitError::Timeout { action: format!("{action} (others hold {})", path.display()), after: limit });
            }
            waiting(&file).map_err(io_error("touch", path))?;
            // A blocking flock could not be given up; the pause grows to a twentieth of a second.
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }
}

/// Opens the file of a lock, which is made where it is not there.
pub(super) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).truncate(false).write(true).open(path)
}
