//! What a directory takes on the disk: allocated blocks, each file once however many names it has, at a bounded cost.

use std::collections::HashSet;
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

/// Counts what is at `path`, of `entries_max` files and directories at most. Other filesystems that are mounted below are not counted;
/// what goes meanwhile is not an error. Blocks for some microseconds per entry.
#[must_use]
pub fn measure(path: &Path, entries_max: u64) -> Measured {
    let mut found = Measured { whole: true, ..Measured::default() };
    let Ok(root) = lstat(path) else { return found };
    let mut linked = HashSet::new();
    count(&mut found, &mut linked, &root);
    if is_dir(&root) {
        found.whole = walk(path, |_, _, about| {
            if found.entries >= entries_max {
                return Way::Out;
            }
            count(&mut found, &mut linked, about);
            Way::Into
        });
    }
    found
}

/// Files of two subvolumes may have the same number.
fn count(found: &mut Measured, linked: &mut HashSet<(u64, u64)>, about: &FileStat) {
    found.entries += 1;
    if is_dir(about) || about.st_nlink < 2 || linked.insert((about.st_dev, about.st_ino)) {
        // stat(2): in units of 512 bytes, whatever the filesystem's own.
        found.bytes += u64::try_from(about.st_blocks).unwrap_or(0) * 512;
    }
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
}
