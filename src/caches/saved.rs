//! One saved cache.
//!
//! The one rule: who takes it holds its lock, shared, until the record in a slot names it; who removes it needs that lock alone and must
//! find no such record. So a daemon that is killed leaves nothing to mend.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::error::{CacheError, io_error};
use super::key::Key;
use super::path::CachePath;
use crate::clock::Timestamp;
use crate::ids::{JobId, ObjectId};

/// The file that says that it is whole, written last.
const RECORD: &str = "cache.json";
/// Its lock. When it was last written to, the cache was last used.
const LOCK: &str = "lock";

/// A saved cache, by its directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saved {
    dir: PathBuf,
}

/// What is on disk about one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedRecord {
    /// The project whose jobs may have it.
    pub project: String,
    /// Where they find it.
    pub path: CachePath,
    /// By what it is told from others.
    pub key: Key,
    /// The commit from which the job began that saved it.
    pub commit: ObjectId,
    /// That job.
    pub job: JobId,
    /// When that was.
    pub saved_at: Timestamp,
    /// What it takes on the disk, with what it shares with others.
    pub bytes: u64,
    /// How many files, links and directories it has.
    pub entries: u64,
}

/// A saved cache that stays as long as this is held, or a record in a slot names it.
#[derive(Debug)]
pub(super) struct Held {
    _shared: Flock<File>,
}

impl Saved {
    /// The one in a directory, which need not be there.
    pub(super) fn at(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// Where it is.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The files.
    pub(super) fn files(&self) -> PathBuf {
        self.dir.join("files")
    }

    /// What is on disk about it.
    ///
    /// # Errors
    /// It is not whole, or cannot be read.
    pub fn record(&self) -> Result<SavedRecord, CacheError> {
        let path = self.dir.join(RECORD);
        let text = fs::read(&path).map_err(io_error("read", &path))?;
        serde_json::from_slice(&text).map_err(|error| io_error("read", &path)(error.into()))
    }

    /// Makes its directory, with nothing in it yet.
    pub(super) fn begin(&self) -> Result<(), CacheError> {
        let files = self.files();
        fs::create_dir_all(&files).map_err(io_error("create", &files))?;
        let lock = self.dir.join(LOCK);
        File::create(&lock).map(drop).map_err(io_error("create", &lock))
    }

    /// Writes its record, and gives it its name: from then on it is there.
    pub(super) fn finish(self, record: &SavedRecord, dir: &Path) -> Result<Self, CacheError> {
        let path = self.dir.join(RECORD);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(io_error("write", &path))?;
        serde_json::to_writer(&file, record).map_err(|error| io_error("write", &path)(error.into()))?;
        fs::rename(&self.dir, dir).map_err(io_error("name", dir))?;
        Ok(Self::at(dir))
    }

    /// When it was last used.
    pub(super) fn last_used(&self) -> Option<SystemTime> {
        self.dir.join(LOCK).metadata().and_then(|meta| meta.modified()).ok()
    }

    /// Holds it, and notes that it is used; nothing where it is not there, or is just being removed.
    pub(super) fn hold(&self) -> Result<Option<Held>, CacheError> {
        let path = self.dir.join(LOCK);
        let file = match OpenOptions::new().write(true).open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(io_error("open the lock", &path))?,
        };
        let shared = match Flock::lock(file, FlockArg::LockSharedNonblock) {
            Ok(shared) => shared,
            Err((_, Errno::EWOULDBLOCK | Errno::EINTR)) => return Ok(None),
            Err((_, errno)) => return Err(io_error("lock", &path)(errno.into())),
        };
        // It may have been moved away after it was opened.
        let inode = |meta: std::io::Result<fs::Metadata>| meta.map(|meta| (meta.dev(), meta.ino())).ok();
        if inode(path.metadata()) != inode(shared.metadata()) || !self.dir.join(RECORD).exists() {
            return Ok(None);
        }
        shared.set_modified(SystemTime::now()).map_err(io_error("touch", &path))?;
        Ok(Some(Held { _shared: shared }))
    }

    /// Moves it to `place`, unless somebody takes it just now or `is_named` says that a slot stands on it. Says whether.
    pub(super) fn move_unused(&self, place: &Path, is_named: impl FnOnce() -> bool) -> Result<bool, CacheError> {
        let path = self.dir.join(LOCK);
        let Ok(file) = OpenOptions::new().write(true).open(&path) else { return Ok(false) };
        let Ok(_alone) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else { return Ok(false) };
        if is_named() {
            return Ok(false);
        }
        match fs::rename(&self.dir, place) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            moved => moved.map(|()| true).map_err(io_error("move", &self.dir)),
        }
    }
}
