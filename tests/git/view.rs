//! The job's own view of its worktree, and the life of a worktree.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use sawmill::git::{Change, Git, GitError, Worktree};

use super::fixture::{Place, branch, committed, config, id, run, sawmill, write};

#[tokio::test]
async fn in_its_view_a_job_works_as_in_any_clone_and_the_mirror_does_not_notice() {
    let place = Place::new();
    let worktree = place.worktree("1").await;
    let tree = worktree.tree();
    let refs = || run(place.mirror.directory(), ["for-each-ref"]);
    let before = refs();
    assert_eq!(run(tree, ["status", "--porcelain"]), "");
    assert_eq!(run(tree, ["branch", "--show-current"]), "job/1");
    assert_eq!(run(tree, ["rev-parse", "HEAD"]), worktree.base().as_str());
    assert_eq!(run(tree, ["log", "--format=%s"]), "seed");
    write(tree, "README.md", "# Changed\n");
    assert_eq!(run(tree, ["diff", "--stat"]).lines().count(), 2);
    run(tree, ["stash"]);
    assert_eq!(run(tree, ["status", "--porcelain"]), "");
    run(tree, ["stash", "pop"]);
    run(tree, ["switch", "--quiet", "-c", "other"]);
    let output = Command::new("git").args(["commit", "-qam", "mine"]).current_dir(tree).env("HOME", "/nonexistent").output();
    assert!(output.expect("git runs").status.success(), "the view has a user of its own");
    run(tree, ["gc", "--quiet", "--prune=now"]);
    run(tree, ["fsck"]);
    assert_eq!(refs(), before);
    // What it committed, where, and under which name does not matter: the tree does.
    let made = committed(&worktree).await;
    assert_eq!(run(place.mirror.directory(), ["rev-list", "--count", made.commit.as_str()]), "2");
    assert_eq!(made.diff.files, 1);
}

#[tokio::test]
async fn the_first_status_opens_no_file() {
    let place = Place::new();
    let worktree = place.worktree("1").await;
    // Whoever cannot read a file cannot compare its contents; root reads everything, so the contents go instead, behind
    // unchanged times and sizes.
    let path = worktree.tree().join("README.md");
    let meta = fs::metadata(&path).expect("a file");
    let contents = "X".repeat(usize::try_from(meta.len()).expect("small"));
    fs::write(&path, contents).expect("written");
    let file = fs::File::options().write(true).open(&path).expect("opened");
    file.set_modified(meta.modified().expect("a time")).expect("set");
    let status = super::fixture::git_command(worktree.tree(), ["-c", "core.trustctime=false", "status", "--porcelain"]).output();
    assert_eq!(String::from_utf8_lossy(&status.expect("git runs").stdout), "", "it trusted the index");
}

#[tokio::test]
async fn a_change_in_the_second_of_the_checkout_with_the_same_size_is_seen() {
    let place = Place::new();
    for round in 0..10 {
        let worktree = place.worktree(&format!("r{round}")).await;
        write(worktree.tree(), "README.md", "# A Project\n");
        assert_eq!(run(worktree.tree(), ["status", "--porcelain"]), " M README.md");
        assert_eq!(committed(&worktree).await.diff.files, 1);
    }
}

#[tokio::test]
async fn a_worktree_is_found_again_after_a_restart() {
    let place = Place::new();
    let worktree = place.worktree("1").await;
    let (base, tree) = (worktree.base().clone(), worktree.tree().to_owned());
    write(&tree, "new", "new");
    drop(worktree);
    let git = Git::open(&config(), sawmill(), &place.root.path().join("state/mirrors")).expect("git");
    let again = Worktree::open(&git, &place.slot("1")).expect("it is all on disk");
    assert_eq!((again.base(), again.tree(), again.branch()), (&base, tree.as_path(), "job/1"));
    assert_eq!(again.remote(), place.mirror.remote());
    committed(&again).await;
    assert!(matches!(Worktree::open(&git, &place.slot("2")), Err(GitError::NoWorktree { .. })));
    let mode = fs::metadata(place.slot("1").join("host.git/worktree.json")).expect("the journal").permissions().mode();
    assert_eq!(mode & 0o077, 0, "the address may have a secret");
}

#[tokio::test]
async fn a_slot_with_a_whole_worktree_is_not_provisioned_over() {
    let place = Place::new();
    let worktree = place.worktree("1").await;
    let again = place.mirror.provision(worktree.base(), &branch("b"), &place.slot("1")).await;
    assert!(matches!(again, Err(GitError::Occupied { .. })));
    assert_eq!(run(worktree.tree(), ["status", "--porcelain"]), "");
}

#[tokio::test]
async fn what_a_killed_provision_left_does_not_stop_the_next() {
    let place = Place::new();
    let worktree = place.worktree("1").await;
    let slot = place.slot("1");
    fs::remove_file(slot.join("host.git/worktree.json")).expect("the marker was not yet written");
    fs::write(slot.join("host.git/index.lock"), "").expect("a lock");
    write(worktree.tree(), "half", "half");
    fs::set_permissions(worktree.tree(), fs::Permissions::from_mode(0o555)).expect("read-only");
    let again = place.worktree("1").await;
    assert!(!again.tree().join("half").exists());
    assert_eq!(run(again.tree(), ["status", "--porcelain"]), "");
}

#[tokio::test]
async fn discarding_is_two_renames_whatever_the_rights_inside() {
    let place = Place::new();
    let worktree = place.worktree("1").await;
    let slot = place.slot("1");
    write(worktree.tree(), "deep/er/file", "x");
    for path in ["deep/er/file", "deep/er", "deep", ""] {
        fs::set_permissions(worktree.tree().join(path), fs::Permissions::from_mode(0o555)).expect("read-only");
    }
    worktree.discard(&place.trash()).await.expect("discarded");
    let left: Vec<_> = fs::read_dir(&slot).expect("the slot").map(|entry| entry.expect("an entry").file_name()).collect();
    assert_eq!((left, fs::read_dir(slot.join("job")).expect("a directory").count()), (vec!["job".into()], 0));
    assert_eq!(fs::read_dir(place.trash()).expect("the trash").count(), 2);
    place.worktree("1").await;
}

#[tokio::test]
async fn an_unchanged_tree_is_no_change() {
    let place = Place::new();
    let worktree = place.worktree("1").await;
    assert_eq!(worktree.commit("x").await.expect("fine"), Change::None);
    // Touched, ignored, and changed back.
    write(worktree.tree(), "README.md", "# A project\n");
    write(worktree.tree(), "target/debug/x", "built");
    write(worktree.tree(), "note.tmp", "note");
    assert_eq!(worktree.commit("x").await.expect("fine"), Change::None);
}

#[tokio::test]
async fn a_repository_with_sha256_ids_works_the_same() {
    let place = Place::with_config(&config());
    fs::remove_dir_all(place.remote_dir()).expect("removed");
    fs::remove_dir_all(place.seed_dir()).expect("removed");
    let root = place.root.path();
    run(root, ["init", "--quiet", "--bare", "--object-format=sha256", "--initial-branch=main", "remote.git"]);
    run(root, ["init", "--quiet", "--object-format=sha256", "--initial-branch=main", "seed"]);
    place.seed(|seed| write(seed, "a", "a\n"));
    let worktree = place.worktree("1").await;
    assert_eq!(worktree.base().as_str().len(), 64);
    assert_eq!(run(worktree.tree(), ["status", "--porcelain"]), "");
    write(worktree.tree(), "a", "b\n");
    let made = committed(&worktree).await;
    worktree.push(&made.commit, &branch("job/1")).await.expect("pushed");
    assert_eq!(id(&place.remote_dir(), "refs/heads/job/1"), made.commit);
}
