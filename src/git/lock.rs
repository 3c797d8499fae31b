//! Locks between processes, for what must not be done twice at once.

use std::fs::{File, OpenOptions};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::error::{GitError, io_error};

/// An exclusive lock, held until it is dropped or the process ends, however it ends. The file stays.
#[derive(Debug)]
pub(super) struct Lock {
    _file: Flock<File>,
}

impl Lock {
    /// Takes the lock on `path` if nobody holds it now.
    pub(super) fn take_free(path: &Path) -> Option<Self> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path).ok()?;
        Flock::lock(file, FlockArg::LockExclusiveNonblock).ok().map(|file| Self { _file: file })
    }

    /// Whether nobody holds the lock on `path` now.
    pub(super) fn is_free(path: &Path) -> bool {
        let Ok(file) = File::open(path) else { return true };
        Flock::lock(file, FlockArg::LockExclusiveNonblock).is_ok()
    }

    /// Waits for the lock on `path` for at most `limit`.
    pub(super) async fn acquire(path: &Path, action: &str, limit: Duration) -> Result<Self, GitError> {
        let mut file =
            OpenOptions::new().create(true).truncate(false).write(true).open(path).map_err(io_error("open the lock", path))?;
        let until = Instant::now() + limit;
        let mut pause = Duration::from_millis(2);
        loop {
            file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => return Ok(Self { _file: lock }),
                Err((file, Errno::EWOULDBLOCK | Errno::EINTR)) => file,
                Err((_, errno)) => return Err(io_error("lock", path)(errno.into())),
            };
            if Instant::now() >= until {
                return Err(GitError::Timeout { action: format!("{action} (others hold {})", path.display()), after: limit });
            }
            // A blocking flock could not be given up; the pause grows to a twentieth of a second.
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }
}
