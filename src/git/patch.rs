//! A commit as a patch on its base, in the form of `git format-patch`: it can be applied by `git am` or `git apply`.

use git2::{Diff, DiffFindOptions, DiffOptions, Email, EmailCreateOptions, Oid, Repository};

use super::changes::{size, tree};
use super::error::GitError;
use super::tree_diff;
use super::worktree::Worktree;
use crate::ids::ObjectId;

/// The most that is read of all files together, in bytes.
const TOTAL_MAX: u64 = 64 * 1024 * 1024;

impl Worktree {
    /// The patch that makes the base into `commit`, with binary files in it. Nothing where that takes reading more than 64 MiB. It is made
    /// in process, as the checks read a commit: no filter, attribute or configuration takes part.
    ///
    /// # Errors
    /// The mirror cannot be read.
    pub async fn patch(&self, commit: &ObjectId) -> Result<Option<Vec<u8>>, GitError> {
        let (mirror, base, commit) = (self.mirror.dir.clone(), self.base().clone(), commit.clone());
        let made = super::blocking(move || {
            let repository = Repository::open_bare(&mirror)?;
            make(&repository, &base, &commit)
        });
        made.await.map_err(|error| GitError::Command { action: "make a patch".to_owned(), detail: error.message().to_owned() })
    }
}

fn make(repository: &Repository, base: &ObjectId, commit: &ObjectId) -> Result<Option<Vec<u8>>, git2::Error> {
    let (old, new) = (tree(repository, base)?, tree(repository, commit)?);
    let mut options = DiffOptions::new();
    options.show_binary(true).id_abbrev(40);
    let mut diff = tree_diff::diff(repository, &old, &new, &mut options)?;
    if weight(repository, &diff)? > TOTAL_MAX {
        return Ok(None);
    }
    diff.find_similar(Some(DiffFindOptions::new().renames(true).rename_limit(200)))?;
    let commit = repository.find_commit(Oid::from_str(commit.as_str())?)?;
    let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).replace('\0', "");
    let (summary, body) = (text(commit.summary_bytes()), text(commit.body_bytes()));
    let email = Email::from_diff(&diff, 1, 1, &commit.id(), summary, body, &commit.author(), &mut EmailCreateOptions::new())?;
    Ok(Some(email.as_slice().to_vec()))
}

fn weight(repository: &Repository, diff: &Diff<'_>) -> Result<u64, git2::Error> {
    let mut bytes = 0;
    for delta in diff.deltas() {
        bytes += size(repository, &delta.old_file())? + size(repository, &delta.new_file())?;
    }
    Ok(bytes)
}
