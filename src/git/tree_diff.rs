//! What differs between two trees, found by looking only into directories that differ.
//!
//! The one rule: the answer is libgit2's own, which decides what is a change. Left to itself it goes through every entry of both trees, also
//! below directories that are the same: with 57,000 files that takes fifty times as long as the rest of it. So it is told where to look.

use std::collections::BTreeMap;

use git2::{Diff, DiffOptions, ObjectType, Oid, Repository, Tree};

/// The difference, by `options`, which are to have no paths of their own.
pub(super) fn diff<'a>(
    repository: &'a Repository,
    old: &Tree<'_>,
    new: &Tree<'_>,
    options: &mut DiffOptions,
) -> Result<Diff<'a>, git2::Error> {
    let paths = differing(repository, old.id(), new.id())?;
    if paths.is_empty() {
        // No paths at all would mean all of them.
        return repository.diff_tree_to_tree(None, None, Some(options));
    }
    options.disable_pathspec_match(true);
    for path in paths {
        options.pathspec(path);
    }
    repository.diff_tree_to_tree(Some(old), Some(new), Some(options))
}

/// A directory that differs: its path with a slash at its end, and what it is on each side that has it.
struct Ahead {
    path: Vec<u8>,
    sides: [Option<Oid>; 2],
}

/// One name of a directory on both sides: its id, its mode and whether it is a directory.
type Entries = [Option<(Oid, i32, bool)>; 2];

/// The files, links and submodules that may differ. Never a directory: libgit2 goes through both lists in one order, and a directory has
/// another place in it than a file of its name.
fn differing(repository: &Repository, old: Oid, new: Oid) -> Result<Vec<Vec<u8>>, git2::Error> {
    let mut paths = Vec::new();
    let mut ahead = vec![Ahead { path: Vec::new(), sides: [Some(old), Some(new)] }];
    while let Some(Ahead { path, sides }) = ahead.pop() {
        for (name, entries) in entries(repository, sides)? {
            if entries[0] == entries[1] {
                continue;
            }
            let mut path = [path.as_slice(), &name].concat();
            if entries.iter().flatten().any(|(.., is_directory)| !is_directory) {
                paths.push(path.clone());
            }
            let sides = entries.map(|entry| entry.filter(|(.., is_directory)| *is_directory).map(|(id, ..)| id));
            if sides != [None, None] {
                path.push(b'/');
                ahead.push(Ahead { path, sides });
            }
        }
    }
    Ok(paths)
}

fn entries(repository: &Repository, sides: [Option<Oid>; 2]) -> Result<BTreeMap<Vec<u8>, Entries>, git2::Error> {
    let mut all: BTreeMap<Vec<u8>, Entries> = BTreeMap::new();
    for (side, id) in sides.into_iter().enumerate() {
        let Some(id) = id else { continue };
        for entry in &repository.find_tree(id)? {
            let found = (entry.id(), entry.filemode_raw(), entry.kind() == Some(ObjectType::Tree));
            all.entry(entry.name_bytes().to_vec()).or_default()[side] = Some(found);
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use git2::{Index, IndexEntry, IndexTime};
    use proptest::prelude::*;

    use super::*;

    /// A tree with these files. One that is in the way of a directory makes room for it.
    fn tree(repository: &Repository, files: &BTreeMap<String, u8>) -> Oid {
        let mut index = Index::new().expect("an index");
        for (path, content) in files {
            for file in Path::new(path).ancestors().skip(1).filter(|dir| !dir.as_os_str().is_empty()) {
                if index.get_path(file, 0).is_some() {
                    index.remove(file, 0).expect("it is there");
                }
            }
            let time = IndexTime::new(0, 0);
            let id = repository.blob(&[content / 2]).expect("a blob");
            let mode = if content % 2 == 0 { 0o100_644 } else { 0o100_755 };
            let (dev, ino, uid, gid, file_size, flags, flags_extended) = (0, 0, 0, 0, 0, 0, 0);
            let path = path.clone().into_bytes();
            let entry =
                IndexEntry { ctime: time, mtime: time, dev, ino, mode, uid, gid, file_size, id, flags, flags_extended, path };
            index.add(&entry).expect("added");
        }
        index.write_tree_to(repository).expect("a tree")
    }

    fn deltas(diff: &Diff<'_>) -> Vec<String> {
        diff.deltas().map(|delta| format!("{delta:?}")).collect()
    }

    fn files() -> impl Strategy<Value = BTreeMap<String, u8>> {
        // Names around the slash in the order of bytes.
        let name = prop::sample::select(vec!["a", "a-", "a-b", "a.b", "a0", "b"]);
        let path = prop::collection::vec(name, 1..4).prop_map(|names| names.join("/"));
        prop::collection::btree_map(path, 0_u8..6, 0..12)
    }

    proptest! {
        #[test]
        fn it_is_what_looking_everywhere_finds(before in files(), after in files(), kept in any::<bool>()) {
            let dir = tempfile::tempdir().expect("a directory");
            let repository = Repository::init_bare(dir.path()).expect("a repository");
            // Half of the time most is the same.
            let after = if kept { before.clone().into_iter().chain(after.into_iter().take(2)).collect() } else { after };
            let trees = [before, after].map(|files| repository.find_tree(tree(&repository, &files)).expect("a tree"));
            let mut options = DiffOptions::new();
            options.include_typechange(true);
            let whole = repository.diff_tree_to_tree(Some(&trees[0]), Some(&trees[1]), Some(&mut options)).expect("a diff");
            let found = diff(&repository, &trees[0], &trees[1], &mut options).expect("a diff");
            prop_assert_eq!(deltas(&found), deltas(&whole));
        }
    }
}
