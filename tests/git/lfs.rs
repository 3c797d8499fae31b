//! Large files by pointer.

use std::fs;

use sawmill::git::{Change, Git, GitError};

use super::fixture::{Place, branch, committed, config, git_command, id, provisioner, run, sawmill, show, write};

fn with_lfs() -> Place {
    let place = Place::new();
    let seed = place.seed_dir();
    run(&seed, ["lfs", "install", "--local"]);
    run(&seed, ["remote", "add", "origin", place.remote_dir().to_str().expect("UTF-8")]);
    write(&seed, ".gitattributes", "*.bin filter=lfs diff=lfs merge=lfs -text\n");
    write(&seed, "a.bin", "large contents\n");
    run(&seed, ["add", "-A"]);
    run(&seed, ["commit", "--quiet", "-m", "lfs"]);
    run(&seed, ["push", "--quiet", "origin", "HEAD:refs/heads/main"]);
    place
}

#[tokio::test]
async fn contents_are_fetched_changed_and_delivered() {
    let place = with_lfs();
    let worktree = place.worktree("1").await;
    assert_eq!(fs::read_to_string(worktree.tree().join("a.bin")).expect("a file"), "large contents\n");
    assert_eq!(worktree.commit("x").await.expect("fine"), Change::None);
    write(worktree.tree(), "a.bin", "other contents\n");
    let made = committed(&worktree).await;
    let stored = show(place.mirror.directory(), &format!("{}:a.bin", made.commit));
    assert!(stored.starts_with(b"version https://git-lfs.github.com/spec/v1"), "{}", String::from_utf8_lossy(&stored));
    worktree.push(&made.commit, &branch("b")).await.expect("pushed");
    assert_eq!(id(&place.remote_dir(), "b"), made.commit);
    let clone =
        git_command(place.root.path(), ["-c", "filter.lfs.smudge=git-lfs smudge -- %f", "-c", "filter.lfs.required=true"])
            .args(["clone", "--quiet", "--branch=b", "remote.git", "check"])
            .status();
    assert!(clone.expect("git runs").success());
    assert_eq!(fs::read_to_string(place.root.path().join("check/a.bin")).expect("a file"), "other contents\n");
}

#[tokio::test]
async fn without_git_lfs_a_repository_that_needs_it_is_an_error_and_others_do_not_notice() {
    let place = with_lfs();
    let bin = place.root.path().join("bin");
    fs::create_dir(&bin).expect("a directory");
    for name in ["git", "sh"] {
        std::os::unix::fs::symlink(format!("/usr/bin/{name}"), bin.join(name)).expect("a link");
    }
    let mut config = config();
    config.search_path = bin.display().to_string();
    let git = Git::open(&config, sawmill(), &place.root.path().join("other/mirrors")).expect("git");
    assert!(!git.has_lfs());
    let (mirror, provisioner) = (git.mirror(place.mirror.remote()), provisioner(&git));
    let base = mirror.resolve("main").await.expect("main");
    let error = mirror.provision(&base, &branch("b"), &place.slot("1"), &provisioner).await.expect_err("no git-lfs");
    assert!(matches!(error, GitError::LfsMissing { .. }), "{error}");
    let before = mirror.resolve(id(&place.seed_dir(), "HEAD^").as_str()).await.expect("without LFS");
    mirror.provision(&before, &branch("b"), &place.slot("1"), &provisioner).await.expect("a worktree");
}
