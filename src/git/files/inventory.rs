//! What is known of a tree before a job comes to it, so that it can be told afterwards what the job has touched.
//!
//! The one rule: only the time of an inode's last change is believed, with its number. A job can set every other time, and bring a file's
//! content, mode or attributes back to what they were, but each of these makes that time the present. So what has the time
//! that it had, and had it before the inventory was written, was not touched since. What is as young as the inventory may
//! have been, and counts as touched. There are ways to change a file's content all the same, so that is looked at besides (see
//! [`super::sift`]).
//!
//! Files are known by the host's index; directories, which an index does not have, are noted here.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use super::write::{Stat, to_stat};
use crate::git::checkout::{Checkout, write};
use crate::git::error::{GitError, io_error};
use crate::git::index::{self, Noted};
use crate::janitor::boot_id;

/// The file in the host's git directory.
const NAME: &str = "inventory.json";

/// How long it is waited for the clock of a filesystem to move on.
const SETTLES: Duration = Duration::from_millis(20);

/// What is on disk of it.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    /// The boot of the host: what a crash has left is not believed.
    boot: String,
    /// Which device the tree is on.
    device: u64,
    /// The directories below the tree by path, each with its number and the time of its last change.
    directories: Vec<(Vec<u8>, u64, Time)>,
}

/// Seconds and nanoseconds.
type Time = (i64, i64);

/// An inventory, with the index that belongs to it.
#[derive(Debug)]
pub(super) struct Inventory {
    pub(super) device: u64,
    directories: HashMap<Vec<u8>, (u64, Time)>,
    index: Vec<u8>,
    width: usize,
    /// When it was written, by the clock of the filesystem.
    written: Time,
}

/// Whether a git directory has an inventory of its tree.
pub(in crate::git) fn exists(git_dir: &Path) -> bool {
    git_dir.join(NAME).exists()
}

/// Notes what is in a tree in which nobody has worked, whose index is settled. Blocks.
pub(in crate::git) fn take(checkout: &Checkout) -> Result<(), GitError> {
    let bytes = fs::read(&checkout.index).map_err(io_error("read", &checkout.index))?;
    let noted = index::entries(&bytes, checkout.base.as_str().len() / 2).ok_or_else(|| index::damaged(&checkout.index))?;
    let mut directories = Vec::new();
    for path in directories_of(&noted) {
        let at = checkout.tree.join(OsStr::from_bytes(path));
        let meta = at.symlink_metadata().map_err(io_error("look at", &at))?;
        directories.push((path.to_vec(), meta.ino(), changed(&meta)));
    }
    let device = checkout.tree.metadata().map_err(io_error("look at", &checkout.tree))?.dev();
    let path = checkout.git_dir.join(NAME);
    let boot = boot_id().map_err(io_error("read the boot's id for", &path))?;
    let files = noted.iter().map(|file| (i64::from(file.changed.0), i64::from(file.changed.1)));
    let newest = directories.iter().map(|(_, _, time)| *time).chain(files).max().unwrap_or_default();
    let record = Record { boot, device, directories };
    write(&path, serde_json::to_vec(&record).map_err(|error| io_error("write", &path)(error.into()))?)?;
    let settled = settle(&path, newest);
    settled.map_err(io_error("touch", &path))
}

/// Makes an inventory younger than all that is in it, so that none of that counts as touched: the clock of a filesystem may move on only
/// every few milliseconds. One that moves more slowly makes more to be written again, nothing else.
fn settle(path: &Path, newest: Time) -> io::Result<()> {
    let begun = Instant::now();
    let file = File::options().write(true).open(path)?;
    while changed(&file.metadata()?) <= newest && begun.elapsed() < SETTLES {
        std::thread::sleep(SETTLES / 40);
        file.set_modified(SystemTime::now())?;
    }
    Ok(())
}

/// The directories that files are in.
fn directories_of<'a>(noted: &[Noted<'a>]) -> HashSet<&'a [u8]> {
    let mut found = HashSet::new();
    for entry in noted {
        let mut path = entry.path;
        while let Some(end) = path.iter().rposition(|byte| *byte == b'/') {
            path = &path[..end];
            if !found.insert(path) {
                break;
            }
        }
    }
    found
}

impl Inventory {
    /// Reads the inventory in a git directory; the error is a sentence. `width` is the length of an object id in bytes.
    pub(super) fn read(git_dir: &Path, width: usize) -> Result<Self, String> {
        let path = git_dir.join(NAME);
        let said = |path: &PathBuf, error: io::Error| format!("cannot read {}: {error}", path.display());
        let meta = path.symlink_metadata().map_err(|error| said(&path, error))?;
        let text = fs::read(&path).map_err(|error| said(&path, error))?;
        let record: Record = serde_json::from_slice(&text).map_err(|error| said(&path, error.into()))?;
        if boot_id().ok() != Some(record.boot) {
            return Err("it is of an earlier boot of the host".to_owned());
        }
        let index = git_dir.join("index");
        let index = fs::read(&index).map_err(|error| said(&index, error))?;
        let directories = record.directories.into_iter().map(|(path, inode, time)| (path, (inode, time))).collect();
        Ok(Self { device: record.device, directories, index, width, written: changed(&meta) })
    }

    /// The files, in the order of an index.
    pub(super) fn files(&self) -> Result<Vec<Noted<'_>>, String> {
        index::entries(&self.index, self.width).ok_or_else(|| "its index is damaged".to_owned())
    }

    /// Whether a directory is the one that was there, and neither it nor what is listed in it was touched.
    pub(super) fn has_directory(&self, path: &[u8], meta: &Metadata) -> bool {
        let time = changed(meta);
        self.directories.get(path) == Some(&(meta.ino(), time)) && time < self.written
    }

    /// Whether a file or link is the one that was there, and was not touched.
    pub(super) fn has_file(&self, noted: &Noted<'_>, meta: &Metadata) -> bool {
        let Stat { changed: time, modified, inode, size, .. } = to_stat(meta);
        // An index has only the lower half of a larger number.
        let whole = meta.ino() == u64::from(inode);
        whole
            && (time, modified, inode, size) == (noted.changed, noted.modified, noted.inode, noted.size)
            && changed(meta) < self.written
    }
}

fn changed(meta: &Metadata) -> Time {
    (meta.ctime(), meta.ctime_nsec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_as_young_as_the_inventory_counts_as_touched() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        fs::write(&path, "text").expect("written");
        let meta = path.symlink_metadata().expect("it is there");
        let stat = to_stat(&meta);
        let noted = Noted {
            path: b"file",
            id: &[0; 20],
            mode: 0o100_644,
            changed: stat.changed,
            modified: stat.modified,
            inode: stat.inode,
            size: stat.size,
        };
        let (seconds, nanoseconds) = changed(&meta);
        let known = HashMap::from([(b"file".to_vec(), (meta.ino(), changed(&meta)))]);
        let check = |written: Time, noted: Noted<'_>, expected: bool| {
            let inventory = Inventory { device: 0, directories: known.clone(), index: Vec::new(), width: 20, written };
            assert_eq!(inventory.has_file(&noted, &meta), expected, "{written:?} {noted:?}");
        };
        let later = (seconds, nanoseconds + 1);
        check(later, noted, true);
        check((seconds, nanoseconds), noted, false);
        check((seconds - 1, nanoseconds), noted, false);
        check(later, Noted { inode: stat.inode ^ 1, ..noted }, false);
        check(later, Noted { changed: (stat.changed.0, stat.changed.1 ^ 1), ..noted }, false);
        check(later, Noted { size: 5, ..noted }, false);
        let inventory = |written| Inventory { device: 0, directories: known.clone(), index: Vec::new(), width: 20, written };
        assert!(inventory(later).has_directory(b"file", &meta));
        assert!(!inventory((seconds, nanoseconds)).has_directory(b"file", &meta));
        assert!(!inventory(later).has_directory(b"other", &meta));
    }
}
