//! What a job left uncommitted is never lost.

use std::fs;
use std::os::unix::fs::symlink;

use sawmill::git::{Git, SalvagePush};
use sawmill::ids::{AttemptNo, JobId};

use super::fixture::{Place, branch, committed, config, id, leftovers, list_tree, run, sawmill, show, unmount_below, write};

#[tokio::test]
async fn what_is_uncommitted_is_kept_and_found_again() {
    let place = Place::new();
    let job = JobId::generate();
    let worktree = place.worktree("1").await;
    write(worktree.tree(), "half", "done");
    let first = worktree.salvage(job, AttemptNo(1), SalvagePush::Remote).await.expect("salvaged").expect("something");
    let name = format!("refs/sawmill/salvage/{job}/1");
    assert_eq!(id(place.mirror.directory(), &name), first);
    assert_eq!(id(&place.remote_dir(), &name), first);
    // Again: the same; and with more, on top of it.
    assert_eq!(worktree.salvage(job, AttemptNo(1), SalvagePush::Remote).await.expect("salvaged"), Some(first.clone()));
    write(worktree.tree(), "half", "more");
    let more = worktree.salvage(job, AttemptNo(1), SalvagePush::Remote).await.expect("salvaged").expect("something");
    assert_eq!(id(&place.remote_dir(), &name), more);
    run(&place.remote_dir(), ["merge-base", "--is-ancestor", first.as_str(), more.as_str()]);
    let second = worktree.salvage(job, AttemptNo(2), SalvagePush::Local).await.expect("salvaged").expect("something");
    let found = place.mirror.salvages(job).await.expect("listed");
    assert_eq!(found, [(AttemptNo(1), more.clone()), (AttemptNo(2), second)]);
    // Another worker sees what reached the remote, and has its contents.
    let elsewhere = Git::open(&config(), sawmill(), &place.root.path().join("elsewhere/mirrors")).expect("git");
    let mirror = elsewhere.mirror(place.mirror.remote());
    assert_eq!(mirror.salvages(JobId::generate()).await.expect("listed"), []);
    assert_eq!(mirror.salvages(job).await.expect("listed"), [(AttemptNo(1), more.clone())]);
    // Under no name there, whose lock a fetch that is killed would leave.
    assert!(!mirror.directory().join(format!("refs/sawmill/salvage/{job}")).exists());
    assert_eq!(show(mirror.directory(), &format!("{more}:half")), b"more");
    assert_eq!(mirror.salvages(JobId::generate()).await.expect("listed"), []);
    // A remote that is away hides nothing that is here.
    fs::rename(place.remote_dir(), place.root.path().join("away")).expect("renamed");
    assert_eq!(place.mirror.salvages(job).await.expect("listed").len(), 2);
}

#[tokio::test]
async fn a_salvage_that_was_killed_half_way_is_made_again() {
    let place = Place::new();
    let job = JobId::generate();
    let worktree = place.worktree("1").await;
    write(worktree.tree(), "half", "done");
    // What git leaves that is killed while it writes the ref.
    let refs = place.mirror.directory().join(format!("refs/sawmill/salvage/{job}"));
    fs::create_dir_all(&refs).expect("directories");
    fs::write(refs.join("1.lock"), "").expect("a lock");
    let kept = worktree.salvage(job, AttemptNo(1), SalvagePush::Local).await.expect("salvaged").expect("something");
    assert_eq!(id(place.mirror.directory(), &format!("refs/sawmill/salvage/{job}/1")), kept);
    assert!(!refs.join("1.lock").exists());
}

#[tokio::test]
async fn nothing_is_salvaged_where_nothing_is_uncommitted() {
    let place = Place::new();
    let worktree = place.worktree("1").await;
    let salvage = async || worktree.salvage(JobId::generate(), AttemptNo(1), SalvagePush::Local).await.expect("fine");
    assert_eq!(salvage().await, None);
    write(worktree.tree(), "new", "new");
    let made = committed(&worktree).await;
    assert!(salvage().await.is_some(), "the commit has not reached the remote");
    worktree.push(&made.commit, &branch("b")).await.expect("pushed");
    assert_eq!(salvage().await, None);
    write(worktree.tree(), "new", "newer");
    assert!(salvage().await.is_some());
}

#[tokio::test]
async fn salvage_takes_what_a_commit_refuses() {
    let place = Place::new();
    let worktree = place.worktree("1").await;
    let tree = worktree.tree();
    for path in ["empty", "full", "full/inner"] {
        fs::create_dir_all(tree.join(path)).expect("a directory");
        run(tree, ["init", "--quiet", path]);
        write(tree, &format!("{path}/file"), path);
    }
    write(tree, "full/.gitignore", "*.o\n");
    write(tree, "full/x.o", "object");
    run(&tree.join("full"), ["add", "file"]);
    run(&tree.join("full"), ["commit", "--quiet", "-m", "x"]);
    write(tree, "full/later", "uncommitted");
    write(tree, "GIT~1", "forbidden");
    nix::unistd::mkfifo(&tree.join("pipe"), nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    symlink("/etc", tree.join("link")).expect("a link");
    fs::remove_dir_all(tree.join(".git")).expect("removed");
    let commit =
        worktree.salvage(JobId::generate(), AttemptNo(1), SalvagePush::Local).await.expect("salvaged").expect("something");
    let expected = [
        "100644 .gitignore",
        "100644 README.md",
        "100644 empty/file",
        "100644 full/.gitignore",
        "100644 full/file",
        "100644 full/inner/file",
        "100644 full/later",
        "120000 link",
        "100644 src/lib.rs",
        "100644 src/main.rs",
    ];
    assert_eq!(list_tree(place.mirror.directory(), &commit), expected);
    run(place.mirror.directory(), ["fsck", "--strict"]);
    assert_eq!(leftovers(&place.slot("1")), [""; 0]);
}

#[tokio::test]
async fn attributes_that_cannot_be_obeyed_do_not_stop_a_salvage() {
    let place = Place::new();
    let worktree = place.worktree("1").await;
    write(worktree.tree(), ".gitattributes", "*.txt working-tree-encoding=UTF-16\n");
    write(worktree.tree(), "a.txt", b"\x00\xd8no utf-16");
    super::fixture::refused(&worktree).await;
    let commit =
        worktree.salvage(JobId::generate(), AttemptNo(1), SalvagePush::Local).await.expect("salvaged").expect("something");
    assert_eq!(show(place.mirror.directory(), &format!("{commit}:a.txt")), b"\x00\xd8no utf-16");
}

#[tokio::test]
async fn a_tree_that_is_gone_or_foreign_is_not_followed() {
    let place = Place::new();
    let worktree = place.worktree("1").await;
    unmount_below(worktree.tree());
    fs::remove_dir_all(worktree.tree()).expect("removed");
    let salvage = async || worktree.salvage(JobId::generate(), AttemptNo(1), SalvagePush::Local).await.expect("fine");
    assert_eq!(salvage().await, None);
    symlink("/etc", worktree.tree()).expect("a link");
    assert_eq!(salvage().await, None);
}
