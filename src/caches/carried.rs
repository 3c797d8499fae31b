//! What one attempt has of its project's caches: in its slot, or on the ground of a gate, which is laid out as one.
//!
//! The one rule: what is saved is only read here. A job writes to a layer over it that is its own or, where none can be mounted, to a
//! copy. Both are beside what the job sees: they are put into its tree while it runs, and taken out while a commit is made. So nothing
//! of a cache is ever part of a commit, whatever the ignore rules say.
//!
//! A record says what there is; it is there before anything stands on a saved cache, and is its lease. It says of which boot of the host
//! that is, too: what a crash may have damaged is taken out of a tree, and neither put there again nor saved.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::copy::{copy, is_as_copied};
use super::error::{CacheError, io_error};
use super::harvest::Source;
use super::key::Key;
use super::path::CachePath;
use super::saved::Saved;
use crate::clock::Timestamp;
use crate::git::{self, Marks, Stack};
use crate::ids::JobId;
use crate::janitor::boot_id;

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
    /// A copy of it, which is moved into the tree and out of it.
    Copy,
    /// A copy that stays in its place, since that is on another filesystem, as a subvolume of Btrfs counts: what is made of the tree leaves
    /// it out.
    InPlace,
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
pub(super) struct Wanted {
    /// Where the job finds it.
    pub(super) path: CachePath,
    /// By which key it is saved.
    pub(super) key: Key,
    /// What is in it at first; nothing where none is saved that suits.
    pub(super) origin: Option<Origin>,
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
    fn again(self) -> Wanted {
        Wanted { path: self.path, key: self.key, origin: self.origin }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    /// The boot of the host in which it was made. Absent in what an earlier build has written, which does not outlive a boot by much.
    #[serde(default)]
    boot: Option<String>,
    /// The marks of what is written to layers.
    #[serde(default)]
    marks: Option<Marks>,
    /// Whether all parts are there.
    whole: bool,
    entries: Vec<Entry>,
}

/// The caches of an attempt, in `root`: its slot, or the ground of a gate.
#[derive(Debug, Clone)]
pub struct Carried {
    root: PathBuf,
    marks: Marks,
    /// What it has.
    pub entries: Vec<Entry>,
    /// What it had before the host was started again: that is only taken out.
    pub past: Vec<Entry>,
}

/// Caches that were made, and those that could not be, or not as they were saved.
type Made = (Carried, Vec<(CachePath, CacheError)>);

impl Carried {
    /// Those in `root`, where all of their parts are there.
    #[must_use]
    pub fn find(root: &Path) -> Option<Self> {
        read(root).filter(|record| record.whole).map(|record| Self::of(root, record))
    }

    /// Those in `root`, whether or not all of their parts are there: what is to be kept out of whatever is made of the tree.
    #[must_use]
    pub fn begun(root: &Path) -> Option<Self> {
        read(root).map(|record| Self::of(root, record))
    }

    fn of(root: &Path, record: Record) -> Self {
        let is_of_this_boot = record.boot.is_none_or(|boot| boot_id().is_ok_and(|now| now == boot));
        let (entries, past) = if is_of_this_boot { (record.entries, Vec::new()) } else { (Vec::new(), record.entries) };
        Self { root: root.to_owned(), marks: record.marks.unwrap_or_else(Marks::here), entries, past }
    }

    /// Whether there is anything of caches in `root`, whole or not.
    #[must_use]
    pub fn is_begun(root: &Path) -> bool {
        root.join(CACHES).exists()
    }

    /// Makes for the ground of a gate what an attempt began with; see [`super::Shelf::bring`]. Blocks.
    ///
    /// # Errors
    /// The record cannot be written; it was cancelled.
    pub fn repeat(root: &Path, entries: Vec<Entry>, cancel: &CancellationToken) -> Result<Made, CacheError> {
        let way = if entries.iter().any(|entry| entry.way == Way::Overlay) { Way::Overlay } else { Way::Copy };
        let (carried, mut refused) = Self::make(root, way, entries.into_iter().map(Entry::again).collect(), cancel)?;
        refused.extend(carried.put_in());
        Ok((carried, refused))
    }

    /// Makes caches in `root`, where there are none yet; whoever asks holds what they stand on. Those that cannot be are left out; one
    /// of which what is saved cannot be read is empty. Blocks, where they are copies for as long as copying takes, or until it is cancelled.
    ///
    /// # Errors
    /// Their record cannot be written; it was cancelled.
    pub(super) fn make(root: &Path, way: Way, wanted: Vec<Wanted>, cancel: &CancellationToken) -> Result<Made, CacheError> {
        let dir = root.join(CACHES);
        fs::create_dir_all(&dir).map_err(io_error("create", &dir))?;
        let (since, mut refused) = (Timestamp::now(), Vec::new());
        let mut carried = Self { root: root.to_owned(), marks: Marks::here(), entries: Vec::new(), past: Vec::new() };
        for (number, Wanted { path, key, origin }) in wanted.into_iter().enumerate() {
            match carried.look_at_place(&path, way) {
                Ok(way) => carried.entries.push(Entry { path, key, origin, way, since, number }),
                Err(error) => refused.push((path, error)),
            }
        }
        carried.write(false)?;
        for mut entry in std::mem::take(&mut carried.entries) {
            let error = match carried.prepare(&mut entry, cancel) {
                Ok(()) => None,
                Err(CacheError::Stopped) => return Err(CacheError::Stopped),
                Err(error) => Some(error),
            };
            if entry.way == Way::InPlace && matches!(error, Some(ref error) if !matches!(error, CacheError::Damaged { .. })) {
                // What there is of it would be the job's.
                carried.remove(&entry)?;
            }
            let is_there = matches!(error, None | Some(CacheError::Damaged { .. }));
            refused.extend(error.map(|error| (entry.path.clone(), error)));
            carried.entries.extend(is_there.then_some(entry));
        }
        carried.write(true)?;
        Ok((carried, refused))
    }

    fn write(&self, whole: bool) -> Result<(), CacheError> {
        let path = self.root.join(CACHES).join(RECORD);
        let new = path.with_extension("new");
        let boot = boot_id().map_err(io_error("read the boot's id for", &path))?;
        let record = Record { boot: Some(boot), marks: Some(self.marks), whole, entries: self.entries.clone() };
        let text = serde_json::to_vec(&record).map_err(|error| io_error("write", &path)(error.into()))?;
        // After a crash of the host it tells what in the tree is a cache.
        let mut file = File::create(&new).map_err(io_error("create", &new))?;
        file.write_all(&text).and_then(|()| file.sync_all()).map_err(io_error("write", &new))?;
        fs::rename(&new, &path).map_err(io_error("write", &path))
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

    /// Looks whether the place of one in the tree is free, and how it can come there.
    fn look_at_place(&self, path: &CachePath, way: Way) -> Result<Way, CacheError> {
        let place = path.place_in(&self.job()).map_err(|why| CacheError::Taken(why.to_string()))?;
        if !is_free(&place).map_err(io_error("look at", &place))? {
            let why = format!("{path} is there already: a cache has a place of its own, in which a commit has no files");
            return Err(CacheError::Taken(why));
        }
        let device = |path: &Path| path.metadata().map(|meta| meta.dev()).map_err(io_error("look at", path));
        let above = place.parent().unwrap_or(&self.root);
        Ok(if way != Way::Overlay && device(above)? != device(&self.root)? { Way::InPlace } else { way })
    }

    /// Makes the parts of one.
    fn prepare(&self, entry: &mut Entry, cancel: &CancellationToken) -> Result<(), CacheError> {
        let files = match entry.way {
            Way::Overlay => return self.mount(entry),
            Way::Copy => self.part(entry, "files"),
            Way::InPlace => entry.path.place_in(&self.job()).map_err(|why| CacheError::Taken(why.to_string()))?,
        };
        fs::create_dir_all(&files).map_err(io_error("create", &files))?;
        let Some(saved) = entry.origin.as_ref().map(|origin| Saved::at(&origin.dir)) else { return Ok(()) };
        match copy(&saved.files(), &files, cancel) {
            Err(error) if is_about(&error, saved.dir()) => {
                fs::remove_dir_all(&files).and_then(|()| fs::create_dir(&files)).map_err(io_error("empty", &files))?;
                entry.origin = None;
                Err(CacheError::Damaged { dir: saved.dir().to_owned(), why: error.to_string() })
            }
            copied => copied,
        }
    }

    /// Mounts the layer of one over what it stands on: at first, or again over what was written.
    fn mount(&self, entry: &Entry) -> Result<(), CacheError> {
        let [empty, upper, work, merged] = ["empty", "upper", "work", "merged"].map(|part| self.part(entry, part));
        // A mount that ended without a word has left a mark in the kernel's directory that forbids another.
        match fs::remove_dir_all(&work) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io_error("empty", &work)(error)),
            _ => {}
        }
        for part in [&empty, &upper, &work, &merged] {
            fs::create_dir_all(part).map_err(io_error("create", part))?;
        }
        let lower = entry.origin.as_ref().map_or(empty, |origin| Saved::at(&origin.dir).files());
        self.marks.check_readable(&merged)?;
        Ok(Stack { lower, upper, work }.mount(&merged, self.marks)?)
    }

    /// Puts all of them into the tree and the home directory, where they are not there already; tells those that cannot be put there. No
    /// process of the job may run: it could lead elsewhere what is put there.
    #[must_use]
    pub fn put_in(&self) -> Vec<(CachePath, CacheError)> {
        let put = |entry: &Entry| self.put(entry).err().map(|error| (entry.path.clone(), error));
        let past = self.past.iter().map(|entry| (entry.path.clone(), CacheError::Past));
        self.entries.iter().filter_map(put).chain(past).collect()
    }

    fn put(&self, entry: &Entry) -> Result<(), CacheError> {
        let place = entry.path.place_in(&self.job()).map_err(|why| CacheError::Taken(why.to_string()))?;
        match entry.way {
            Way::InPlace => Ok(()),
            Way::Copy => match fs::rename(self.part(entry, "files"), &place) {
                // It is there already.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
                moved => moved.map_err(io_error("move a cache to", &place)),
            },
            Way::Overlay => {
                let merged = self.part(entry, "merged");
                if !git::mounts_below(&merged)?.contains(&merged) {
                    // Who mounted for itself only has ended, and the mount with it.
                    self.mount(entry)?;
                }
                if git::is_shown_at(&merged, &place) {
                    return Ok(());
                }
                match fs::symlink_metadata(&place) {
                    Err(_) => fs::create_dir(&place).map_err(io_error("create", &place))?,
                    Ok(meta) if meta.is_dir() => {}
                    Ok(_) => return Err(CacheError::Taken(format!("something else is in the place of {}", entry.path))),
                }
                Ok(git::show_at(&merged, &place)?)
            }
        }
    }

    /// Takes them out of the tree and the home directory; tells those that cannot be taken out. Of one that a job has put something else in
    /// the place of, nothing is left. What is in the tree all the same is told by [`Carried::left_in`]. No process of the job may run.
    ///
    /// # Errors
    /// What the system says of a mount.
    pub fn take_out(&self) -> Result<Vec<(CachePath, CacheError)>, CacheError> {
        if self.has_layers() {
            // A job may have moved what it is mounted in.
            let tree = self.root.join(TREE);
            for at in git::mounts_below(&self.job())?.iter().rev().filter(|at| **at != tree) {
                git::take_off(at)?;
            }
        }
        let copies = self.all().filter(|entry| entry.way == Way::Copy);
        Ok(copies.filter_map(|entry| self.take(entry).err().map(|error| (entry.path.clone(), error))).collect())
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

    /// Takes away those that [`Carried::take_out`] leaves in their place.
    pub(super) fn remove_in_place(&self) -> Result<(), CacheError> {
        self.all().filter(|entry| entry.way == Way::InPlace).try_for_each(|entry| self.remove(entry))
    }

    fn remove(&self, entry: &Entry) -> Result<(), CacheError> {
        let Some(place) = self.place(entry) else { return Ok(()) };
        match fs::remove_dir_all(&place) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io_error("remove", &place)(error)),
            _ => Ok(()),
        }
    }

    /// Where in the tree something of a cache is, from its root on: that is no part of what is made of the tree.
    ///
    /// # Errors
    /// The list of mounts cannot be read.
    pub fn left_in(&self) -> Result<Vec<PathBuf>, CacheError> {
        let tree = self.root.join(TREE);
        let mut left = Vec::new();
        if self.has_layers() {
            let mounts = git::mounts_below(&tree)?;
            left.extend(mounts.iter().filter(|at| **at != tree).filter_map(|at| at.strip_prefix(&tree).ok()).map(Path::to_owned));
        }
        let copies = self.all().filter(|entry| entry.way != Way::Overlay && !self.is_out(entry));
        // A file that a job has put in the place of a cache is its own.
        let is_there = |path: &&Path| match tree.join(path).symlink_metadata() {
            Ok(meta) => meta.is_dir(),
            Err(error) => error.kind() != std::io::ErrorKind::NotFound,
        };
        left.extend(copies.filter_map(|entry| entry.path.within_tree()).filter(is_there).map(Path::to_owned));
        Ok(left)
    }

    /// Whether what there is of one, which is a copy, was taken out.
    fn is_out(&self, entry: &Entry) -> bool {
        entry.way == Way::Copy && self.part(entry, "files").exists()
    }

    /// Whether there is something of one that may be saved, once all are taken out.
    #[must_use]
    pub fn is_complete(&self, entry: &Entry) -> bool {
        entry.way != Way::Copy || self.is_out(entry)
    }

    fn all(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().chain(&self.past)
    }

    fn has_layers(&self) -> bool {
        self.all().any(|entry| entry.way == Way::Overlay)
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
        let (marks, since) = (self.marks, entry.since);
        let copied = |upper| Ok(Source { upper, lower: None, marks, since });
        match entry.way {
            Way::Copy => copied(self.part(entry, "files")),
            Way::InPlace => {
                let place = entry.path.place_in(&self.job()).map_err(|why| CacheError::Taken(why.to_string()))?;
                if !place.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
                    return Err(CacheError::Taken(format!("something else is in the place of {}", entry.path)));
                }
                copied(place)
            }
            Way::Overlay => {
                let merged = self.part(entry, "merged");
                marks.check_readable(&merged)?;
                git::take_off(&merged)?;
                let lower = entry.origin.as_ref().map(|origin| Saved::at(&origin.dir).files());
                Ok(Source { upper: self.part(entry, "upper"), lower, marks, since })
            }
        }
    }

    /// Whether a copy is what was copied, with the very key. Of layers see [`Carried::is_untouched`].
    pub(super) fn is_as_copied(&self, entry: &Entry, source: &Source) -> bool {
        let exact = entry.origin.as_ref().filter(|origin| origin.exact && entry.way != Way::Overlay);
        exact.is_some_and(|origin| is_as_copied(&Saved::at(&origin.dir).files(), &source.upper))
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

/// Whether an error is one of reading what is saved in a directory, and no lack of room for a copy, of memory or of descriptors.
fn is_about(error: &CacheError, dir: &Path) -> bool {
    use nix::errno::Errno::{EDQUOT, EFBIG, EMFILE, ENFILE, ENOMEM, ENOSPC, EROFS};
    let is_of_ours = |source: &std::io::Error| {
        let errno = source.raw_os_error().map(nix::errno::Errno::from_raw);
        errno.is_some_and(|errno| matches!(errno, EDQUOT | EFBIG | EMFILE | ENFILE | ENOMEM | ENOSPC | EROFS))
    };
    matches!(error, CacheError::Io { path, source, .. } if path.starts_with(dir) && !is_of_ours(source))
}
