//! Writing files by several threads, each with its own view of the repository.

use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use git2::Repository;
use nix::fcntl::OFlag;
use nix::sys::stat::{UtimensatFlags, futimens, utimensat};
use nix::sys::time::TimeSpec;

use super::list::{File, Kind, Listing};
use crate::git::index::past;

/// How many files a thread takes at a time: neighbours, which are mostly in one directory.
const BLOCK: usize = 64;
/// More threads than this wait for the disk.
const THREADS_MAX: usize = 16;

/// What an index keeps of a file. Seconds, sizes and numbers are cut to 32 bits, as git does.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Stat {
    pub(super) changed: (u32, u32),
    pub(super) modified: u32,
    pub(super) device: u32,
    pub(super) inode: u32,
    pub(super) owner: (u32, u32),
    pub(super) size: u32,
}

/// Makes the directories of a listing in an empty one.
pub(super) fn make_directories(listing: &Listing, tree: &Path) -> io::Result<()> {
    listing.directories.iter().try_for_each(|directory| fs::create_dir(tree.join(OsStr::from_bytes(directory))))
}

/// Writes those files of a listing of which nothing is kept into directories that are there, with times a little in the past; answers
/// what an index keeps of each file.
pub(super) fn write(listing: &Listing, kept: Vec<Option<Stat>>, mirror: &Path, tree: &Path) -> io::Result<Vec<Stat>> {
    let mut stats: Vec<Option<Stat>> = kept;
    stats.resize(listing.files.len(), None);
    let missing: Vec<usize> = (0..stats.len()).filter(|number| stats[*number].is_none()).collect();
    let (next, past) = (AtomicUsize::new(0), past());
    let mut written: Vec<(usize, Stat)> = Vec::with_capacity(missing.len());
    std::thread::scope(|scope| {
        let work = || write_some(&listing.files, &missing, &next, mirror, tree, &past);
        let running: Vec<_> = (0..threads(missing.len() / BLOCK)).map(|_| scope.spawn(work)).collect();
        for thread in running {
            match thread.join() {
                Ok(part) => written.extend(part?),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok::<(), io::Error>(())
    })?;
    let repository = open(mirror)?;
    // Last, so that nothing was written through one.
    for number in missing.into_iter().filter(|number| listing.files[*number].kind == Kind::Link) {
        written.push((number, write_link(&repository, &listing.files[number], tree, &past)?));
    }
    for (number, stat) in written {
        stats[number] = Some(stat);
    }
    Ok(stats.into_iter().map(Option::unwrap_or_default).collect())
}

/// How many threads so many blocks of work are for.
pub(super) fn threads(blocks: usize) -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX).min(blocks + 1)
}

fn write_some(
    files: &[File],
    missing: &[usize],
    next: &AtomicUsize,
    mirror: &Path,
    tree: &Path,
    past: &TimeSpec,
) -> io::Result<Vec<(usize, Stat)>> {
    let repository = open(mirror)?;
    let mut written = Vec::new();
    loop {
        let from = next.fetch_add(BLOCK, Ordering::Relaxed);
        let Some(block) = missing.get(from..missing.len().min(from + BLOCK)).filter(|block| !block.is_empty()) else {
            return Ok(written);
        };
        for number in block.iter().copied().filter(|number| files[*number].kind != Kind::Link) {
            match write_file(&repository, &files[number], tree, past) {
                Ok(stat) => written.push((number, stat)),
                Err(error) => {
                    // Nobody needs the rest.
                    next.store(missing.len(), Ordering::Relaxed);
                    return Err(error);
                }
            }
        }
    }
}

fn write_file(repository: &Repository, file: &File, tree: &Path, past: &TimeSpec) -> io::Result<Stat> {
    let blob = repository.find_blob(file.id).map_err(io::Error::other)?;
    let mode = if file.kind == Kind::Executable { 0o777 } else { 0o666 };
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(mode).custom_flags(OFlag::O_NOFOLLOW.bits());
    let mut target = options.open(place(tree, file))?;
    target.write_all(blob.content())?;
    futimens(&target, past, past)?;
    Ok(to_stat(&target.metadata()?))
}

fn write_link(repository: &Repository, file: &File, tree: &Path, past: &TimeSpec) -> io::Result<Stat> {
    let blob = repository.find_blob(file.id).map_err(io::Error::other)?;
    let place = place(tree, file);
    std::os::unix::fs::symlink(OsStr::from_bytes(blob.content()), &place)?;
    utimensat(nix::fcntl::AT_FDCWD, &place, past, past, UtimensatFlags::NoFollowSymlink)?;
    Ok(to_stat(&fs::symlink_metadata(&place)?))
}

fn open(mirror: &Path) -> io::Result<Repository> {
    Repository::open_bare(mirror).map_err(io::Error::other)
}

fn place(tree: &Path, file: &File) -> PathBuf {
    tree.join(OsStr::from_bytes(&file.path))
}

/// What an index keeps of a file that is there.
pub(super) fn to_stat(meta: &fs::Metadata) -> Stat {
    let signed = |value: i64| u32::try_from(value & 0xffff_ffff).unwrap_or(0);
    let unsigned = |value: u64| u32::try_from(value & 0xffff_ffff).unwrap_or(0);
    Stat {
        changed: (signed(meta.ctime()), signed(meta.ctime_nsec())),
        modified: signed(meta.mtime()),
        device: unsigned(meta.dev()),
        inode: unsigned(meta.ino()),
        owner: (meta.uid(), meta.gid()),
        size: unsigned(meta.size()),
    }
}
