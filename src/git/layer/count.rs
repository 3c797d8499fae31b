//! What a commit changes, counted in process, as `git diff-tree --numstat` counts it.

use git2::{Delta, Diff, DiffOptions, Oid, Patch, Repository};

use crate::git::diff::Changes;
use crate::git::tree_diff;
use crate::job::{DiffSummary, FileChange};

/// Counts what differs between two trees; nothing where only git itself is certain how.
pub(super) fn count(repository: &Repository, before: Oid, after: Oid) -> Result<Option<Changes>, String> {
    let said = |error: git2::Error| error.message().to_owned();
    let (before, after) = (repository.find_tree(before).map_err(said)?, repository.find_tree(after).map_err(said)?);
    let mut options = DiffOptions::new();
    options.context_lines(0).interhunk_lines(0).include_typechange(true);
    let diff = tree_diff::diff(repository, &before, &after, &mut options).map_err(said)?;
    let mut changes = Changes::default();
    for index in 0..diff.deltas().len() {
        let Some(change) = count_one(&diff, index)? else { return Ok(None) };
        let summary: &mut DiffSummary = &mut changes.summary;
        summary.files += 1;
        summary.insertions += change.insertions;
        summary.deletions += change.deletions;
        if summary.per_file.len() < DiffSummary::PER_FILE_MAX {
            summary.per_file.push(change);
        }
    }
    Ok(Some(changes))
}

fn count_one(diff: &Diff<'_>, index: usize) -> Result<Option<FileChange>, String> {
    let delta = diff.get_delta(index).ok_or("a diff is shorter than it says")?;
    if !matches!(delta.status(), Delta::Added | Delta::Deleted | Delta::Modified) {
        // A file that became a link, or the reverse.
        return Ok(None);
    }
    let path = delta.new_file().path_bytes().or_else(|| delta.old_file().path_bytes()).unwrap_or_default();
    let path = String::from_utf8_lossy(path).into_owned();
    let patch = Patch::from_diff(diff, index).map_err(|error| error.message().to_owned())?;
    let binary = patch.as_ref().is_none_or(|patch| patch.delta().flags().is_binary());
    let (_, insertions, deletions) = match &patch {
        Some(patch) if !binary => patch.line_stats().map_err(|error| error.message().to_owned())?,
        _ => (0, 0, 0),
    };
    Ok(Some(FileChange { path, insertions: insertions as u64, deletions: deletions as u64, binary }))
}
