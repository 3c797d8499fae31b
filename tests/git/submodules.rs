//! Repositories within repositories, as the base has them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use sawmill::git::{Change, GitError, SalvagePush, Worktree};
use sawmill::ids::{AttemptNo, JobId};

use super::fixture::{Place, branch, committed, id, list_tree, refused, run, show, write};

/// A remote `lib.git` beside the main one, as submodule `vendor/lib` with a submodule `deep` of its own.
pub(super) fn with_submodules() -> Place {
    let place = Place::new();
    let root = place.root.path();
    for name in ["deep", "lib"] {
        run(root, ["init", "--quiet", "--bare", "--initial-branch=main", &format!("{name}.git")]);
        run(root, ["clone", "--quiet", &format!("{name}.git"), name]);
        write(&root.join(name), "file", format!("{name}\n"));
        if name == "lib" {
            run(&root.join(name), ["submodule", "--quiet", "add", "../deep.git", "deep"]);
        }
        run(&root.join(name), ["add", "-A"]);
        run(&root.join(name), ["commit", "--quiet", "-m", name]);
        run(&root.join(name), ["push", "--quiet", "origin", "HEAD:main"]);
    }
    place.seed(|seed| {
        run(seed, ["remote", "add", "origin", "../remote.git"]);
        run(seed, ["submodule", "--quiet", "add", "../lib.git", "vendor/lib"]);
    });
    place
}

fn lib(worktree: &Worktree) -> PathBuf {
    worktree.tree().join("vendor/lib")
}

#[tokio::test]
async fn submodules_are_there_and_an_unchanged_one_is_no_change() {
    let place = with_submodules();
    let worktree = place.worktree("1").await;
    assert_eq!(fs::read_to_string(lib(&worktree).join("deep/file")).expect("checked out"), "deep\n");
    assert_eq!(run(worktree.tree(), ["status", "--porcelain"]), "");
    assert_eq!(run(&lib(&worktree), ["status", "--porcelain"]), "");
    assert_eq!(run(&lib(&worktree), ["log", "--format=%s"]), "lib");
    assert_eq!(worktree.commit("x").await.expect("fine"), Change::None);
    write(worktree.tree(), "README.md", "# Changed\n");
    let made = committed(&worktree).await;
    assert_eq!(made.diff.files, 1);
    assert!(list_tree(place.mirror.directory(), &made.tree).contains(&"160000 vendor/lib".to_owned()));
    worktree.push(&made.commit, &branch("b")).await.expect("pushed");
}

#[tokio::test]
async fn a_submodule_at_another_commit_of_its_remote_is_committed() {
    let place = with_submodules();
    let worktree = place.worktree("1").await;
    let source = place.root.path().join("lib");
    write(&source, "file", "newer\n");
    run(&source, ["commit", "--quiet", "-am", "newer"]);
    run(&source, ["push", "--quiet", "origin", "HEAD:main"]);
    let newer = id(&source, "HEAD");
    let inside = lib(&worktree);
    run(&inside, ["fetch", "--quiet", place.root.path().join("lib.git").to_str().expect("UTF-8"), "main"]);
    run(&inside, ["checkout", "--quiet", newer.as_str()]);
    let made = committed(&worktree).await;
    assert_eq!(run(place.mirror.directory(), ["rev-parse", &format!("{}:vendor/lib", made.commit)]), newer.as_str());
    let reopened = Worktree::open(&place.git, &place.slot("1")).expect("a worktree");
    assert_eq!(committed(&reopened).await.tree, made.tree);
}

#[tokio::test]
async fn a_submodule_that_nobody_else_could_have_is_refused_and_salvaged() {
    let place = with_submodules();
    let worktree = place.worktree("1").await;
    let proof = place.root.path().join("proof");
    let inside = lib(&worktree);
    run(&inside, ["config", "core.fsmonitor", &format!("touch {} #", proof.display())]);
    fs::write(inside.join("file"), "dirty\n").expect("written");
    let (path, why) = refused(&worktree).await;
    assert_eq!(path, "vendor/lib");
    insta::assert_snapshot!(why, @"submodule: its files were changed; commit and push them in its own repository first");
    fs::write(inside.join("deep/file"), "dirty deep\n").expect("written");
    assert!(refused(&worktree).await.1.contains("deep"));
    let commit =
        worktree.salvage(JobId::generate(), AttemptNo(1), SalvagePush::Local).await.expect("salvaged").expect("something");
    let mirror = place.mirror.directory();
    assert_eq!(show(mirror, &format!("{commit}:vendor/lib/file")), b"dirty\n");
    assert_eq!(show(mirror, &format!("{commit}:vendor/lib/deep/file")), b"dirty deep\n");
    run(mirror, ["fsck", "--strict"]);
    assert!(!proof.exists(), "the submodule's configuration ran");
    fs::write(inside.join("deep/file"), "deep\n").expect("written");
    run(&inside, ["-c", "core.fsmonitor=false", "commit", "--quiet", "-am", "local"]);
    assert!(refused(&worktree).await.1.contains("which its remote does not have"));
}

#[tokio::test]
async fn a_submodule_may_be_removed_or_replaced_and_is_never_followed() {
    let place = with_submodules();
    let worktree = place.worktree("1").await;
    fs::remove_dir_all(lib(&worktree)).expect("removed");
    let made = committed(&worktree).await;
    assert!(!list_tree(place.mirror.directory(), &made.tree).iter().any(|entry| entry.contains("vendor")));
    symlink("/etc", lib(&worktree)).expect("a link");
    let made = committed(&worktree).await;
    assert!(list_tree(place.mirror.directory(), &made.tree).contains(&"120000 vendor/lib".to_owned()));
    fs::remove_file(lib(&worktree)).expect("removed");
    fs::create_dir(lib(&worktree)).expect("a directory");
    assert_eq!(worktree.commit("x").await.expect("an empty directory is as git leaves it"), Change::None);
}

#[tokio::test]
async fn a_submodule_that_cannot_be_had_is_named() {
    let place = with_submodules();
    fs::rename(place.root.path().join("deep.git"), place.root.path().join("away")).expect("renamed");
    let base = place.mirror.resolve("main").await.expect("main");
    let error =
        place.mirror.provision(&base, &branch("b"), &place.slot("1"), &place.provisioner).await.expect_err("deep is gone");
    assert!(matches!(&error, GitError::RemoteMissing { remote } if remote.to_string().ends_with("deep.git")), "{error}");
    place.seed(|seed| {
        run(seed, ["config", "-f", ".gitmodules", "submodule.vendor/lib.url", "ext::sh -c touch% /tmp/x"]);
    });
    let base = place.mirror.resolve("main").await.expect("main");
    let error = place.mirror.provision(&base, &branch("b"), &place.slot("1"), &place.provisioner).await.expect_err("ext");
    assert!(matches!(&error, GitError::Submodule { path, .. } if path == "vendor/lib"), "{error}");
}
