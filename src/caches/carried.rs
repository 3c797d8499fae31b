//! What one attempt has of its project's caches: in its slot, or on the ground of a gate, which is laid out as one.
//!
//! The one rule: what is saved is only read here. A job writes to a layer over it that is its own or, where none can be mounted, to a
//! copy. Both are beside what the job sees: they are put into its tree while it runs, and taken out while a commit is made. So nothing
//! of a cache is ever part of a commit, whatever the ignore rules say.
//!
//! A record says what there is; it is there before anything stands on a saved cache, and is its lease.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::copy::copy;
use super::error::{CacheError, io_error};
use super::harvest::Source;
use super::key::Key;
use super::path::CachePath;
use super::saved::Saved;
use crate::clock::Timestamp;
use crate::git::{self, Stack};
use crate::ids::JobId;

/// The directory of an attempt's caches in its slot.
const CACHES: &str = "caches";
/// What is there.
const RECORD: &str = "carried.json";
/// What a job sees of its slot, and the one mount in it that is no cache.
const JOB: &str = "job";
const TREE: &str = "job/tree";

/// How a job comes to something that it may write to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// A layer of its own over what is saved.
    Overlay,
    /// A copy of it.
    Copy,
}

/// A saved cache as an attempt stands on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Its directory.
    pub(super) dir: PathBuf,
    /// Whether it has the very key; else it is the newest with the same toolchain.
    pub exact: bool,
    /// Its key.
    pub key: Key,
    /// What it takes.
    pub bytes: u64,
    /// The job that saved it.
    pub job: JobId,
    /// When that was.
    pub saved_at: Timestamp,
}

/// A cache that an attempt is to have.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Where the job finds it.
    pub path: CachePath,
    /// By which key it is saved.
    pub key: Key,
    /// What is in it at first; nothing where none is saved that suits.
    pub origin: Option<Origin>,
}

/// A cache that an attempt has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Where the job finds it.
    pub path: CachePath,
    /// By which key it is saved.
    pub key: Key,
    /// What was in it at first.
    pub origin: Option<Origin>,
    /// How it is made.
    pub way: Way,
    /// The moment before which nothing in it was written by the job.
    pub(super) since: Timestamp,
    /// The directory in which its parts are.
    number: usize,
}

impl Entry {
    /// The same once more, as it was at first.
    #[must_use]
    pub fn again(self) -> Wanted {
        Wanted { path: self.path, key: self.key, origin: self.origin }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    /// Whether all parts are there.
    whole: bool,
    entries: Vec<Entry>,
}

/// The caches of an attempt, in `root`: its slot, or the ground of a gate.
#[derive(Debug, Clone)]
pub struct Carried {
    root: PathBuf,
    /// What it has.
    pub entries: Vec<Entry>,
}

impl Carried {
    /// Those in `root`, where all of their parts are there.
    #[must_use]
    pub fn find(root: &Path) -> Option<Self> {
        let record = read(root)?;
        record.whole.then(|| Self { root: root.to_owned(), entries: record.entries })
    }

    /// Whether there is anything of caches in `root`, whole or not.
    #[must_use]
    pub fn is_begun(root: &Path) -> bool {
        root.join(CACHES).exists()
    }

    /// Makes caches in `root`, where there are none yet; whoever asks holds what they stand on. Those that cannot be are left out, and
    /// told with the reason. Blocks, where they are copies for as long as copying takes.
    ///
    /// # Errors
    /// Their record cannot be written.
    pub fn make(root: &Path, way: Way, wanted: Vec<Wanted>) -> Result<(Self, Vec<(CachePath, CacheError)>), CacheError> {
        let dir = root.join(CACHES);
        fs::create_dir_all(&dir).map_err(io_error("create", &dir))?;
        let since = Timestamp::now();
        let numbered = wanted.into_iter().enumerate();
        let entries = numbered.map(|(number, Wanted { path, key, origin })| Entry { path, key, origin, way, since, number });
        let mut carried = Self { root: root.to_owned(), entries: entries.collect() };
        carried.write(false)?;
        let mut failed = Vec::new();
        for entry in std::mem::take(&mut carried.entries) {
            match carried.prepare(&entry) {
                Ok(()) => carried.entries.push(entry),
                Err(error) => failed.push((entry.path, error)),
            }
        }
        carried.write(true)?;
        Ok((carried, failed))
    }

    fn write(&self, whole: bool) -> Result<(), CacheError> {
        let path = self.root.join(CACHES).join(RECORD);
        let new = path.with_extension("new");
        let text = serde_json::to_vec(&Record { whole, entries: self.entries.clone() });
        let text = text.map_err(|error| io_error("write", &path)(error.into()))?;
        fs::write(&new, text).and_then(|()| fs::rename(&new, &path)).map_err(io_error("write", &path))
    }

    /// The slot, or the ground of a gate.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    fn part(&self, entry: &Entry, part: &str) -> PathBuf {
        self.root.join(CACHES).join(entry.number.to_string()).join(part)
    }

    fn job(&self) -> PathBuf {
        self.root.join(JOB)
    }

    /// Makes the parts of one, and looks whether its place in the tree is free.
    fn prepare(&self, entry: &Entry) -> Result<(), CacheError> {
        let place = entry.path.place_in(&self.job()).map_err(|why| CacheError::Taken(why.to_string()))?;
        if !is_free(&place).map_err(io_error("look at", &place))? {
            let why = format!("{} is there already: a cache has a place of its own, in which a commit has no files", entry.path);
            return Err(CacheError::Taken(why));
        }
        match entry.way {
            Way::Copy => {
                let files = self.part(entry, "files");
                fs::create_dir_all(&files).map_err(io_error("create", &files))?;
                entry.origin.as_ref().map_or(Ok(()), |origin| copy(&Saved::at(&origin.dir).files(), &files))
            }
            Way::Overlay => {
                let [empty, upper, work, merged] = ["empty", "upper", "work", "merged"].map(|part| self.part(entry, part));
                for part in [&empty, &upper, &work, &merged] {
                    fs::create_dir_all(part).map_err(io_error("create", part))?;
                }
                let lower = entry.origin.as_ref().map_or(empty, |origin| Saved::at(&origin.dir).files());
                Ok(Stack { lower, upper, work }.mount(&merged)?)
            }
        }
    }

    /// Puts all of them into the tree and the home directory, where they are not there already; tells those that cannot be put there.
    #[must_use]
    pub fn put_in(&self) -> Vec<(CachePath, CacheError)> {
        let put = |entry: &Entry| self.put(entry).err().map(|error| (entry.path.clone(), error));
        self.entries.iter().filter_map(put).collect()
    }

    fn put(&self, entry: &Entry) -> Result<(), CacheError> {
        let place = entry.path.place_in(&self.job()).map_err(|why| CacheError::Taken(why.to_string()))?;
        if entry.way == Way::Overlay {
            let merged = self.part(entry, "merged");
            if git::is_shown_at(&merged, &place) {
                return Ok(());
            }
            match fs::symlink_metadata(&place) {
                Err(_) => fs::create_dir(&place).map_err(io_error("create", &place))?,
                Ok(meta) if meta.is_dir() => {}
                Ok(_) => return Err(CacheError::Taken(format!("something else is in the place of {}", entry.path))),
            }
            return Ok(git::show_at(&merged, &place)?);
        }
        let files = self.part(entry, "files");
        match fs::rename(&files, &place) {
            // It is there already.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            moved => moved.map_err(io_error("move a cache to", &place)),
        }
    }

    /// Takes all of them out of the tree and the home directory. Of one that a job has put something else in the place of, nothing is left.
    /// No process of the job may run.
    ///
    /// # Errors
    /// What the system says; what a tree still has of a cache would be committed.
    pub fn take_out(&self) -> Result<(), CacheError> {
        if self.entries.iter().any(|entry| entry.way == Way::Overlay) {
            // A job may have moved what it is mounted in.
            let tree = self.root.join(TREE);
            for at in git::mounts_below(&self.job())?.iter().rev().filter(|at| **at != tree) {
                git::take_off(at)?;
            }
        }
        self.entries.iter().filter(|entry| entry.way == Way::Copy).try_for_each(|entry| self.take(entry))
    }

    fn take(&self, entry: &Entry) -> Result<(), CacheError> {
        let files = self.part(entry, "files");
        // Something else in the place of a directory above it: then it is not there.
        let Ok(place) = entry.path.place_in(&self.job()) else { return Ok(()) };
        let Ok(meta) = fs::symlink_metadata(&place) else { return Ok(()) };
        if files.exists() || !meta.is_dir() {
            return Ok(());
        }
        // A directory moves to another parent only when it can itself be written to.
        let mode = fs::Permissions::from_mode(meta.mode() | 0o700);
        fs::set_permissions(&place, mode).and_then(|()| fs::rename(&place, &files)).map_err(io_error("move", &place))
    }

    /// Where one is on the host, for a container that does not see what is mounted on the host; and its place, for which see
    /// [`Carried::place`].
    #[must_use]
    pub fn mounted(&self, entry: &Entry) -> Option<PathBuf> {
        (entry.way == Way::Overlay).then(|| self.part(entry, "merged"))
    }

    /// The place of one, below what a job sees of its slot.
    #[must_use]
    pub fn place(&self, entry: &Entry) -> Option<PathBuf> {
        entry.path.place_in(&self.job()).ok()
    }

    /// Whether nothing was written to one: that is known of layers only.
    #[must_use]
    pub fn is_untouched(&self, entry: &Entry) -> bool {
        let names = || fs::read_dir(self.part(entry, "upper")).map(|mut names| names.next().is_none());
        entry.way == Way::Overlay && names().unwrap_or(false)
    }

    /// What of one is to be saved, once all are taken out; its mounts are taken off.
    pub(super) fn source(&self, entry: &Entry) -> Result<Source, CacheError> {
        if entry.way == Way::Copy {
            return Ok(Source { upper: self.part(entry, "files"), lower: None, since: entry.since });
        }
        git::take_off(&self.part(entry, "merged"))?;
        let lower = entry.origin.as_ref().map(|origin| Saved::at(&origin.dir).files());
        Ok(Source { upper: self.part(entry, "upper"), lower, since: entry.since })
    }
}

/// The directories of saved caches that what is in `root` stands on, whole or not.
pub(super) fn stands_on(root: &Path) -> Vec<PathBuf> {
    let entries = read(root).map(|record| record.entries).unwrap_or_default();
    entries.into_iter().filter_map(|entry| Some(entry.origin?.dir)).collect()
}

fn read(root: &Path) -> Option<Record> {
    let text = fs::read(root.join(CACHES).join(RECORD)).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Whether nothing is at a path, or an empty directory.
fn is_free(place: &Path) -> std::io::Result<bool> {
    match fs::symlink_metadata(place) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(true),
        found => Ok(found?.is_dir() && fs::read_dir(place)?.next().is_none()),
    }
}
