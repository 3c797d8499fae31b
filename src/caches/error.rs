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
