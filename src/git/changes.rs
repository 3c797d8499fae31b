//! What a commit changes against its base, file by file and line by line, for those who judge it.
//!
//! The one rule: what is read is bounded. A file, or the rest of a change, that is beyond the bound is listed and said to be unread.
//! It is read from the mirror in process: no filter, attribute or configuration takes part.

use std::collections::BTreeSet;
use std::path::Path;

use git2::{Delta, Diff, DiffFile, DiffFindOptions, DiffOptions, FileMode, Oid, Patch, Repository, Tree};

use super::error::GitError;
use super::tree_diff;
use super::worktree::Worktree;
use crate::ids::ObjectId;

/// The largest file whose lines are read.
const FILE_MAX: u64 = 4 * 1024 * 1024;
/// The most that is read of all files together.
const TOTAL_MAX: u64 = 64 * 1024 * 1024;
/// Among how many added and removed files renamed ones are looked for.
const RENAMES_MAX: usize = 200;

/// What a commit changes.
#[derive(Debug, Default)]
pub struct Changeset {
    /// The files.
    pub files: Vec<ChangedFile>,
    /// Those of the names asked for that the commit has in the directories of changed files, or above them.
    pub beside: BTreeSet<String>,
}

/// A file that a commit changes. Names that are not UTF-8 have replacements in them.
#[derive(Debug, Default)]
pub struct ChangedFile {
    /// Its path, in the base where the commit removes it.
    pub path: String,
    /// Its path in the base, where it was renamed.
    pub renamed_from: Option<String>,
    /// Whether the base has it.
    pub was: Presence,
    /// Whether the commit has it.
    pub is: Presence,
    /// Its size in the commit, in bytes.
    pub bytes: u64,
    /// Whether its contents were not read because there are too many of them.
    pub unread: bool,
    /// What it had in the base; empty where it is unread.
    pub before: Vec<u8>,
    /// What it has in the commit; empty where it is unread.
    pub after: Vec<u8>,
    /// Lines that are new; none of a binary file.
    pub added: Vec<Line>,
    /// Lines that are gone; none of a binary file.
    pub removed: Vec<Line>,
    /// Whether it is binary.
    pub binary: bool,
}

/// Whether a side of a change has a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Presence {
    /// It has.
    There,
    /// It has not.
    #[default]
    Absent,
}

/// A line, without its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Its number, from 1.
    pub number: u32,
    /// Its text.
    pub text: Vec<u8>,
}

impl Worktree {
    /// What `commit` changes against the base. `names` are file names that are looked for in the commit, in the directories of changed
    /// files and above. Blocks a thread of its own for as long as reading takes.
    ///
    /// # Errors
    /// The mirror cannot be read.
    pub async fn changes(&self, commit: &ObjectId, names: &'static [&'static str]) -> Result<Changeset, GitError> {
        let (mirror, base, commit) = (self.mirror.dir.clone(), self.base().clone(), commit.clone());
        super::blocking(move || read(&mirror, &base, &commit, names)).await.map_err(|error| GitError::Command {
            action: "read what a commit changes".to_owned(),
            detail: error.message().to_owned(),
        })
    }
}

pub(super) fn tree<'a>(repository: &'a Repository, commit: &ObjectId) -> Result<Tree<'a>, git2::Error> {
    repository.find_commit(Oid::from_str(commit.as_str())?)?.tree()
}

fn read(mirror: &Path, base: &ObjectId, commit: &ObjectId, names: &[&str]) -> Result<Changeset, git2::Error> {
    let repository = Repository::open_bare(mirror)?;
    let (base, tree) = (tree(&repository, base)?, tree(&repository, commit)?);
    let mut options = DiffOptions::new();
    options.context_lines(0).include_typechange(true).max_size(i64::try_from(FILE_MAX).unwrap_or(i64::MAX));
    let mut diff = tree_diff::diff(&repository, &base, &tree, &mut options)?;
    diff.find_similar(Some(DiffFindOptions::new().renames(true).rename_limit(RENAMES_MAX)))?;
    let mut left = TOTAL_MAX;
    let mut files = Vec::new();
    for at in 0..diff.deltas().len() {
        files.push(changed_file(&repository, &diff, at, &mut left)?);
    }
    let mut beside = BTreeSet::new();
    let directories: BTreeSet<&Path> = files.iter().flat_map(|file| Path::new(&file.path).ancestors().skip(1)).collect();
    for path in directories.into_iter().flat_map(|dir| names.iter().map(move |name| dir.join(name))) {
        if tree.get_path(&path).is_ok() {
            beside.insert(path.to_string_lossy().into_owned());
        }
    }
    Ok(Changeset { files, beside })
}

fn changed_file(repository: &Repository, diff: &Diff<'_>, at: usize, left: &mut u64) -> Result<ChangedFile, git2::Error> {
    let delta = diff.get_delta(at).ok_or_else(|| git2::Error::from_str("a change is missing"))?;
    let (old, new) = (delta.old_file(), delta.new_file());
    let name = |file: &DiffFile<'_>| String::from_utf8_lossy(file.path_bytes().unwrap_or_default()).into_owned();
    let presence = |file: &DiffFile<'_>| if file.exists() { Presence::There } else { Presence::Absent };
    let mut file = ChangedFile {
        path: if new.exists() { name(&new) } else { name(&old) },
        renamed_from: (delta.status() == Delta::Renamed).then(|| name(&old)),
        was: presence(&old),
        is: presence(&new),
        ..ChangedFile::default()
    };
    let (before, after) = (size(repository, &old)?, size(repository, &new)?);
    file.bytes = after;
    if before.max(after) > FILE_MAX || before + after > *left {
        file.unread = true;
        return Ok(file);
    }
    *left -= before + after;
    (file.before, file.after) = (contents(repository, &old)?, contents(repository, &new)?);
    let Some(patch) = Patch::from_diff(diff, at)? else { return Ok(file) };
    file.binary = patch.delta().flags().is_binary();
    for hunk in 0..patch.num_hunks() {
        for line in 0..patch.num_lines_in_hunk(hunk)? {
            let line = patch.line_in_hunk(hunk, line)?;
            let text = line.content().strip_suffix(b"\n").unwrap_or(line.content()).to_vec();
            match (line.origin(), line.new_lineno(), line.old_lineno()) {
                ('+', Some(number), _) => file.added.push(Line { number, text }),
                ('-', _, Some(number)) => file.removed.push(Line { number, text }),
                _ => {}
            }
        }
    }
    Ok(file)
}

/// Whether a side of a change has contents: a submodule has none here.
fn has_contents(file: &DiffFile<'_>) -> bool {
    file.exists() && file.mode() != FileMode::Commit
}

pub(super) fn size(repository: &Repository, file: &DiffFile<'_>) -> Result<u64, git2::Error> {
    if has_contents(file) { Ok(repository.odb()?.read_header(file.id())?.0 as u64) } else { Ok(0) }
}

fn contents(repository: &Repository, file: &DiffFile<'_>) -> Result<Vec<u8>, git2::Error> {
    if has_contents(file) { Ok(repository.find_blob(file.id())?.content().to_vec()) } else { Ok(Vec::new()) }
}
