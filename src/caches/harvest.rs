//! Making a saved cache of what a job left: what it wrote, and what shows through from the one that it began with.
//!
//! The one rule: nothing is copied that need not be. A file that is in the cache already gets a further name, and so does what the job
//! wrote, which is nobody else's. One is copied that is on another filesystem, as a subvolume counts, or can have no more names. Only files,
//! links and directories are taken; no link is followed.
//!
//! **Times.** Builds compare the times of what they made with those of sources. A base checkout keeps the times of files that did not
//! change, so a source of a later commit may well be older than what an earlier job built from another one. So whatever has a time since
//! the job began is saved with one of three years before: older than any checkout, and in the same order among itself.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;

use super::copy::copy_one;
use super::error::{CacheError, io_error};
use crate::clock::Timestamp;
use crate::git::{self, Mark, Marks};

/// By how much what a job wrote is made older. No base checkout gets so old.
const AGED_SECONDS: i64 = 3 * 365 * 24 * 3600;

/// What a cache is made from. Nothing in it changes meanwhile.
#[derive(Debug, Clone)]
pub(super) struct Source {
    /// What the job wrote, with the marks of an overlay where there is something below.
    pub(super) upper: PathBuf,
    /// What shows through.
    pub(super) lower: Option<PathBuf>,
    /// The marks that it has.
    pub(super) marks: Marks,
    /// What is younger was written by the job.
    pub(super) since: Timestamp,
}

/// What a cache may have at most.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) bytes: u64,
    pub(super) entries: u64,
}

/// What a cache has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Harvest {
    pub(super) bytes: u64,
    pub(super) entries: u64,
}

/// A directory that is still to be gone through.
struct Ahead {
    /// Its path in the cache.
    within: PathBuf,
    /// Whether the upper directory has it.
    written: bool,
    /// Where what shows through it is in the lower directory.
    shown: Option<PathBuf>,
}

/// By what a file is told from others: files of two subvolumes may have the same number.
type Number = (u64, u64);

fn number(meta: &Metadata) -> Number {
    (meta.dev(), meta.ino())
}

/// Everything that one harvest knows.
struct Harvester<'a> {
    source: &'a Source,
    into: &'a Path,
    limits: Limits,
    /// How many names were looked at, those that come to nothing too.
    seen: u64,
    found: Harvest,
    ahead: Vec<Ahead>,
    directories: Vec<(PathBuf, Metadata, bool)>,
    counted: HashSet<Number>,
    /// Of what the job wrote: how many names a file had, and which of them are in the cache.
    written: HashMap<Number, (u64, Vec<PathBuf>)>,
    /// The last copy of each file that was copied.
    copies: HashMap<Number, PathBuf>,
}

/// How a file came to a name in the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Named {
    /// It is a further name of the file itself.
    Itself,
    /// It was copied there.
    Copied,
    /// It is a further name of such a copy.
    AsACopy,
}

/// Puts the files into `into`, which is an empty directory; of more than the limits only a part.
pub(super) fn harvest(source: &Source, into: &Path, limits: Limits) -> Result<Harvest, CacheError> {
    let shown = source.lower.as_ref().map(|_| PathBuf::new());
    let ahead = vec![Ahead { within: PathBuf::new(), written: true, shown }];
    let mut harvester = Harvester {
        source,
        into,
        limits,
        seen: 0,
        found: Harvest::default(),
        ahead,
        directories: Vec::new(),
        counted: HashSet::new(),
        written: HashMap::new(),
        copies: HashMap::new(),
    };
    while let Some(next) = harvester.ahead.pop() {
        harvester.directory(&next)?;
    }
    harvester.separate()?;
    harvester.settle()?;
    Ok(harvester.found)
}

impl Harvester<'_> {
    fn directory(&mut self, dir: &Ahead) -> Result<(), CacheError> {
        let mut hidden: HashSet<OsString> = HashSet::new();
        if dir.written {
            let upper = self.source.upper.join(&dir.within);
            open_directory(&upper).map_err(io_error("open", &upper))?;
            for name in self.names(&upper)? {
                let within = dir.within.join(&name);
                let path = self.source.upper.join(&within);
                let mark = git::mark((&self.source.upper, self.source.marks), &within, dir.shown.as_deref());
                let mark = mark.map_err(io_error("look at", &path))?;
                let shown = match mark {
                    // Without anything below it is a device that a job made.
                    Mark::Removed => {
                        hidden.insert(name);
                        continue;
                    }
                    Mark::Opaque => None,
                    Mark::Renamed(from) => Some(from),
                    Mark::Plain => dir.shown.as_ref().map(|shown| shown.join(&name)),
                };
                let shown = shown.filter(|shown| self.below(shown).is_some_and(|path| is_dir(&path)));
                self.take(&path, Ahead { within, written: true, shown })?;
                hidden.insert(name);
            }
        }
        let Some(shown) = &dir.shown else { return Ok(()) };
        let Some(below) = self.below(shown) else { return Ok(()) };
        for name in self.names(&below)?.into_iter().filter(|name| !hidden.contains(name)) {
            let ahead = Ahead { within: dir.within.join(&name), written: false, shown: Some(shown.join(&name)) };
            self.take(&below.join(&name), ahead)?;
        }
        Ok(())
    }

    /// The names in a directory, which count as seen.
    fn names(&mut self, dir: &Path) -> Result<Vec<OsString>, CacheError> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir).map_err(io_error("read", dir))? {
            names.push(entry.map_err(io_error("read", dir))?.file_name());
            self.seen += 1;
            // What is there twice, in both directories, counts once.
            self.check_entries(self.seen / 2)?;
        }
        Ok(names)
    }

    fn check_entries(&self, entries: u64) -> Result<(), CacheError> {
        let limit = self.limits.entries;
        if entries > limit { Err(CacheError::TooMany { limit }) } else { Ok(()) }
    }

    fn below(&self, shown: &Path) -> Option<PathBuf> {
        self.source.lower.as_ref().map(|lower| lower.join(shown))
    }

    /// Takes what is at `path`; what is in it, where it is a directory, comes later.
    fn take(&mut self, path: &Path, ahead: Ahead) -> Result<(), CacheError> {
        let meta = path.symlink_metadata().map_err(io_error("look at", path))?;
        let new = self.into.join(&ahead.within);
        if !(meta.is_dir() || meta.is_file() || meta.is_symlink()) {
            // A pipe, a socket or a device is nothing to keep.
            return Ok(());
        }
        let first = self.count(&meta)?;
        if meta.is_dir() {
            fs::create_dir(&new).map_err(io_error("create", &new))?;
            self.directories.push((new, meta.clone(), ahead.written));
            self.ahead.push(ahead);
        } else {
            let named = self.name(path, &new, &meta)?;
            if ahead.written {
                self.note_written(new, &meta, named, first)?;
            }
        }
        Ok(())
    }

    /// Counts a name before anything is made of it, since a copy may take long; says whether it is the first one of what it names.
    fn count(&mut self, meta: &Metadata) -> Result<bool, CacheError> {
        self.found.entries += 1;
        self.check_entries(self.found.entries)?;
        let first = self.counted.insert(number(meta));
        if first {
            // stat(2): in units of 512 bytes, whatever the filesystem's own.
            self.found.bytes += meta.blocks() * 512;
        }
        if self.found.bytes > self.limits.bytes {
            return Err(CacheError::TooLarge { limit: bytesize::ByteSize(self.limits.bytes) });
        }
        Ok(first)
    }

    /// Gives a file or link a name in the cache; a copy of it where it can have none.
    fn name(&mut self, path: &Path, new: &Path, meta: &Metadata) -> Result<Named, CacheError> {
        let copy = self.copies.get(&number(meta));
        match fs::hard_link(copy.map_or(path, PathBuf::as_path), new) {
            Ok(()) => Ok(if copy.is_some() { Named::AsACopy } else { Named::Itself }),
            Err(error) if matches!(error.kind(), io::ErrorKind::CrossesDevices | io::ErrorKind::TooManyLinks) => {
                open_file(path, meta).and_then(|()| copy_one(path, new, meta)).map_err(io_error("copy", path))?;
                set_times(new, meta, None).map_err(io_error("set the times of", new))?;
                self.copies.insert(number(meta), new.to_owned());
                Ok(Named::Copied)
            }
            Err(error) => Err(io_error("link", new)(error)),
        }
    }

    /// Ages what the job wrote, where that has not been done by another name, and opens to its owner what has to be copied later.
    fn note_written(&mut self, new: PathBuf, meta: &Metadata, named: Named, first: bool) -> Result<(), CacheError> {
        if named == Named::Copied || (named == Named::Itself && first) {
            set_times(&new, meta, Some(self.source.since)).map_err(io_error("set the times of", &new))?;
            open_file(&new, meta).map_err(io_error("open", &new))?;
        }
        if named == Named::Itself {
            self.written.entry(number(meta)).or_insert_with(|| (meta.nlink(), Vec::new())).1.push(new);
        }
        Ok(())
    }

    /// Makes copies of files that have names outside of the cache too, by which they could be changed.
    fn separate(&self) -> Result<(), CacheError> {
        for (_, names) in self.written.values().filter(|(links, names)| *links > names.len() as u64) {
            let Some((first, further)) = names.split_first() else { continue };
            let meta = first.symlink_metadata().map_err(io_error("look at", first))?;
            if meta.is_symlink() {
                continue;
            }
            let copy = first.with_file_name(format!(".copy-{}", uuid::Uuid::new_v4().simple()));
            fs::copy(first, &copy).and_then(|_| set_times(&copy, &meta, None)).map_err(io_error("copy", first))?;
            for name in further {
                fs::remove_file(name).and_then(|()| fs::hard_link(&copy, name)).map_err(io_error("link", name))?;
            }
            fs::rename(&copy, first).map_err(io_error("name", first))?;
        }
        Ok(())
    }

    /// Gives directories their times and rights: last, since what is made in one changes the ones and needs the others.
    fn settle(&self) -> Result<(), CacheError> {
        for (path, meta, written) in self.directories.iter().rev() {
            let mode = fs::Permissions::from_mode(meta.mode() | 0o700);
            let since = written.then_some(self.source.since);
            let set = fs::set_permissions(path, mode).and_then(|()| set_times(path, meta, since));
            set.map_err(io_error("set the times of", path))?;
        }
        Ok(())
    }
}

/// Lets the owner of a file read it, where the job has not: who is not root could not copy it, now or later.
fn open_file(path: &Path, meta: &Metadata) -> io::Result<()> {
    if !meta.is_file() || meta.mode() & 0o400 != 0 {
        return Ok(());
    }
    fs::set_permissions(path, fs::Permissions::from_mode(meta.mode() | 0o400))
}

/// As [`open_file`], of a directory.
fn open_directory(path: &Path) -> io::Result<()> {
    if path.symlink_metadata()?.mode() & 0o500 == 0o500 { Ok(()) } else { git::open_up(path) }
}

fn is_dir(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|meta| meta.is_dir())
}

/// Gives what is at `path` the times of `meta`; where it was written since a moment, aged ones.
pub(super) fn set_times(path: &Path, meta: &Metadata, since: Option<Timestamp>) -> io::Result<()> {
    let aged = |seconds: i64| match since.map(|since| since.0.div_euclid(1000)) {
        // None is of the future, whatever a job has made of its times.
        Some(since) if seconds >= since => seconds.min(Timestamp::now().0.div_euclid(1000)) - AGED_SECONDS,
        _ => seconds,
    };
    let [atime, mtime] = [(meta.atime(), meta.atime_nsec()), (meta.mtime(), meta.mtime_nsec())]
        .map(|(seconds, nanoseconds)| TimeSpec::new(aged(seconds), nanoseconds));
    Ok(utimensat(AT_FDCWD, path, &atime, &mtime, UtimensatFlags::NoFollowSymlink)?)
}
