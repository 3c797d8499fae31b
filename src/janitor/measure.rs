//! What a directory takes on the disk: allocated blocks, each file once however many names it has, at a bounded cost.

use std::collections::HashSet;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// What was counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Measured {
    /// Allocated on the disk.
    pub bytes: u64,
    /// Files and directories.
    pub entries: u64,
    /// Whether that is all: false where counting stopped at its limit, so that there is more.
    pub whole: bool,
}

/// Counts what is at `path`, of `entries_max` files and directories at most. Other filesystems that are mounted below are not counted;
/// what goes meanwhile is not an error. Blocks for some microseconds per entry.
#[must_use]
pub fn measure(path: &Path, entries_max: u64) -> Measured {
    let mut found = Measured { whole: true, ..Measured::default() };
    let Ok(root) = path.symlink_metadata() else { return found };
    let mut linked = HashSet::new();
    let mut ahead: Vec<PathBuf> = Vec::new();
    count(&mut found, &mut linked, &root);
    if root.is_dir() {
        ahead.push(path.to_owned());
    }
    while let Some(dir) = ahead.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            if found.entries >= entries_max {
                return Measured { whole: false, ..found };
            }
            let Ok(meta) = entry.metadata() else { continue };
            if meta.dev() != root.dev() {
                continue;
            }
            count(&mut found, &mut linked, &meta);
            if meta.is_dir() {
                ahead.push(entry.path());
            }
        }
    }
    found
}

fn count(found: &mut Measured, linked: &mut HashSet<u64>, meta: &Metadata) {
    found.entries += 1;
    if meta.is_dir() || meta.nlink() < 2 || linked.insert(meta.ino()) {
        // stat(2): in units of 512 bytes, whatever the filesystem's own.
        found.bytes += meta.blocks() * 512;
    }
}

#[cfg(test)]
mod tests {
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
