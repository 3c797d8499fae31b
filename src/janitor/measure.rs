//! What a directory takes on the disk: allocated blocks, each file once however many names it has, at a bounded cost.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::sys::stat::{FileStat, lstat};
use serde::Serialize;

use super::space::Space;
use super::walk::{Way, is_dir, walk};

/// What was counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Measured {
    /// Allocated on the disk.
    pub bytes: u64,
    /// Files and directories.
    pub entries: u64,
    /// Whether that is all: false where counting stopped at its limit, or a deep part was moved away meanwhile, so that there may be more.
    pub whole: bool,
}

impl Measured {
    /// What of the disk's space it is.
    #[must_use]
    pub const fn space(self) -> Space {
        Space { bytes: self.bytes, inodes: self.entries }
    }
}

/// Counts several trees, one after the other, of which each may have further names of files of those before: these are counted with the
/// first one.
#[derive(Debug, Default)]
pub struct Counter {
    /// Files of two subvolumes may have the same number.
    linked: HashSet<(u64, u64)>,
}

impl Counter {
    /// As [`measure`], without what was counted before.
    #[must_use]
    pub fn measure(&mut self, path: &Path, entries_max: u64) -> Measured {
        self.measure_but(path, &[], entries_max)
    }

    /// The same, without what is in the directories `but` at its top.
    #[must_use]
    pub fn measure_but(&mut self, path: &Path, but: &[&OsStr], entries_max: u64) -> Measured {
        let mut found = Measured { whole: true, ..Measured::default() };
        let Ok(root) = lstat(path) else { return found };
        self.count(&mut found, &root);
        if is_dir(&root) {
            found.whole = walk(path, |depth, name, about| {
                if found.entries >= entries_max {
                    return Way::Out;
                }
                if depth == 0 && but.iter().any(|but| but.as_bytes() == name.to_bytes()) {
                    return Way::Past;
                }
                self.count(&mut found, about);
                Way::Into
            });
        }
        found
    }

    fn count(&mut self, found: &mut Measured, about: &FileStat) {
        found.entries += 1;
        if is_dir(about) || about.st_nlink < 2 || self.linked.insert((about.st_dev, about.st_ino)) {
            // stat(2): in units of 512 bytes, whatever the filesystem's own.
            found.bytes += u64::try_from(about.st_blocks).unwrap_or(0) * 512;
        }
    }
}

/// Counts what is at `path`, of `entries_max` files and directories at most. Other filesystems that are mounted below are not counted;
/// what goes meanwhile is not an error. Blocks for some microseconds per entry.
#[must_use]
pub fn measure(path: &Path, entries_max: u64) -> Measured {
    Counter::default().measure(path, entries_max)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn blocks_are_counted_and_links_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let empty = measure(dir.path(), 100).bytes;
        let file = dir.path().join("file");
        fs::write(&file, vec![1; 1 << 20]).expect("written");
        fs::hard_link(&file, dir.path().join("again")).expect("linked");
        // A hole takes no room.
        fs::File::create(dir.path().join("hole")).and_then(|hole| hole.set_len(1 << 30)).expect("made");
        let found = measure(dir.path(), 100);
        assert_eq!((found.entries, found.whole), (4, true));
        let bytes = found.bytes - empty;
        assert!((1 << 20..2 << 20).contains(&bytes), "{bytes}");
        let cut = measure(dir.path(), 2);
        assert_eq!((cut.entries, cut.whole), (2, false));
        assert_eq!(measure(&dir.path().join("nothing"), 10), Measured { whole: true, ..Measured::default() });
    }

    #[test]
    fn what_two_trees_share_is_counted_with_the_first_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        for tree in ["one", "two", "two/aside"] {
            fs::create_dir(at(tree)).expect("made");
        }
        fs::write(at("one/file"), vec![1; 1 << 20]).expect("written");
        fs::hard_link(at("one/file"), at("two/file")).expect("linked");
        fs::write(at("two/aside/own"), vec![1; 1 << 20]).expect("written");
        let mut counter = Counter::default();
        assert!(counter.measure(&at("one"), 100).bytes >= 1 << 20);
        let second = counter.measure_but(&at("two"), &[OsStr::new("aside")], 100);
        assert_eq!(second.entries, 2, "itself, and a file that was counted");
        assert!(second.bytes < 1 << 20, "{second:?}");
    }
}
