//! Whatever is done to a tree, its commit is what plain git makes of the same tree in an ordinary clone.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use sawmill::git::{self, Change, GitError};
use sawmill::ids::ObjectId;
use tokio::runtime::Runtime;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::fixture::{Place, branch, run, strategy, write};

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
    Pipe(usize),
    Repository(usize),
}

/// Few names, so that edits meet: files, directories of the same names, names that are no text.
const NAMES: [&[u8]; 18] = [
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
    b"lib",
    b"lib/x",
    b"lib/x/one",
    b"lib/y/two.tmp",
    b"lib/y",
    b"build",
];

/// Names of what git passes over, or takes for more than a directory.
const NEW: [&[u8]; 4] = [b"pipe", b"lib/pipe", b"x.tmp/pipe", b"build/pipe"];

fn edit() -> impl Strategy<Value = Edit> {
    let name = 0..NAMES.len();
    prop_oneof![
        8 => (name.clone(), prop::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), Just(0), any::<u8>()], 0..40)).prop_map(|(n, c)| Edit::Write(n, c)),
        3 => (name.clone(), name.clone()).prop_map(|(n, to)| Edit::Link(n, to)),
        6 => name.clone().prop_map(Edit::Remove),
        4 => name.clone().prop_map(Edit::Directory),
        4 => (name.clone(), prop_oneof![Just(0o644), Just(0o755), Just(0o700), Just(0o600)]).prop_map(|(n, m)| Edit::Mode(n, m)),
        3 => name.clone().prop_map(Edit::Ignore),
        1 => (name.clone(), prop_oneof![Just("text"), Just("-text"), Just("text eol=crlf"), Just("filter=none"), Just("ident")]).prop_map(|(n, a)| Edit::Attribute(n, a)),
        8 => (name.clone(), name.clone()).prop_map(|(n, to)| Edit::Rename(n, to)),
        3 => (0..NEW.len()).prop_map(Edit::Pipe),
        1 => (0..NEW.len()).prop_map(Edit::Repository),
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
        Edit::Pipe(name) => {
            let path = tree.join(OsStr::from_bytes(NEW[*name]));
            make_room(tree, &path);
            clear(&path);
            nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
        }
        Edit::Repository(name) => {
            let path = tree.join(OsStr::from_bytes(NEW[*name]));
            make_room(tree, &path);
            clear(&path);
            fs::create_dir(&path).expect("a directory");
            run(&path, ["init", "--quiet"]);
            run(&path, ["commit", "--quiet", "--allow-empty", "-m", "nested"]);
        }
        Edit::Rename(name, to) => {
            let (from, to) = (path(tree, *name), path(tree, *to));
            make_room(tree, &from);
            if fs::symlink_metadata(&from).is_ok() && !to.starts_with(&from) && !from.starts_with(&to) {
                make_room(tree, &to);
                if fs::symlink_metadata(&from).is_ok() {
                    clear(&to);
                    rename(&from, &to);
                }
            }
        }
    }
}

/// Renames as `mv` does, which copies a directory where the kernel renames none: one of the base in a namespace.
fn rename(from: &Path, to: &Path) {
    match fs::rename(from, to) {
        Err(error) if error.kind() == std::io::ErrorKind::CrossesDevices => {
            let moved = std::process::Command::new("mv").arg("-T").args([from, to]).status().expect("mv runs");
            assert!(moved.success(), "{} is moved", from.display());
        }
        renamed => renamed.expect("renamed"),
    }
}

/// Why git added whole trees, as the log says it.
#[derive(Clone, Default)]
struct Detours(Arc<Mutex<Vec<String>>>);

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Detours {
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        struct Reason(Option<String>);
        impl tracing::field::Visit for Reason {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                if field.name() == "reason" {
                    self.0 = Some(format!("{value:?}"));
                }
            }
        }
        let mut reason = Reason(None);
        event.record(&mut reason);
        self.0.lock().expect("nobody panicked").extend(reason.0);
    }
}

#[test]
fn a_commits_tree_is_what_plain_git_makes() {
    let detours = hold_against_plain_git(120, |_| {});
    // Most are made from the layer of an overlay alone.
    if strategy() == git::Strategy::Overlay {
        assert!(detours.len() * 2 < 120, "too few commits were made from the layer: {detours:#?}");
    }
}

#[test]
fn so_it_is_where_attributes_have_a_say() {
    hold_against_plain_git(50, |seed| {
        write(seed, "dos.txt", "one\r\ntwo\r\n");
        write(seed, ".gitattributes", "dos.txt -text\n*.md text\nlib/x/* text=auto\nsrc/* -diff\n");
    });
}

#[test]
fn so_it_is_for_ignored_links_over_directories() {
    let ground = Ground::new(|_| {});
    let name = |wanted: &[u8]| NAMES.iter().position(|name| *name == wanted).expect("a name");
    let (a, lib, new) = (name(b"a"), name(b"lib"), name(b"new.txt"));
    // In a circle, in a wider one, to a directory, to nothing.
    for links in [vec![(a, a)], vec![(a, lib), (lib, a)], vec![(a, lib)], vec![(a, new)]] {
        let edits = links.into_iter().flat_map(|(at, to)| [Edit::Link(at, to), Edit::Ignore(at)]).collect::<Vec<_>>();
        ground.check(&edits).unwrap_or_else(|error| panic!("{edits:?}: {error}"));
    }
}

/// Makes edits in worktrees and in plain clones of a base; answers why git added the whole tree of a worktree, each time.
fn hold_against_plain_git(cases: u32, more: impl FnOnce(&Path)) -> Vec<String> {
    let ground = Ground::new(more);
    let detours = Detours::default();
    let _log = tracing_subscriber::registry().with(detours.clone()).set_default();
    let config = ProptestConfig { cases, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() };
    let edits = prop::collection::vec(edit(), 0..14);
    TestRunner::new(config).run(&edits, |edits| ground.check(&edits)).unwrap_or_else(|error| panic!("{error}"));
    std::mem::take(&mut *detours.0.lock().expect("nobody panicked"))
}

/// A remote with one commit, its mirror, and a plain clone of it.
struct Ground {
    place: Place,
    runtime: Runtime,
    base: ObjectId,
}

impl Ground {
    fn new(more: impl FnOnce(&Path)) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let place = Place::new();
        let base = place.seed(|seed| {
            write(seed, "a/b/c", "deep\n");
            for path in ["lib/x/one", "lib/x/three", "lib/y/four", "lib/five", "lib/x/deep/six"] {
                write(seed, path, path);
            }
            // Tracked, and ignored by a rule all the same.
            write(seed, "lib/y/two.tmp", "tracked\n");
            run(seed, ["add", "--force", "lib/y/two.tmp"]);
            more(seed);
        });
        run(place.root.path(), ["clone", "--quiet", "remote.git", "plain"]);
        runtime.block_on(place.mirror.resolve("main")).expect("main");
        Self { place, runtime, base }
    }

    /// Makes the edits in a fresh worktree and in the plain clone, and holds the trees against each other.
    fn check(&self, edits: &[Edit]) -> Result<(), TestCaseError> {
        let Self { place, runtime, base } = self;
        let change = runtime.block_on(async {
            let worktree =
                place.mirror.provision(base, &branch("b"), &place.slot("1"), &place.provisioner).await.expect("a worktree");
            edits.iter().for_each(|edit| apply(worktree.tree(), edit));
            let change = worktree.commit("x").await;
            worktree.discard(&place.trash()).await.expect("discarded");
            change
        });
        let plain = place.root.path().join("plain");
        run(&plain, ["reset", "--quiet", "--hard", base.as_str()]);
        run(&plain, ["clean", "-ffdxq"]);
        edits.iter().for_each(|edit| apply(&plain, edit));
        run(&plain, ["add", "-A"]);
        let expected = run(&plain, ["write-tree"]);
        let base_tree = run(&plain, ["rev-parse", &format!("{base}^{{tree}}")]);
        let plain_refuses = run(&plain, ["ls-files", "--stage"]).lines().any(|line| line.starts_with("160000"));
        let change = match change {
            Err(GitError::Refused { .. }) if plain_refuses => return Ok(()),
            change => change.expect("committed"),
        };
        prop_assert!(!plain_refuses, "a nested repository was committed");
        match change {
            Change::None => prop_assert_eq!(expected, base_tree),
            Change::Commit(made) => {
                prop_assert_eq!(made.tree.as_str(), expected.as_str());
                prop_assert_ne!(&expected, &base_tree);
                let counted = run(&plain, ["diff", "--cached", "--no-renames", "--numstat"]);
                let sum =
                    |column: usize| counted.lines().filter_map(|line| line.split('\t').nth(column)?.parse::<u64>().ok()).sum();
                let expected: (u64, u64, u64) = (counted.lines().count() as u64, sum(0), sum(1));
                prop_assert_eq!((made.diff.files, made.diff.insertions, made.diff.deletions), expected);
            }
        }
        Ok(())
    }
}
