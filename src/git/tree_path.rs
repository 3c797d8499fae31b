//! Paths below a tree that a job could write: they are never followed through a link.

use std::fs;
use std::path::{Component, Path, PathBuf};

/// What is at a path, without following a link anywhere on the way.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A directory, reached through directories only.
    Directory(PathBuf),
    /// Nothing, something else, or something behind a link.
    Otherwise,
}

/// Looks at `path` below `tree`.
pub(super) fn directory(tree: &Path, path: &Path) -> Found {
    let mut at = tree.to_owned();
    for part in path.components() {
        let Component::Normal(part) = part else { return Found::Otherwise };
        at.push(part);
        if !fs::symlink_metadata(&at).is_ok_and(|meta| meta.is_dir()) {
            return Found::Otherwise;
        }
    }
    Found::Directory(at)
}

/// Whether the directory has no entry.
pub(super) fn is_empty(directory: &Path) -> bool {
    fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_none())
}
