//! What a commit brings that its parent has not.

use git2::{ObjectType, Oid, Repository};

use crate::ids::ObjectId;

/// More objects than this are not listed.
const OBJECTS_MAX: usize = 1_000;

/// The objects that a commit has and its one parent has not at the same place: the commit, trees and blobs. Nothing where those are many, and
/// of a merge or a commit without a parent.
///
/// # Errors
/// The repository has not what the commit names.
pub(super) fn of(repository: &Repository, commit: &ObjectId) -> Result<Option<Vec<Oid>>, git2::Error> {
    let commit = repository.find_commit(Oid::from_str(commit.as_str())?)?;
    if commit.parent_count() != 1 {
        return Ok(None);
    }
    let mut new = vec![commit.id()];
    let mut ahead = vec![(commit.tree_id(), Some(commit.parent(0)?.tree_id()))];
    while let Some((tree, old)) = ahead.pop() {
        new.push(tree);
        let old = old.map(|old| repository.find_tree(old)).transpose()?;
        for entry in &repository.find_tree(tree)? {
            let before = old.as_ref().and_then(|old| old.get_name_bytes(entry.name_bytes()));
            if before.as_ref().is_some_and(|before| before.id() == entry.id()) {
                continue;
            }
            match entry.kind() {
                Some(ObjectType::Tree) => {
                    let before = before.filter(|before| before.kind() == Some(ObjectType::Tree));
                    ahead.push((entry.id(), before.map(|before| before.id())));
                }
                Some(ObjectType::Blob) => new.push(entry.id()),
                // A submodule's commit is elsewhere.
                _ => {}
            }
        }
        if new.len() + ahead.len() > OBJECTS_MAX {
            return Ok(None);
        }
    }
    Ok(Some(new))
}
