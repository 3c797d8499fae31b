//! What a test leaves behind on the disk, of which there must be nothing.

use std::fs;
use std::path::{Path, PathBuf};

use sawmill::git::Strategy;

use super::host::Host;
use crate::git::fixture::{mounts_below, strategy};

impl Host {
    /// What is left on disk of attempts, in the state directories of all workers and in the remotes.
    pub(super) fn leftovers(&self) -> Vec<PathBuf> {
        let mut left = Vec::new();
        for entry in fs::read_dir(self.root()).expect("the test's directory").flatten() {
            let dir = entry.path();
            if dir.join("slots").is_dir() {
                for slot in fs::read_dir(dir.join("slots")).expect("slots").flatten() {
                    let waits = |path: &PathBuf| path.ends_with("recycled") && strategy() == Strategy::Recycled;
                    let lasting = |path: &PathBuf| path.ends_with("sup") || path.ends_with("job") || waits(path);
                    left.extend(names_in(&slot.path()).into_iter().filter(|path| !lasting(path)));
                    left.extend(names_in(&slot.path().join("job")));
                }
                left.extend(names_in(&dir.join("trash")).into_iter().chain(names_in(&dir.join("kept"))));
                left.extend(names_in(&dir.join("containers")).into_iter().filter(|path| path.is_dir()));
                left.extend(names_in(&dir.join("mirrors")).into_iter().flat_map(|mirror| git_locks(&mirror)));
            } else if dir.extension().is_some_and(|extension| extension == "git") {
                left.extend(git_locks(&dir));
            }
        }
        left.extend(mounts_below(self.root()));
        left
    }
}

pub(super) fn names_in(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// Lock files of git's own. The locks between daemons are files beside the mirrors, which stay.
pub(crate) fn git_locks(dir: &Path) -> Vec<PathBuf> {
    let (dirs, files): (Vec<PathBuf>, Vec<PathBuf>) =
        names_in(dir).into_iter().partition(|path| path.is_dir() && !path.is_symlink());
    let locks = files.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "lock"));
    locks.chain(dirs.iter().flat_map(|dir| git_locks(dir))).collect()
}
