//! Which files of a worktree git ignores: what is in no commit, whatever is done to it.
//!
//! The one rule: it is git that says so, by the patterns of the worktree as it is, as it will when a commit is made. Nothing is written.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::error::GitError;
use super::stage::LISTING_MAX;
use super::worktree::Worktree;

/// Paths that git ignores: files, and directories with all that is in them.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Ignored {
    paths: BTreeSet<PathBuf>,
    beside: BTreeSet<PathBuf>,
}

impl Ignored {
    /// Whether this very path is one of them.
    #[must_use]
    pub fn has(&self, path: &Path) -> bool {
        self.paths.contains(path)
    }

    /// Whether one of them is directly in this directory, which then changes by them, too.
    #[must_use]
    pub fn is_in(&self, directory: &Path) -> bool {
        self.beside.contains(directory)
    }

    fn read(listing: &[u8]) -> Self {
        let paths: BTreeSet<PathBuf> = listing
            .split(|byte| *byte == 0)
            .map(|path| path.strip_suffix(b"/").unwrap_or(path))
            .filter(|path| !path.is_empty())
            .map(|path| PathBuf::from(OsStr::from_bytes(path)))
            .collect();
        let beside = paths.iter().filter_map(|path| path.parent()).map(Path::to_owned).collect();
        Self { paths, beside }
    }
}

impl Worktree {
    /// What git ignores in the worktree: what its `.gitignore` files say, and what `more` do, which are patterns of the same form. A file
    /// that the base has is none of it.
    ///
    /// # Errors
    /// git cannot go through the worktree.
    pub async fn ignored(&self, more: &[&str]) -> Result<Ignored, GitError> {
        let checkout = &self.checkout;
        let command = checkout.command(&self.mirror.git, "list what git ignores").work_tree(&checkout.tree);
        let command = command.env("GIT_INDEX_FILE", &checkout.index).stdout_max(LISTING_MAX);
        let command = command.args(["ls-files", "-z", "--others", "--ignored", "--directory", "--exclude-standard"]);
        let listed = command.args(more.iter().map(|pattern| format!("--exclude={pattern}"))).run().await?;
        Ok(Ignored::read(&listed.stdout))
    }
}
