//! Worktrees that begin with what the slot's last job left: what comes out is what a fresh checkout is, whatever that job did.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use bytesize::ByteSize;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::sys::stat::{Mode, UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use sawmill::git::{Provisioner, Strategy, set_aside};
use sawmill::ids::ObjectId;

use super::bases::{assert_like_a_clone, provision};
use super::fixture::{Place, branch, committed, make_executable, run, unmount_below, write};

fn recycling(place: &Place) -> Provisioner {
    Provisioner::open(&place.git, Strategy::Recycled, ByteSize::gib(1)).expect("it needs nothing")
}

/// A repository in which things can be swapped, changed and hidden; its commit.
fn seed(place: &Place) -> ObjectId {
    place.seed(|seed| {
        for number in 0..40 {
            write(seed, &format!("many/{}/{number}", number % 4), format!("{number:04}\n"));
        }
        for (dir, text) in [("left", "left "), ("right", "right")] {
            write(seed, &format!("{dir}/same"), text);
            write(seed, &format!("{dir}/deep/same"), text);
        }
        write(seed, "pair/a", "a\n");
        write(seed, "pair/b", "b\n");
        write(seed, "run.sh", "#!/bin/sh\n");
        make_executable(&seed.join("run.sh"));
        write(seed, "docs/guide", "guide\n");
        write(seed, "locked/in/file", "locked\n");
        symlink("docs/guide", seed.join("link")).expect("a link");
    })
}

fn inode(path: impl AsRef<Path>) -> u64 {
    path.as_ref().symlink_metadata().expect("it is there").ino()
}

/// Everything about everything in a tree that could differ: type and mode, owner, links, attributes, content. Of the job's index only
/// that it is there: it has inode numbers.
fn everything(tree: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut ahead = vec![tree.to_owned()];
    while let Some(path) = ahead.pop() {
        let meta = path.symlink_metadata().expect("it is there");
        let names: Vec<OsString> = xattr::list(&path).expect("attributes").collect();
        let (content, links) = if meta.is_dir() {
            ahead.extend(fs::read_dir(&path).expect("a directory").map(|entry| entry.expect("an entry").path()));
            (String::new(), 0)
        } else if meta.is_symlink() {
            (format!("{:?}", fs::read_link(&path).expect("a link")), meta.nlink())
        } else if path.ends_with(".git/index") {
            (String::new(), meta.nlink())
        } else {
            (String::from_utf8_lossy(&fs::read(&path).expect("a file")).into_owned(), meta.nlink())
        };
        let about = format!("{:o} {}:{} {links} {names:?} {content}", meta.mode(), meta.uid(), meta.gid());
        found.insert(path.strip_prefix(tree).expect("below").to_owned(), about);
    }
    found
}

/// Holds the tree of a slot against a fresh checkout of the same commit on the same branch, in another slot.
async fn assert_fresh(place: &Place, tree: &Path, commit: &ObjectId, name: &str) {
    let fresh = Provisioner::open(&place.git, Strategy::Checkout, ByteSize::gib(1)).expect("it needs nothing");
    let slot = place.slot(&format!("fresh-{}", commit.short()));
    let fresh = place.mirror.provision(commit, &branch(name), &slot, &fresh).await.expect("a worktree");
    let (one, other) = (everything(tree), everything(fresh.tree()));
    for (path, about) in &one {
        assert_eq!(Some(about), other.get(path), "{}", path.display());
    }
    assert_eq!(one.len(), other.len(), "nothing is missing");
    fresh.discard(&place.trash()).await.expect("discarded");
    // Nothing is refreshed by a look, so no file had to be read.
    let index = || fs::read(tree.join(".git/index")).expect("an index");
    let before = index();
    assert_like_a_clone(place, tree, commit);
    assert!(before == index(), "git looked at files that nobody had touched");
}

#[tokio::test]
async fn a_tree_that_is_used_again_is_what_a_fresh_checkout_is() {
    let place = Place::new();
    let provisioner = recycling(&place);
    let first = seed(&place);
    let worktree = provision(&place, &provisioner, &first, "1").await;
    let (tree, slot) = (worktree.tree().to_owned(), place.slot("1"));
    assert_fresh(&place, &tree, &first, "job/1").await;
    write(&tree, "docs/guide", "changed by a job\n");
    write(&tree, "docs/new", "made by a job\n");
    let made = committed(&worktree).await;
    assert_eq!(made.diff.files, 2);
    let (kept, changed) = (inode(tree.join("many/1/5")), inode(tree.join("docs/guide")));
    drop(worktree);
    assert!(set_aside(&slot, &place.trash()).expect("set aside"));
    assert!(!tree.exists() && !slot.join("host.git").exists(), "the slot has no worktree");

    let second = place.seed(|seed| {
        write(seed, "many/0/0", "another\n");
        write(seed, "many/4/new", "new\n");
        fs::remove_file(seed.join("many/2/2")).expect("removed");
        fs::remove_dir_all(seed.join("left")).expect("removed");
        write(seed, "left", "a file now\n");
        fs::remove_file(seed.join("pair/a")).expect("removed");
        write(seed, "pair/a/b", "a directory now\n");
        fs::set_permissions(seed.join("run.sh"), fs::Permissions::from_mode(0o644)).expect("set");
        fs::remove_file(seed.join("link")).expect("removed");
        symlink("docs", seed.join("link")).expect("a link");
    });
    let worktree = provision(&place, &provisioner, &second, "1").await;
    assert_fresh(&place, &tree, &second, "job/1").await;
    assert_eq!(inode(tree.join("many/1/5")), kept, "what the job did not touch was not written again");
    assert_ne!(inode(tree.join("docs/guide")), changed);
    assert!(!slot.join("recycled").exists(), "it was used up");
    // And once more, back to where it was, without any job having been in it.
    let same = inode(tree.join("right/deep/same"));
    drop(worktree);
    assert!(set_aside(&slot, &place.trash()).expect("set aside"));
    let worktree = provision(&place, &provisioner, &first, "1").await;
    assert_fresh(&place, &tree, &first, "job/1").await;
    assert_eq!((inode(tree.join("right/deep/same")), inode(tree.join("many/1/5"))), (same, kept));
    // Commits are against the new base.
    write(&tree, "README.md", "changed\n");
    assert_eq!(committed(&worktree).await.diff.files, 1);
}

/// Changes a file's content, and nothing else that a job can bring back.
fn forge(path: &Path, content: &str) {
    let before = path.metadata().expect("a file");
    assert_eq!(content.len() as u64, before.len(), "the size is to be the same");
    fs::write(path, content).expect("written");
    let time = |seconds, nanoseconds| TimeSpec::new(seconds, nanoseconds);
    let (read, written) = (time(before.atime(), before.atime_nsec()), time(before.mtime(), before.mtime_nsec()));
    utimensat(AT_FDCWD, path, &read, &written, UtimensatFlags::NoFollowSymlink).expect("set");
    let after = path.metadata().expect("a file");
    assert_eq!((before.ino(), before.mtime(), before.mtime_nsec()), (after.ino(), after.mtime(), after.mtime_nsec()));
}

fn exchange(one: &Path, other: &Path) {
    renameat2(AT_FDCWD, one, AT_FDCWD, other, RenameFlags::RENAME_EXCHANGE).expect("exchanged");
}

/// Does all that a job can to have something of its own in the next job's tree. `outside` is where the job can write, too.
fn smuggle(tree: &Path, outside: &Path) {
    // In its own git directory.
    run(tree, ["commit", "--quiet", "--allow-empty", "-m", "its own"]);
    run(tree, ["update-index", "--assume-unchanged", "README.md"]);
    run(tree, ["config", "core.fsmonitor", "/bin/false"]);
    write(tree, ".git/hooks/post-checkout", "#!/bin/sh\ntouch /tmp/owned\n");
    make_executable(&tree.join(".git/hooks/post-checkout"));
    write(tree, ".git/index.lock", "");
    write(tree, ".git/info/exclude", "*\n");
    write(tree, ".git/info/attributes", "* filter=evil\n");
    // Files of its own, some of them ignored or of a repository.
    write(tree, "target/debug/build", "built\n");
    write(tree, "src/note.tmp", "ignored\n");
    write(tree, "many/1/untracked", "new\n");
    run(tree, ["init", "--quiet", "many/2/nested"]);
    nix::unistd::mkfifo(&tree.join("many/3/pipe"), Mode::from_bits_truncate(0o666)).expect("a pipe");
    // Where the next commit has a file and a directory.
    write(tree, "coming/inside", "in the way\n");
    symlink(outside, tree.join("later")).expect("a link");
    // Contents, with all that can be brought back.
    forge(&tree.join("many/0/4"), "evil\n");
    forge(&tree.join("run.sh"), "#!/bin/no\n");
    // Modes, owners, attributes, of files and directories.
    let mode = |path: &str, mode| fs::set_permissions(tree.join(path), fs::Permissions::from_mode(mode)).expect("set");
    mode("many/0/8", 0o777);
    mode("src", 0o2777);
    std::os::unix::fs::chown(tree.join("many/0/12"), Some(12_345), Some(12_345)).expect("root may");
    std::os::unix::fs::chown(tree.join("many/2"), Some(12_345), Some(12_345)).expect("root may");
    xattr::set(tree.join("many/0/16"), "user.evil", b"yes").expect("set");
    xattr::set(tree.join("many/3"), "user.evil", b"yes").expect("set");
    xattr::set(tree, "user.evil", b"yes").expect("set");
    // A second name, by which the file can be written to later.
    fs::hard_link(tree.join("many/0/20"), outside.join("second-name")).expect("a link");
    // Things in other places: all of them are as they were, but for their names.
    exchange(&tree.join("left"), &tree.join("right"));
    exchange(&tree.join("pair/a"), &tree.join("pair/b"));
    fs::rename(tree.join("docs"), outside.join("docs")).expect("moved");
    symlink(outside.join("docs"), tree.join("docs")).expect("a link in place of a directory");
    fs::remove_file(tree.join("link")).expect("removed");
    symlink("/etc/passwd", tree.join("link")).expect("another link");
    // Nothing may be removed from these.
    mode("locked/in", 0o555);
    mode("locked", 0o000);
    mode("", 0o555);
}

#[tokio::test]
async fn nothing_that_a_job_does_is_in_the_tree_of_the_next_one() {
    let place = Place::new();
    let provisioner = recycling(&place);
    let first = seed(&place);
    let worktree = provision(&place, &provisioner, &first, "1").await;
    let (tree, slot) = (worktree.tree().to_owned(), place.slot("1"));
    let (outside, kept) = (place.root.path().join("outside"), inode(tree.join("many/1/5")));
    fs::create_dir(&outside).expect("made");
    smuggle(&tree, &outside);
    drop(worktree);
    assert!(set_aside(&slot, &place.trash()).expect("set aside"));

    let second = place.seed(|seed| {
        write(seed, "coming", "a file\n");
        write(seed, "later/on", "a directory\n");
    });
    let worktree = provision(&place, &provisioner, &second, "1").await;
    assert_eq!(inode(tree.join("many/1/5")), kept, "it was used again, or this test shows nothing");
    fs::write(outside.join("second-name"), "evil\n").expect("written");
    assert_fresh(&place, &tree, &second, "job/1").await;
    let outside: Vec<_> = fs::read_dir(&outside).expect("a directory").flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(outside.len(), 2, "nothing came there: {outside:?}");
    write(worktree.tree(), "README.md", "changed\n");
    assert_eq!(committed(&worktree).await.diff.files, 1);
}

#[tokio::test]
async fn a_tree_is_used_again_only_where_a_fresh_checkout_would_be_the_same() {
    let place = Place::new();
    let provisioner = recycling(&place);
    let (slot, mut last) = (place.slot("1"), seed(&place));
    let mut inodes = Vec::new();
    for round in 0..6 {
        match round {
            // From here on attributes say what a file is like, and then they do no more.
            1 => last = place.seed(|seed| write(seed, ".gitattributes", "*.md text eol=crlf\n")),
            2 => last = place.seed(|seed| write(seed, ".gitattributes", "*.png binary\n")),
            _ => {}
        }
        let worktree = provision(&place, &provisioner, &last, "1").await;
        let tree = worktree.tree().to_owned();
        assert_eq!(run(&tree, ["status", "--porcelain"]), "");
        let carriage_returns = fs::read(tree.join("README.md")).expect("read").contains(&b'\r');
        assert_eq!(carriage_returns, round == 1, "{round}");
        inodes.push(inode(tree.join("many/1/5")));
        drop(worktree);
        if round == 3 {
            // A job removed the very directory and made another.
            fs::rename(&tree, tree.with_file_name("away")).expect("moved");
            fs::create_dir(&tree).expect("made");
            assert!(!set_aside(&slot, &place.trash()).expect("refused"));
            fs::rename(tree.with_file_name("away"), place.trash().join("away")).expect("moved");
            fs::remove_dir_all(slot.join("host.git")).expect("removed");
            continue;
        }
        assert!(set_aside(&slot, &place.trash()).expect("set aside"));
        if round == 4 {
            // What a crash of the host has left is not believed.
            let path = slot.join("recycled/host.git/inventory.json");
            let text = fs::read_to_string(&path).expect("read");
            fs::write(&path, text.replacen("{\"boot\":\"", "{\"boot\":\"not-", 1)).expect("written");
        }
    }
    let again: Vec<bool> = inodes.windows(2).map(|pair| pair[0] == pair[1]).collect();
    assert_eq!(again, [false, false, true, false, false]);
}

#[tokio::test]
async fn of_another_repository_nothing_is_used_and_a_tree_gives_way_to_the_next_one() {
    let place = Place::new();
    let provisioner = recycling(&place);
    let (slot, first) = (place.slot("1"), seed(&place));
    drop(provision(&place, &provisioner, &first, "1").await);
    assert!(set_aside(&slot, &place.trash()).expect("set aside"));
    let root = place.root.path();
    run(root, ["clone", "--quiet", "--bare", "remote.git", "other.git"]);
    let other = place.git.mirror(&root.join("other.git").display().to_string().parse().expect("a path"));
    let base = other.resolve("main").await.expect("main");
    let worktree = other.provision(&base, &branch("job/1"), &slot, &provisioner).await.expect("a worktree");
    assert!(slot.join("recycled").exists(), "it still waits for a job of its own repository");
    assert_eq!(worktree.remote(), other.remote());
    let kept = inode(worktree.tree().join("many/1/5"));
    drop(worktree);
    assert!(set_aside(&slot, &place.trash()).expect("set aside"));
    let worktree = other.provision(&base, &branch("job/1"), &slot, &provisioner).await.expect("a worktree");
    assert_eq!(inode(worktree.tree().join("many/1/5")), kept);
    worktree.discard(&place.trash()).await.expect("discarded");
    assert!(!slot.join("recycled").exists());
}

#[tokio::test]
async fn where_something_is_mounted_in_a_tree_it_is_not_used_again() {
    let place = Place::new();
    let provisioner = recycling(&place);
    let (slot, first) = (place.slot("1"), seed(&place));
    let worktree = provision(&place, &provisioner, &first, "1").await;
    let (tree, kept) = (worktree.tree().to_owned(), inode(worktree.tree().join("many/1/5")));
    drop(worktree);
    let docs = tree.join("docs");
    let flags = nix::mount::MsFlags::MS_BIND;
    nix::mount::mount(Some(&docs), &docs, None::<&str>, flags, None::<&str>).expect("this test must run as root");
    assert!(set_aside(&slot, &place.trash()).expect("set aside"));
    let worktree = provision(&place, &provisioner, &first, "1").await;
    unmount_below(place.root.path());
    assert_ne!(inode(worktree.tree().join("many/1/5")), kept);
    assert_fresh(&place, &tree, &first, "job/1").await;
}
