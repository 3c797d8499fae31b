//! Whatever is done to a tree, its commit is what plain git makes of the same tree in an ordinary clone.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use sawmill::git::Change;
use sawmill::ids::ObjectId;
use tokio::runtime::Runtime;

use super::fixture::{Place, branch, run, write};

#[derive(Debug, Clone)]
enum Edit {
    Write(usize, Vec<u8>),
    Link(usize, usize),
    Remove(usize),
    Directory(usize),
    Mode(usize, u32),
    Ignore(usize),
    Attribute(usize, &'static str),
    Rename(usize, usize),
}

/// Few names, so that edits meet: files, directories of the same names, names that are no text.
const NAMES: [&[u8]; 12] = [
    b"README.md",
    b"src",
    b"src/main.rs",
    b"src/lib.rs",
    b"a",
    b"a/b",
    b"a/b/c",
    b"new.txt",
    b"x.tmp",
    b"caf\xe9",
    b"src/deep/er",
    b"with space",
];

fn edit() -> impl Strategy<Value = Edit> {
    let name = 0..NAMES.len();
    prop_oneof![
        4 => (name.clone(), prop::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), Just(0), any::<u8>()], 0..40)).prop_map(|(n, c)| Edit::Write(n, c)),
        1 => (name.clone(), name.clone()).prop_map(|(n, to)| Edit::Link(n, to)),
        2 => name.clone().prop_map(Edit::Remove),
        1 => name.clone().prop_map(Edit::Directory),
        1 => (name.clone(), prop_oneof![Just(0o644), Just(0o755), Just(0o700), Just(0o600)]).prop_map(|(n, m)| Edit::Mode(n, m)),
        1 => name.clone().prop_map(Edit::Ignore),
        1 => (name.clone(), prop_oneof![Just("text"), Just("-text"), Just("text eol=crlf"), Just("filter=none"), Just("ident")]).prop_map(|(n, a)| Edit::Attribute(n, a)),
        1 => (name.clone(), name).prop_map(|(n, to)| Edit::Rename(n, to)),
    ]
}

fn path(tree: &Path, name: usize) -> PathBuf {
    tree.join(OsStr::from_bytes(NAMES[name]))
}

fn clear(path: &Path) {
    let Ok(meta) = fs::symlink_metadata(path) else { return };
    if meta.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.expect("removed");
}

/// Makes the directories above a path, in place of whatever files are there.
fn make_room(tree: &Path, path: &Path) {
    let mut at = tree.to_owned();
    for part in path.parent().expect("a parent").strip_prefix(tree).expect("below the tree").components() {
        at.push(part);
        if !fs::symlink_metadata(&at).is_ok_and(|meta| meta.is_dir()) {
            clear(&at);
            fs::create_dir(&at).expect("a directory");
        }
    }
}

fn append(tree: &Path, file: &str, line: &[u8]) {
    clear_unless_file(&tree.join(file));
    let mut text = fs::read(tree.join(file)).unwrap_or_default();
    text.extend_from_slice(line);
    text.push(b'\n');
    fs::write(tree.join(file), text).expect("written");
}

fn clear_unless_file(path: &Path) {
    if fs::symlink_metadata(path).is_ok_and(|meta| !meta.is_file()) {
        clear(path);
    }
}

fn apply(tree: &Path, edit: &Edit) {
    match edit {
        Edit::Write(name, contents) => {
            let path = path(tree, *name);
            make_room(tree, &path);
            clear(&path);
            fs::write(path, contents).expect("written");
        }
        Edit::Link(name, to) => {
            let path = path(tree, *name);
            make_room(tree, &path);
            clear(&path);
            symlink(OsStr::from_bytes(NAMES[*to]), path).expect("a link");
        }
        Edit::Remove(name) => {
            let path = path(tree, *name);
            make_room(tree, &path);
            clear(&path);
        }
        Edit::Directory(name) => {
            let path = path(tree, *name);
            make_room(tree, &path);
            clear(&path);
            fs::create_dir(path).expect("a directory");
        }
        Edit::Mode(name, mode) => {
            let path = path(tree, *name);
            make_room(tree, &path);
            if fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_file()) {
                fs::set_permissions(path, fs::Permissions::from_mode(*mode)).expect("rights");
            }
        }
        Edit::Ignore(name) => append(tree, ".gitignore", NAMES[*name]),
        Edit::Attribute(name, attribute) => {
            append(tree, ".gitattributes", &[NAMES[*name], b" ", attribute.as_bytes()].concat());
        }
        Edit::Rename(name, to) => {
            let (from, to) = (path(tree, *name), path(tree, *to));
            make_room(tree, &from);
            if fs::symlink_metadata(&from).is_ok() && !to.starts_with(&from) && !from.starts_with(&to) {
                make_room(tree, &to);
                if fs::symlink_metadata(&from).is_ok() {
                    clear(&to);
                    fs::rename(from, to).expect("renamed");
                }
            }
        }
    }
}

#[test]
fn a_commits_tree_is_what_plain_git_makes() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let place = Place::new();
    let base = place.seed(|seed| {
        write(seed, "a/b/c", "deep\n");
        write(seed, "dos.txt", "one\r\ntwo\r\n");
        write(seed, ".gitattributes", "dos.txt -text\n*.md text\n");
    });
    run(place.root.path(), ["clone", "--quiet", "remote.git", "plain"]);
    runtime.block_on(place.mirror.resolve("main")).expect("main");
    let config = ProptestConfig { cases: 60, max_shrink_iters: 60, failure_persistence: None, ..ProptestConfig::default() };
    let edits = prop::collection::vec(edit(), 0..14);
    let checked = TestRunner::new(config).run(&edits, |edits| check(&place, &runtime, &base, &edits));
    checked.unwrap_or_else(|error| panic!("{error}"));
}

/// Makes the edits in a fresh worktree and in a plain clone, and holds the trees against each other.
fn check(place: &Place, runtime: &Runtime, base: &ObjectId, edits: &[Edit]) -> Result<(), TestCaseError> {
    let change = runtime.block_on(async {
        let worktree =
            place.mirror.provision(base, &branch("b"), &place.slot("1"), &place.provisioner).await.expect("a worktree");
        edits.iter().for_each(|edit| apply(worktree.tree(), edit));
        let change = worktree.commit("x").await;
        worktree.discard(&place.trash()).await.expect("discarded");
        change.expect("committed")
    });
    let plain = place.root.path().join("plain");
    run(&plain, ["reset", "--quiet", "--hard", base.as_str()]);
    run(&plain, ["clean", "-ffdxq"]);
    edits.iter().for_each(|edit| apply(&plain, edit));
    run(&plain, ["add", "-A"]);
    let expected = run(&plain, ["write-tree"]);
    let base_tree = run(&plain, ["rev-parse", &format!("{base}^{{tree}}")]);
    match change {
        Change::None => prop_assert_eq!(expected, base_tree),
        Change::Commit(made) => {
            prop_assert_eq!(made.tree.as_str(), expected.as_str());
            prop_assert_ne!(&expected, &base_tree);
            let counted = run(&plain, ["diff", "--cached", "--no-renames", "--numstat"]).lines().count();
            prop_assert_eq!(made.diff.files, counted as u64);
        }
    }
    Ok(())
}
