//! Paths below a tree that a job could write: they are never followed through a link.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
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

/// Those of some paths that are in the directory at `dir`, as they are from there: empty for what the directory is itself, or is in.
pub(super) fn within(dir: &Path, paths: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let below = |path: &Vec<u8>| {
        let path = Path::new(OsStr::from_bytes(path));
        if dir.starts_with(path) {
            return Some(Vec::new());
        }
        Some(path.strip_prefix(dir).ok()?.as_os_str().as_bytes().to_vec())
    };
    paths.iter().filter_map(below).collect()
}

/// Whether the directory has no entry.
pub(super) fn is_empty(directory: &Path) -> bool {
    fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_none())
}
