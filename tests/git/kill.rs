//! A daemon that is killed, or a future that is dropped, at any moment.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sawmill::git::{Committed, Git, GitError, Pushed, Worktree};

use super::fixture::{Place, branch, committed, config, make_executable, provisioner, run, sawmill, write};

/// Set in the process that the test starts and kills.
const CHILD: &str = "SAWMILL_TEST_GIT_KILLED";

/// How many files it changes.
const FILES: &str = "SAWMILL_TEST_GIT_KILLED_FILES";

fn start(place: &Place, files: usize) -> Child {
    Command::new(std::env::current_exe().expect("this test"))
        .args(["git::kill::one_that_is_killed", "--exact", "--nocapture"])
        .env(CHILD, place.root.path())
        .env(FILES, files.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("a child")
}

#[tokio::test]
async fn one_that_is_killed() {
    // On its own this does nothing: the test below runs it in a process of its own.
    let Ok(root) = std::env::var(CHILD) else { return };
    let root = Path::new(&root);
    let files: usize = std::env::var(FILES).expect("set").parse().expect("a number");
    let git = Git::open(&config(), sawmill(), &root.join("state/mirrors")).expect("git");
    let provisioner = provisioner(&git);
    let mirror = git.mirror(&format!("{}/remote.git", root.display()).parse().expect("a path"));
    for round in 0.. {
        let base = mirror.resolve("main").await.expect("main");
        let worktree =
            mirror.provision(&base, &branch("b"), &root.join("state/slots/1"), &provisioner).await.expect("a worktree");
        for number in 0..files {
            write(worktree.tree(), &format!("made/{number}"), format!("{round} {number}"));
        }
        let made = committed(&worktree).await;
        worktree.push(&made.commit, &branch(&format!("killed/{round}"))).await.expect("pushed");
        worktree.discard(&root.join("state/trash")).await.expect("discarded");
    }
}

/// Kills at moments spread over clone, provision, commit, push and discard; the next daemon always goes on.
#[tokio::test]
async fn after_a_kill_at_any_moment_the_next_daemon_goes_on() {
    let place = Place::new();
    place.seed(|seed| (0..300).for_each(|number| write(seed, &format!("many/{number}"), format!("{number}\n"))));
    let slot = place.slot("1");
    let mut opened = 0;
    for round in 0..100_u64 {
        // On a busy machine it takes longer until there is a whole worktree.
        if round >= 25 && opened > 0 {
            break;
        }
        let mut child = start(&place, 50);
        // The moment itself is what is varied, from before the clone to some rounds in.
        std::thread::sleep(Duration::from_millis(12 * round));
        child.kill().expect("killed");
        child.wait().expect("an end");
        match Worktree::open(&place.git, &slot) {
            Ok(worktree) => {
                opened += 1;
                write(worktree.tree(), "after", round.to_string());
                committed(&worktree).await;
                worktree.discard(&place.trash()).await.expect("discarded");
            }
            Err(GitError::NoWorktree { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        let worktree = place.worktree("1").await;
        assert_eq!(run(worktree.tree(), ["status", "--porcelain"]), "");
        worktree.discard(&place.trash()).await.expect("discarded");
        for name in run(&place.remote_dir(), ["for-each-ref", "--format=%(refname)", "refs/heads/killed"]).lines() {
            run(&place.remote_dir(), ["update-ref", "-d", name]);
        }
    }
    assert!(opened > 0, "no kill left a whole worktree");
    run(place.mirror.directory(), ["fsck", "--strict"]);
}

#[tokio::test]
async fn a_dropped_commit_leaves_no_process_and_no_lock() {
    let place = Place::new();
    let worktree = place.worktree("1").await;
    for number in 0..2_000 {
        write(worktree.tree(), &format!("many/{number}"), format!("{number}"));
    }
    tokio::select! {
        biased;
        result = worktree.commit("x") => panic!("too fast: {result:?}"),
        () = tokio::time::sleep(Duration::from_millis(10)) => {}
    }
    until("git has ended", || !git_works_in(&place.slot("1"))).await;
    assert_eq!(committed(&worktree).await.diff.files, 2_000);
    run(place.mirror.directory(), ["fsck", "--strict"]);
}

/// So many files are pushed by this process, and so many by git.
const LITTLE_AND_MUCH: [usize; 2] = [1, 1_001];

async fn commit_of(worktree: &Worktree, files: usize) -> Committed {
    for number in 0..files {
        write(worktree.tree(), &format!("new/{number}"), format!("{number}\n"));
    }
    committed(worktree).await
}

/// Has the remote stop in a push while it holds the lock on the ref, and do there what the script says.
fn hold_the_lock(place: &Place, script: &str) -> (PathBuf, PathBuf) {
    let (hook, held) = (place.remote_dir().join("hooks/reference-transaction"), place.root.path().join("held"));
    let text =
        format!("#!/bin/sh\n[ \"$1\" = prepared ] || exit 0\n{script}\necho $$ > '{}'\nsleep 600\nsleep 600\n", held.display());
    fs::write(&hook, text).expect("a hook");
    make_executable(&hook);
    (hook, held)
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < until, "not within a minute: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn locks(place: &Place) -> String {
    let found = Command::new("find").arg(place.remote_dir()).args(["-name", "*.lock"]).output().expect("it runs");
    String::from_utf8_lossy(&found.stdout).into_owned()
}

#[tokio::test]
async fn a_push_that_is_dropped_leaves_no_lock_on_a_remote_of_this_host() {
    for files in LITTLE_AND_MUCH {
        let place = Place::new();
        let worktree = place.worktree("1").await;
        let made = commit_of(&worktree, files).await;
        let (hook, held) = hold_the_lock(&place, "");
        let name = branch("b");
        tokio::select! {
            result = worktree.push(&made.commit, &name) => panic!("it is held: {result:?}"),
            () = async {
                until("the ref is locked", || held.exists()).await;
                assert!(locks(&place).contains("refs/heads/b.lock"));
            } => {}
        }
        until("nobody works on the remote", || !git_works_in(&place.remote_dir())).await;
        assert_eq!(locks(&place), "");
        fs::remove_file(hook).expect("removed");
        assert_eq!(worktree.push(&made.commit, &name).await.expect("pushed"), Pushed::New);
    }
}

#[tokio::test]
async fn a_daemon_that_is_killed_in_a_push_leaves_no_lock_on_a_remote_of_this_host() {
    for files in LITTLE_AND_MUCH {
        let place = Place::new();
        let (_, held) = hold_the_lock(&place, "");
        let mut child = start(&place, files);
        until("the ref is locked", || held.exists()).await;
        assert!(locks(&place).contains("refs/heads/killed/0.lock"));
        child.kill().expect("killed");
        child.wait().expect("an end");
        until("nobody works on the remote", || !git_works_in(&place.remote_dir())).await;
        assert_eq!(locks(&place), "");
    }
}

#[tokio::test]
async fn what_does_not_end_when_a_push_is_dropped_is_killed() {
    for files in LITTLE_AND_MUCH {
        let place = Place::new();
        let worktree = place.worktree("1").await;
        let made = commit_of(&worktree, files).await;
        let (_, held) = hold_the_lock(&place, "trap '' TERM");
        let name = branch("b");
        tokio::select! {
            result = worktree.push(&made.commit, &name) => panic!("it is held: {result:?}"),
            () = until("the ref is locked", || held.exists()) => {}
        }
        until("nobody works on the remote", || !git_works_in(&place.remote_dir())).await;
        let hook = fs::read_to_string(held).expect("its process");
        assert_ne!(hook.trim(), "");
        // It is reaped by whom it is left to.
        until("the hook is gone", || !Path::new("/proc").join(hook.trim()).exists()).await;
    }
}

/// git makes a file, and only then takes note of it, to remove it when it is asked to end. Here a script does so, at leisure.
#[tokio::test]
async fn who_works_when_a_push_is_dropped_is_not_asked_to_end_before_it_waits_for_something() {
    for files in LITTLE_AND_MUCH {
        let place = Place::new();
        let worktree = place.worktree("1").await;
        let made = commit_of(&worktree, files).await;
        // It starts no program, for which it would wait asleep, and is busy for longer than those have whose git alone was asked. git ends
        // its hooks itself, but not whom they have started. What it waits for at last may be asked to end before it is itself.
        let (begun, noted) = (place.root.path().join("begun"), place.root.path().join("noted"));
        let busy = format!(
            "now() {{ read -r up rest < /proc/uptime; now=${{up%.*}}${{up#*.}}; }}; {{ echo > '{}'; \
             now; until=$((now + 80)); while [ $now -lt $until ]; do now; done; trap 'echo > \"{}\"; exit 1' TERM; while :; do sleep 600; done; }} 2> '{}' &",
            begun.display(),
            noted.display(),
            place.root.path().join("said").display()
        );
        hold_the_lock(&place, &busy);
        let name = branch("b");
        tokio::select! {
            result = worktree.push(&made.commit, &name) => panic!("it is held: {result:?}"),
            () = until("the hook is busy", || begun.exists()) => {}
        }
        until("nobody works on the remote", || !git_works_in(&place.remote_dir())).await;
        let said = fs::read_to_string(place.root.path().join("said")).unwrap_or_default();
        assert!(noted.exists(), "it was asked before it could take note of {files} files: {said:?}");
    }
}

fn git_works_in(slot: &Path) -> bool {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    entries.into_iter().any(|entry| fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(slot)))
}
