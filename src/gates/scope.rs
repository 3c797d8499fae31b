//! What a result may touch, and how much of it.

use bytesize::ByteSize;

use super::{Found, Subject};
use crate::git::ChangedFile;
use crate::job::Globs;
use crate::job::checks::{Checks, Rule};

/// Paths out of bounds, and more or larger changes than are allowed.
pub(super) fn check(set: &Checks, subject: Subject<'_>) -> Vec<Found> {
    let mut found = Vec::new();
    let (allow, forbid) = (Globs::new(&set.allow), Globs::new(&set.forbid));
    for file in &subject.changes.files {
        found.extend(paths(file).filter_map(|path| out_of_bounds(path, set, &allow, &forbid)));
        if let Some(limit) = set.file_size.filter(|limit| limit.as_u64() > 0)
            && file.bytes > limit.as_u64()
        {
            let message = format!(
                "its {} are more than the {limit} that a changed file may have; leave it out, or make it smaller",
                ByteSize(file.bytes)
            );
            found.push(Found { path: Some(file.path.clone()), line: None, rule: Rule::FileTooLarge, message });
        }
    }
    let files = subject.diff.files;
    if let Some(limit) = set.files.filter(|limit| *limit > 0 && files > *limit) {
        let message = format!("{files} files changed, and {limit} may; change fewer, or split the work into several jobs");
        found.push(Found { path: None, line: None, rule: Rule::TooManyFiles, message });
    }
    let lines = subject.diff.insertions + subject.diff.deletions;
    if let Some(limit) = set.lines.filter(|limit| *limit > 0 && lines > *limit) {
        let message =
            format!("{lines} lines were added or removed, and {limit} may be; change fewer, or split the work into several jobs");
        found.push(Found { path: None, line: None, rule: Rule::TooManyLines, message });
    }
    found
}

/// The paths of a change: both where it renames.
fn paths(file: &ChangedFile) -> impl Iterator<Item = &String> {
    std::iter::once(&file.path).chain(&file.renamed_from)
}

fn out_of_bounds(path: &str, set: &Checks, allow: &Globs, forbid: &Globs) -> Option<Found> {
    let (rule, message) = if let Some(pattern) = forbid.matching(path) {
        (Rule::PathForbidden, format!("it may not change ({pattern} is forbidden); undo its change"))
    } else if !set.allow.is_empty() && allow.matching(path).is_none() {
        (Rule::PathNotAllowed, format!("it may not change (what may is {}); undo its change", set.allow.join(", ")))
    } else {
        return None;
    };
    Some(Found { path: Some(path.to_owned()), line: None, rule, message })
}
