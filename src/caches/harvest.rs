//! Making a saved cache of what a job left: what it wrote, and what shows through from the one that it began with.
//!
//! The one rule: nothing is copied that need not be. A file that is in the cache already gets a further name, and so does what the job
//! wrote, which is nobody else's. Only files, links and directories are taken; no link is followed.
//!
//! **Times.** Builds compare the times of what they made with those of sources. A base checkout keeps the times of files that did not
//! change, so a source of a later commit may well be older than what an earlier job built from another one. So whatever a job wrote is
//! saved as if it had been written three years before: older than any source, and in the same order among itself.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;

use super::error::{CacheError, io_error};
use crate::clock::Timestamp;
use crate::git::{self, Mark};

/// By how much what a job wrote is made older. No base checkout gets so old.
const AGED_SECONDS: i64 = 3 * 365 * 24 * 3600;

/// What a cache is made from. Nothing in it changes meanwhile.
#[derive(Debug, Clone)]
pub(super) struct Source {
    /// What the job wrote, with the marks of an overlay where there is something below.
    pub(super) upper: PathBuf,
    /// What shows through.
    pub(super) lower: Option<PathBuf>,
    /// What is younger was written by the job.
    pub(super) since: Timestamp,
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

/// Everything that one harvest knows.
struct Harvester<'a> {
    source: &'a Source,
    into: &'a Path,
    limit: u64,
    found: Harvest,
    ahead: Vec<Ahead>,
    directories: Vec<(PathBuf, Metadata, bool)>,
    counted: HashSet<u64>,
    /// Of what the job wrote: how many names a file had, and which of them are in the cache.
    written: HashMap<u64, (u64, Vec<PathBuf>)>,
}

/// Puts the files into `into`, which is an empty directory on the same filesystem; of more than `limit` bytes nothing.
pub(super) fn harvest(source: &Source, into: &Path, limit: u64) -> Result<Harvest, CacheError> {
    let shown = source.lower.as_ref().map(|_| PathBuf::new());
    let ahead = vec![Ahead { within: PathBuf::new(), written: true, shown }];
    let mut harvester = Harvester {
        source,
        into,
        limit,
        found: Harvest::default(),
        ahead,
        directories: Vec::new(),
        counted: HashSet::new(),
        written: HashMap::new(),
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
            for name in names(&self.source.upper.join(&dir.within))? {
                let within = dir.within.join(&name);
                let path = self.source.upper.join(&within);
                let mark = git::mark(&self.source.upper, &within, dir.shown.as_deref()).map_err(io_error("look at", &path))?;
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
        for name in names(&below)?.into_iter().filter(|name| !hidden.contains(name)) {
            let ahead = Ahead { within: dir.within.join(&name), written: false, shown: Some(shown.join(&name)) };
            self.take(&below.join(&name), ahead)?;
        }
        Ok(())
    }

    fn below(&self, shown: &Path) -> Option<PathBuf> {
        self.source.lower.as_ref().map(|lower| lower.join(shown))
    }

    /// Takes what is at `path`; what is in it, where it is a directory, comes later.
    fn take(&mut self, path: &Path, ahead: Ahead) -> Result<(), CacheError> {
        let meta = path.symlink_metadata().map_err(io_error("look at", path))?;
        let new = self.into.join(&ahead.within);
        if meta.is_dir() {
            fs::create_dir(&new).map_err(io_error("create", &new))?;
            self.directories.push((new, meta.clone(), ahead.written));
            self.ahead.push(ahead);
        } else if meta.is_file() || meta.is_symlink() {
            fs::hard_link(path, &new).map_err(io_error("link", &new))?;
            let first = !self.counted.contains(&meta.ino());
            if ahead.written {
                let (_, names) = self.written.entry(meta.ino()).or_insert_with(|| (meta.nlink(), Vec::new()));
                names.push(new.clone());
                if first {
                    set_times(&new, &meta, Some(self.source.since)).map_err(io_error("set the times of", &new))?;
                }
            }
        } else {
            // A pipe, a socket or a device is nothing to keep.
            return Ok(());
        }
        self.found.entries += 1;
        if self.counted.insert(meta.ino()) {
            // stat(2): in units of 512 bytes, whatever the filesystem's own.
            self.found.bytes += meta.blocks() * 512;
        }
        if self.found.bytes > self.limit {
            return Err(CacheError::TooLarge { limit: bytesize::ByteSize(self.limit) });
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

fn names(dir: &Path) -> Result<Vec<OsString>, CacheError> {
    let entries = fs::read_dir(dir).map_err(io_error("read", dir))?;
    entries.map(|entry| entry.map(|entry| entry.file_name())).collect::<io::Result<_>>().map_err(io_error("read", dir))
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
