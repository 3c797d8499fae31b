//! What can go wrong with a cache. None of it fails a job: it then runs without.

use std::io;
use std::path::{Path, PathBuf};

use bytesize::ByteSize;

use crate::git::GitError;

/// Why a cache cannot be had, or cannot be saved.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// A file of ours, or of the cache, cannot be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A mount cannot be made or taken off.
    #[error(transparent)]
    Mount(#[from] GitError),
    /// It is more than is copied.
    #[error(
        "it takes {size}, and where overlays cannot be mounted {limit} is the most that is copied for a job (caches.copy); \
         a worker that is root, or a state directory on Btrfs or XFS, need not copy"
    )]
    LargeCopy {
        /// What it takes.
        size: ByteSize,
        /// What it may.
        limit: ByteSize,
    },
    /// It is more than is copied, and so of no use to any job.
    #[error("it takes more than is copied for a job, {limit} (caches.copy)")]
    LargerThanCopies {
        /// What is.
        limit: ByteSize,
    },
    /// It has more entries than a cache may have.
    #[error("it has more than {limit} files, links and directories (caches.entries)")]
    TooMany {
        /// How many it may have.
        limit: u64,
    },
    /// What is saved cannot be read to its end.
    #[error("what is saved cannot be read, and is not used again: {why}")]
    Damaged {
        /// Its directory.
        dir: PathBuf,
        /// What cannot be done with it.
        why: String,
    },
    /// It was made before the host was started again.
    #[error("it is of an earlier boot of the host, whose crash may have damaged it")]
    Past,
    /// Whoever wanted it is to stop.
    #[error("its attempt is to stop")]
    Stopped,
    /// It is more than all caches together may take.
    #[error("it takes more than all caches together may take, {limit} (caches.size)")]
    TooLarge {
        /// What they may.
        limit: ByteSize,
    },
    /// The place in which a job would find it is not free.
    #[error("{0}")]
    Taken(String),
}

/// Makes an error from an operation on `path`; for `map_err`.
pub(super) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CacheError {
    let path = path.to_owned();
    move |source| CacheError::Io { action, path, source }
}
