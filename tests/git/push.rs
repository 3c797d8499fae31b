//! A branch on the remote is made, or left alone.

use std::fs;

use sawmill::git::{GitError, Pushed};
use sawmill::job::OutcomeClass;

use super::fixture::{Place, branch, committed, id, make_executable, run, write};

#[tokio::test]
async fn a_push_makes_the_branch_once() {
    let place = Place::new();
    let worktree = place.worktree("1").await;
    write(worktree.tree(), "new", "new\n");
    let made = committed(&worktree).await;
    let name = branch("sawmill/plan/fixer/new");
    assert_eq!(worktree.push(&made.commit, &name).await.expect("pushed"), Pushed::New);
    assert_eq!(worktree.push(&made.commit, &name).await.expect("pushed"), Pushed::Already);
    let remote = place.remote_dir();
    assert_eq!(id(&remote, "refs/heads/sawmill/plan/fixer/new"), made.commit);
    assert_eq!(
        run(&remote, ["log", "-1", "--format=%an <%ae> %cn %s", made.commit.as_str()]),
        "Sawmill <sawmill@example.com> Sawmill A change"
    );
    assert_eq!(id(&remote, &format!("{}^", made.commit)), *worktree.base());
    run(&remote, ["fsck", "--strict"]);
    run(place.mirror.directory(), ["fsck", "--strict"]);
}

#[tokio::test]
async fn a_branch_that_is_somewhere_else_is_left_alone() {
    let place = Place::new();
    let worktree = place.worktree("1").await;
    write(worktree.tree(), "new", "new\n");
    let made = committed(&worktree).await;
    // Even at an ancestor, from which it could be moved forward without force.
    let base = worktree.base().clone();
    run(&place.remote_dir(), ["branch", "taken", base.as_str()]);
    let error = worktree.push(&made.commit, &branch("taken")).await.expect_err("it is taken");
    let GitError::BranchMoved { found, .. } = &error else { panic!("{error}") };
    assert_eq!((found, error.class()), (&base, OutcomeClass::Conflict));
    assert_eq!(id(&place.remote_dir(), "refs/heads/taken"), base);
}

/// As an earlier push has one whose git was ended here, and which the remote goes on with.
#[tokio::test]
async fn a_lock_on_the_remotes_ref_is_waited_for() {
    let place = Place::new();
    let worktree = place.worktree("1").await;
    write(worktree.tree(), "new", "new\n");
    let made = committed(&worktree).await;
    let lock = place.remote_dir().join("refs/heads/busy.lock");
    write(&place.remote_dir(), "refs/heads/busy.lock", "");
    let error = worktree.push(&made.commit, &branch("busy")).await.expect_err("it stays locked");
    assert_eq!(error.class(), OutcomeClass::Infrastructure, "it may well be gone later");
    let text = error.to_string().replace(&place.root.path().display().to_string(), "<root>");
    insta::assert_snapshot!(text, @"cannot push busy to <root>/remote.git: <root>/remote.git/./refs/heads/busy.lock is there; if no git runs there that holds it, an earlier push has left it: remove the file on the remote's host");

    // It goes when the second try arrives.
    let hook = place.remote_dir().join("hooks/pre-receive");
    fs::write(&hook, "#!/bin/sh\n[ ! -e tried ] || rm refs/heads/busy.lock\ntouch tried\n").expect("a hook");
    make_executable(&hook);
    assert_eq!(worktree.push(&made.commit, &branch("busy")).await.expect("pushed"), Pushed::New);
    assert!(!lock.exists());
}

#[tokio::test]
async fn of_many_pushes_of_one_branch_one_wins() {
    let place = Place::new();
    let mut pushes = tokio::task::JoinSet::new();
    for number in 0..6 {
        let worktree = place.worktree(&number.to_string()).await;
        write(worktree.tree(), "new", number.to_string());
        let made = committed(&worktree).await;
        pushes.spawn(async move { worktree.push(&made.commit, &branch("race")).await });
    }
    let results = pushes.join_all().await;
    assert_eq!(results.iter().filter(|result| matches!(result, Ok(Pushed::New))).count(), 1, "{results:?}");
    assert_eq!(results.iter().filter(|result| matches!(result, Err(GitError::BranchMoved { .. }))).count(), 5, "{results:?}");
}

#[tokio::test]
async fn a_hook_on_the_remote_has_its_say() {
    let place = Place::new();
    let worktree = place.worktree("1").await;
    write(worktree.tree(), "new", "new\n");
    let made = committed(&worktree).await;
    let hook = place.remote_dir().join("hooks/pre-receive");
    fs::write(&hook, "#!/bin/sh\necho 'no pushes on Fridays' >&2\nexit 1\n").expect("a hook");
    make_executable(&hook);
    let error = worktree.push(&made.commit, &branch("b")).await.expect_err("refused");
    assert_eq!(error.class(), OutcomeClass::Invalid);
    let text = error.to_string().replace(&place.root.path().display().to_string(), "<root>");
    insta::assert_snapshot!(text, @"cannot push b to <root>/remote.git: it refuses: [remote rejected] (pre-receive hook declined): no pushes on Fridays");
}

#[tokio::test]
async fn a_remote_that_went_away_is_told_from_one_that_refuses() {
    let place = Place::new();
    let worktree = place.worktree("1").await;
    write(worktree.tree(), "new", "new\n");
    let made = committed(&worktree).await;
    let remote = place.remote_dir();
    fs::rename(&remote, remote.with_extension("away")).expect("renamed");
    let error = worktree.push(&made.commit, &branch("b")).await.expect_err("gone");
    assert!(matches!(error, GitError::RemoteMissing { .. }), "{error}");
    fs::rename(remote.with_extension("away"), &remote).expect("renamed");
    run(&remote, ["branch", "dir/below", worktree.base().as_str()]);
    let error = worktree.push(&made.commit, &branch("dir")).await.expect_err("a directory is in the way");
    assert!(matches!(error, GitError::PushRefused { .. }), "{error}");
}

#[tokio::test]
async fn a_commit_that_is_not_pushed_is_kept_in_the_mirror() {
    let place = Place::new();
    let worktree = place.worktree("1").await;
    write(worktree.tree(), "new", "new\n");
    let made = committed(&worktree).await;
    worktree.keep(&made.commit, &branch("job/1")).await.expect("kept");
    assert_eq!(id(place.mirror.directory(), "refs/sawmill/kept/job/1"), made.commit);
}
