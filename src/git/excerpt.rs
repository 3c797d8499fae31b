//! The beginning of what a commit changes against its base, for people and models to read. What is to be applied is a
//! [patch](super::patch).
//!
//! The one rule: it is bounded, and says where it was cut. It is read from the mirror in process: no filter, attribute or
//! configuration takes part.

use std::path::Path;

use git2::{DiffFormat, DiffOptions, Oid, Repository};

use super::error::GitError;
use super::tree_diff;
use super::worktree::Worktree;
use crate::ids::ObjectId;

/// The last line of one that was cut.
pub const EXCERPT_CUT: &str = "… the rest is left out; `git diff HEAD` shows all of it\n";

/// A larger file is shown as if it were binary.
const FILE_MAX: i64 = 1024 * 1024;

impl Worktree {
    /// The patch from the base to `commit`: of a long one no more than about `most` bytes from its beginning, with a last line that
    /// says so.
    ///
    /// # Errors
    /// The mirror cannot be read.
    pub async fn excerpt(&self, commit: &ObjectId, most: usize) -> Result<String, GitError> {
        let (mirror, base, commit) = (self.mirror.dir.clone(), self.base().clone(), commit.clone());
        super::blocking(move || read(&mirror, &base, &commit, most)).await.map_err(|error| GitError::Command {
            action: "read what a commit changes".to_owned(),
            detail: error.message().to_owned(),
        })
    }
}

fn read(mirror: &Path, base: &ObjectId, commit: &ObjectId, most: usize) -> Result<String, git2::Error> {
    let repository = Repository::open_bare(mirror)?;
    let tree = |commit: &ObjectId| repository.find_commit(Oid::from_str(commit.as_str())?)?.tree();
    let mut options = DiffOptions::new();
    options.max_size(FILE_MAX);
    let diff = tree_diff::diff(&repository, &tree(base)?, &tree(commit)?, &mut options)?;
    let (mut text, mut is_cut) = (String::new(), false);
    let printed = diff.print(DiffFormat::Patch, |_, _, line| {
        let sign = Some(line.origin()).filter(|sign| ['+', '-', ' '].contains(sign));
        let content = String::from_utf8_lossy(line.content());
        is_cut = text.len() + content.len() > most;
        if !is_cut {
            text.extend(sign);
            text.push_str(&content);
        }
        !is_cut
    });
    match printed {
        _ if is_cut => text.push_str(EXCERPT_CUT),
        printed => printed?,
    }
    Ok(text)
}
