//! The beginning of what a commit changes against its base, for people and models to read. What is to be applied is a
//! [patch](super::patch).
//!
//! The one rule: it is bounded, and its last line says so where anything is left out: what comes after its bound, or the content of a large
//! text. It is read from the mirror in process: no filter, attribute or
//! configuration takes part.

use std::path::Path;

use git2::{Diff, DiffFormat, DiffOptions, Oid, Repository};

use super::changes::size;
use super::error::GitError;
use super::tree_diff;
use super::worktree::Worktree;
use crate::ids::ObjectId;

/// The last line of one that was cut.
pub const EXCERPT_CUT: &str = "… the rest is left out; `git diff HEAD` shows all of it\n";

/// Of a larger file git says that it is binary, whatever is in it.
const FILE_MAX: u64 = 1024 * 1024;
/// In how much of the beginning of a file git looks for the NUL byte that tells binary files from text (git's `buffer_is_binary`).
const TELLS_BINARY: usize = 8000;

impl Worktree {
    /// The patch from the base to `commit`: of a long one no more than about `most` bytes from its beginning. Where anything is left out,
    /// its last line is [`EXCERPT_CUT`].
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
    options.max_size(i64::try_from(FILE_MAX).unwrap_or(i64::MAX));
    let diff = tree_diff::diff(&repository, &tree(base)?, &tree(commit)?, &mut options)?;
    let large = large_texts(&repository, &diff)?;
    let (mut text, mut is_cut) = (String::new(), false);
    let printed = diff.print(DiffFormat::Patch, |delta, _, line| {
        let hidden = large.iter().find(|large| line.origin() == 'B' && delta.new_file().path_bytes() == Some(&large.path));
        let sign = Some(line.origin()).filter(|sign| ['+', '-', ' '].contains(sign));
        let content = hidden.map_or_else(|| String::from_utf8_lossy(line.content()), |large| large.told().into());
        is_cut = text.len() + content.len() > most;
        if !is_cut {
            text.extend(sign);
            text.push_str(&content);
        }
        !is_cut
    });
    match printed {
        _ if is_cut => text.push_str(EXCERPT_CUT),
        printed if large.is_empty() => printed?,
        printed => {
            printed?;
            text.push_str(EXCERPT_CUT);
        }
    }
    Ok(text)
}

/// A text whose change is not shown for its size.
struct LargeText {
    path: Vec<u8>,
    bytes: u64,
}

impl LargeText {
    fn told(&self) -> String {
        format!("{} bytes of text are too many to be shown, and so is what changed in them\n", self.bytes)
    }
}

/// The files that git would show were they smaller.
fn large_texts(repository: &Repository, diff: &Diff<'_>) -> Result<Vec<LargeText>, git2::Error> {
    let mut found = Vec::new();
    for delta in diff.deltas() {
        let (mut largest, mut is_text) = (0, true);
        for side in [delta.old_file(), delta.new_file()] {
            let bytes = size(repository, &side)?;
            largest = bytes.max(largest);
            if bytes > FILE_MAX {
                let blob = repository.find_blob(side.id())?;
                is_text &= !blob.content().iter().take(TELLS_BINARY).any(|byte| *byte == 0);
            }
        }
        if largest > FILE_MAX && is_text {
            let path = delta.new_file().path_bytes().unwrap_or_default().to_vec();
            found.push(LargeText { path, bytes: largest });
        }
    }
    Ok(found)
}
