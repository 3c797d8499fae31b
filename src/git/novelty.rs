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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;

    use super::*;
    use crate::git::plain::git;

    #[test]
    fn nothing_is_missing_that_git_would_send() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |path: &str| dir.path().join(path);
        let put = |path: &str, text: &str| {
            fs::create_dir_all(at(path).parent().expect("a parent")).expect("made");
            fs::write(at(path), text).expect("written");
        };
        git(dir.path(), &["init", "--quiet", "--initial-branch=main"]);
        for path in ["file", "directory/below", "moved", "same/deep/file", "whole/a", "whole/b/c"] {
            put(path, path);
        }
        let commit = || {
            git(dir.path(), &["add", "-A"]);
            git(dir.path(), &["commit", "--quiet", "-m", "m"]);
            let repository = Repository::open(dir.path()).expect("opened");
            of(&repository, &git(dir.path(), &["rev-parse", "HEAD"]).trim().parse().expect("an id")).expect("read")
        };
        assert_eq!(commit(), None, "it has no parent");
        fs::remove_file(at("file")).expect("removed");
        put("file/below", "a file became a directory");
        fs::remove_dir_all(at("directory")).expect("removed");
        put("directory", "a directory became a file");
        fs::create_dir(at("elsewhere")).expect("made");
        for moved in ["moved", "whole"] {
            fs::rename(at(moved), at("elsewhere").join(moved)).expect("moved");
        }
        std::os::unix::fs::symlink("script", at("link")).expect("a link");
        put("same/deep/new", "");
        let found: BTreeSet<String> = commit().expect("few").iter().map(ToString::to_string).collect();
        let sent = git(dir.path(), &["rev-list", "--objects", "HEAD", "^HEAD^"]);
        let sent: BTreeSet<String> = sent.lines().filter_map(|line| line.split(' ').next().map(str::to_owned)).collect();
        assert!(sent.len() > 5 && sent.is_subset(&found), "{sent:?} {found:?}");
        for number in 0..OBJECTS_MAX {
            put(&format!("many/{number}"), &number.to_string());
        }
        assert_eq!(commit(), None, "they are many");
    }
}
