//! Where saved caches are: found by their key, saved beside what is there, and accounted for. Removing them is in [`super::evict`].
//!
//! The one rule: a cache gets its name when it is whole. One at a time is made for a path, under a lock; whoever finds that lock taken
//! does without. Nothing is written to the disk with certainty: a saved cache is of one boot of the host, as base checkouts are, and one
//! that a crash may have damaged is not used again.

use std::fs::{self, DirBuilder, OpenOptions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bytesize::ByteSize;
use nix::fcntl::{Flock, FlockArg};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::carried::{self, Carried, Entry, Origin, Wanted, Way};
use super::config::{CacheConfig, Config};
use super::copy::shares_blocks;
use super::error::{CacheError, io_error};
use super::harvest::{Harvest, Limits, Source, harvest};
use super::key::Key;
use super::path::CachePath;
use super::saved::{Held, Saved, SavedRecord};
use crate::clock::Timestamp;
use crate::fingerprint;
use crate::git;
use crate::ids::{JobId, ObjectId};
use crate::janitor::Space;

/// How the names of caches begin that are not whole yet.
pub(super) const NEW: &str = ".new-";
/// The lock for making one, in the directory of a path.
pub(super) const LOCK: &str = ".lock";
/// The saved caches of a worker. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Shelf {
    pub(super) dir: PathBuf,
    trash: PathBuf,
    slots: PathBuf,
    pub(super) config: Config,
    /// Which boot of the host this is.
    boot: String,
}

/// A saved cache as it is accounted for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedUse {
    /// Where it is.
    pub dir: PathBuf,
    /// What is on disk about it.
    pub record: SavedRecord,
    /// When a job last had it.
    pub last_used: SystemTime,
    /// Whether it is of this boot of the host; another is never used again.
    pub usable: bool,
    /// The slots in which something stands on it.
    pub slots: Vec<PathBuf>,
}

impl SavedUse {
    /// What it takes of the disk's space.
    #[must_use]
    pub const fn space(&self) -> Space {
        Space { bytes: self.record.bytes, inodes: self.record.entries }
    }
}

/// What was found for a job.
enum Found {
    Held(Origin, Held),
    /// The best that there is is not copied.
    Unfit(CacheError),
    Nothing,
}

/// What is saved, by whom.
#[derive(Debug, Clone)]
pub struct Saving {
    /// The project.
    pub project: String,
    /// The commit that the job began at.
    pub commit: ObjectId,
    /// The job.
    pub job: JobId,
}

impl Shelf {
    /// That of a state directory, which is there. Blocks for a moment.
    ///
    /// # Errors
    /// A directory cannot be made.
    pub fn open(state: &Path, config: &Config) -> Result<Self, CacheError> {
        let dir = state.join("caches");
        DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(io_error("create", &dir))?;
        let boot = crate::janitor::boot_id().map_err(io_error("read the boot's id for", &dir))?.chars().take(8).collect();
        Ok(Self { dir, trash: state.join("trash"), slots: state.join("slots"), config: config.clone(), boot })
    }

    /// What the configuration says of saved caches.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The saved caches that suit best, made in `root` in the way that this host has. A cache of which none is saved is there too, and
    /// empty. One that cannot be read is set aside. Blocks, for as long as copying takes or until it is cancelled.
    ///
    /// # Errors
    /// What is there cannot be read, or the record of what is put there cannot be written; it was cancelled.
    pub fn bring(
        &self,
        root: &Path,
        way: Way,
        project: &str,
        wanted: Vec<(CacheConfig, Key)>,
        cancel: &CancellationToken,
    ) -> Result<(Carried, Vec<(CachePath, CacheError)>), CacheError> {
        let (mut found, mut holds, mut refused) = (Vec::new(), Vec::new(), Vec::new());
        for (cache, key) in wanted {
            let (origin, hold) = match self.find(project, &cache, &key, way)? {
                Found::Held(origin, hold) => (Some(origin), Some(hold)),
                Found::Unfit(why) => {
                    refused.push((cache.path.clone(), why));
                    (None, None)
                }
                Found::Nothing => (None, None),
            };
            holds.extend(hold);
            found.push(Wanted { path: cache.path, key, origin });
        }
        let (carried, failed) = Carried::make(root, way, found, cancel)?;
        // From here on the record in the slot is what holds them.
        drop(holds);
        for (path, error) in &failed {
            let CacheError::Damaged { dir, why } = error else { continue };
            match self.evict(dir) {
                Ok(true) => {
                    tracing::warn!(path = %dir.display(), %why, "a saved cache {path} of project {project} cannot be read; it is removed");
                }
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(path = %dir.display(), %why, %error, "a saved cache {path} of project {project} cannot be read, nor removed");
                }
            }
        }
        refused.extend(failed);
        Ok((carried, refused))
    }

    /// The saved cache that suits best, held: the newest with the very key, else the newest with the toolchain where that will do. One that
    /// would have to be copied and is not passes for none.
    fn find(&self, project: &str, cache: &CacheConfig, key: &Key, way: Way) -> Result<Found, CacheError> {
        let mut candidates = self.of_path(project, &cache.path)?;
        candidates
            .retain(|(_, record)| record.key.exact == key.exact || (cache.fallback && record.key.toolchain == key.toolchain));
        candidates.sort_by_key(|(_, record)| (record.key.exact == key.exact, record.saved_at));
        let mut unfit = None;
        for (saved, record) in candidates.into_iter().rev() {
            if let Some(why) = self.unfit(&record, way) {
                unfit.get_or_insert(why);
            } else if let Some(hold) = saved.hold()? {
                let SavedRecord { key: of, bytes, job, saved_at, .. } = record;
                let exact = of.exact == key.exact;
                return Ok(Found::Held(Origin { dir: saved.dir().to_owned(), exact, key: of, bytes, job, saved_at }, hold));
            }
        }
        Ok(unfit.map_or(Found::Nothing, Found::Unfit))
    }

    /// Why a saved cache is not copied for a job, where it would have to be.
    fn unfit(&self, record: &SavedRecord, way: Way) -> Option<CacheError> {
        if way == Way::Overlay {
            return None;
        }
        if record.entries > self.config.entries {
            return Some(CacheError::TooMany { limit: self.config.entries });
        }
        let limit = self.config.copy;
        let too_large = record.bytes > limit.as_u64() && !shares_blocks(&self.dir);
        too_large.then_some(CacheError::LargeCopy { size: ByteSize(record.bytes), limit })
    }

    /// Makes a saved cache of what there is; nothing larger than what will be copied for a job, where that is how jobs have it.
    fn harvest(&self, source: &Source, into: &Path, way: Way) -> Result<Harvest, CacheError> {
        let (size, copy) = (self.config.size.as_u64(), self.config.copy.as_u64());
        let copied = way != Way::Overlay && copy < size && !shares_blocks(&self.dir);
        let limits = Limits { bytes: if copied { copy } else { size }, entries: self.config.entries };
        harvest(source, into, limits).map_err(|error| match error {
            CacheError::TooLarge { limit } if copied => CacheError::LargerThanCopies { limit },
            error => error,
        })
    }

    /// The usable ones of a project's path.
    fn of_path(&self, project: &str, path: &CachePath) -> Result<Vec<(Saved, SavedRecord)>, CacheError> {
        let dirs = directories(&self.path_dir(project, path))?;
        let saved = dirs.iter().filter(|dir| self.is_usable(dir)).map(|dir| Saved::at(dir));
        let whole = saved.filter_map(|saved| Some((saved.record().ok()?, saved)));
        // Names are told apart by fingerprints, and what is meant by the record.
        Ok(whole.filter(|(of, _)| of.project == project && of.path == *path).map(|(record, saved)| (saved, record)).collect())
    }

    fn path_dir(&self, project: &str, path: &CachePath) -> PathBuf {
        self.dir.join(directory_name(project)).join(directory_name(&path.to_string()))
    }

    fn is_usable(&self, dir: &Path) -> bool {
        dir.file_name().is_some_and(|name| name.as_bytes().ends_with(self.boot.as_bytes()))
    }

    /// Saves what an attempt has left of one of its caches, which are taken out, and whose processes have ended. Nothing where another of
    /// the same path is being saved just now, it is as it was found, or it was empty and is. The one of the same key that was there before
    /// goes, unless somebody stands on it. Blocks for some microseconds per file.
    ///
    /// # Errors
    /// It is too large; what the system says. Then nothing is saved.
    pub fn save(&self, carried: &Carried, entry: &Entry, saving: &Saving) -> Result<Option<SavedRecord>, CacheError> {
        let dir = self.path_dir(&saving.project, &entry.path);
        DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(io_error("create", &dir))?;
        let lock = dir.join(LOCK);
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&lock).map_err(io_error("open", &lock))?;
        let Ok(_alone) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else { return Ok(None) };
        for left in hidden(&dir).into_iter().filter(|path| begins(path, NEW)) {
            self.discard(&left)?;
        }
        let source = carried.source(entry)?;
        if carried.is_as_copied(entry, &source) {
            return Ok(None);
        }
        let new = Saved::at(&dir.join(format!("{NEW}{}", Uuid::now_v7().simple())));
        new.begin()?;
        let harvested = match self.harvest(&source, &new.files(), entry.way) {
            Ok(harvested) if harvested.entries > 0 || entry.origin.is_some() => harvested,
            nothing => {
                self.discard(new.dir())?;
                return nothing.map(|_| None);
            }
        };
        let record = SavedRecord {
            project: saving.project.clone(),
            path: entry.path.clone(),
            key: entry.key.clone(),
            commit: saving.commit.clone(),
            job: saving.job,
            saved_at: Timestamp::now(),
            bytes: harvested.bytes,
            entries: harvested.entries,
        };
        let name = format!("{}-{}-{}", entry.key.short(), Uuid::now_v7().simple(), self.boot);
        let saved = new.finish(&record, &dir.join(name))?;
        for (older, of) in self.of_path(&saving.project, &entry.path)? {
            if older != saved && of.key.exact == record.key.exact {
                // This attempt has no need of it any more.
                self.evict_but(older.dir(), carried.root())?;
            }
        }
        self.shrink_but(Some(saved.dir()), Space::default())?;
        Ok(Some(record))
    }

    /// All that are whole, with what they take, when they were last used, and who stands on them. Blocks.
    ///
    /// # Errors
    /// A directory cannot be read.
    pub fn list(&self) -> Result<Vec<SavedUse>, CacheError> {
        let mut found = Vec::new();
        for path in self.path_dirs()? {
            for dir in directories(&path)? {
                let saved = Saved::at(&dir);
                let (Ok(record), Some(last_used)) = (saved.record(), saved.last_used()) else { continue };
                let (usable, slots) = (self.is_usable(&dir), self.standing_on(&dir));
                found.push(SavedUse { dir, record, last_used, usable, slots });
            }
        }
        Ok(found)
    }

    /// The slots in which something stands on a saved cache.
    pub(super) fn standing_on(&self, dir: &Path) -> Vec<PathBuf> {
        let slots = directories(&self.slots).unwrap_or_default();
        slots.into_iter().filter(|slot| carried::stands_on(slot).iter().any(|on| on == dir)).collect()
    }

    /// Moves away what was begun in a slot or on a ground, and takes off what is mounted there; also what is in the tree or the home
    /// directory, in which no process of a job may be.
    ///
    /// # Errors
    /// What the system says.
    pub fn clear(&self, root: &Path) -> Result<(), CacheError> {
        if let Some(carried) = Carried::begun(root) {
            // What stays is in the way of the next, who says so.
            drop(carried.take_out()?);
            carried.remove_in_place()?;
        }
        let dir = root.join("caches");
        git::release_below(&dir)?;
        self.discard(&dir)
    }

    pub(super) fn discard(&self, path: &Path) -> Result<(), CacheError> {
        match fs::rename(path, self.trash_place()?) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            moved => moved.map_err(io_error("move", path)),
        }
    }

    pub(super) fn trash_place(&self) -> Result<PathBuf, CacheError> {
        fs::create_dir_all(&self.trash).map_err(io_error("create", &self.trash))?;
        Ok(self.trash.join(Uuid::now_v7().simple().to_string()))
    }

    /// The directories of all paths of all projects.
    pub(super) fn path_dirs(&self) -> Result<Vec<PathBuf>, CacheError> {
        let projects = directories(&self.dir)?;
        let paths = projects.iter().map(|project| directories(project)).collect::<Result<Vec<_>, _>>()?;
        Ok(paths.concat())
    }
}

/// A name for a directory that people know again, and that no other project or path has.
fn directory_name(text: &str) -> String {
    let plain: String = text.chars().filter(char::is_ascii_alphanumeric).take(24).collect();
    format!("{plain}-{}", fingerprint::of(text.bytes()))
}

/// The directories in one whose names are not hidden; none where it is not there.
fn directories(dir: &Path) -> Result<Vec<PathBuf>, CacheError> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(io_error("read", dir))?,
    };
    let found = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    Ok(found.map(|entry| entry.path()).filter(|path| !begins(path, ".")).collect())
}

pub(super) fn hidden(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| begins(path, ".")).collect()
}

pub(super) fn begins(path: &Path, prefix: &str) -> bool {
    path.file_name().is_some_and(|name| name.as_bytes().starts_with(prefix.as_bytes()))
}
