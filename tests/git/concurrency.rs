//! Many at once, in one process and in several.

use std::path::Path;

use sawmill::git::{Git, Pushed, Remote};

use super::fixture::{Place, branch, committed, config, provisioner, run, sawmill, write};

/// Set in the processes that the test starts of itself: the directory of the test, and a number.
const CHILD: &str = "SAWMILL_TEST_GIT_CHILD";

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn eight_at_a_time_on_one_mirror_never_fail() {
    let place = Place::new();
    let mut tasks = tokio::task::JoinSet::new();
    for worker in 0..8 {
        let (root, remote) = (place.root.path().to_owned(), place.mirror.remote().clone());
        tasks.spawn(async move { work(&root, &remote, worker, 10).await });
    }
    // Meanwhile the remote moves, so that some of them fetch.
    for round in 0..10 {
        place.seed(|seed| write(seed, "round", round.to_string()));
        tokio::task::yield_now().await;
    }
    tasks.join_all().await;
    check(&place, 80);
}

#[test]
fn eight_processes_on_one_mirror_never_fail() {
    let place = Place::new();
    let children: Vec<_> = (0..8)
        .map(|worker| {
            std::process::Command::new(std::env::current_exe().expect("this test"))
                .args(["git::concurrency::one_of_eight_processes", "--exact", "--nocapture"])
                .env(CHILD, format!("{worker}:{}", place.root.path().display()))
                .stdout(std::process::Stdio::piped())
                .stderr(std::process::Stdio::piped())
                .spawn()
                .expect("a child")
        })
        .collect();
    for child in children {
        let output = child.wait_with_output().expect("an end");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    check(&place, 40);
}

#[tokio::test]
async fn one_of_eight_processes() {
    // On its own this does nothing: the test above runs it in processes of their own.
    let Ok(child) = std::env::var(CHILD) else { return };
    let (worker, root) = child.split_once(':').expect("a number and a directory");
    let remote = format!("{root}/remote.git").parse().expect("a path");
    work(Path::new(root), &remote, worker.parse().expect("a number"), 5).await;
}

/// Does what a worker does, with a handle of its own.
async fn work(root: &Path, remote: &Remote, worker: u32, rounds: u32) {
    let git = Git::open(&config(), sawmill(), &root.join("state/mirrors")).expect("git");
    let (mirror, provisioner) = (git.mirror(remote), provisioner(&git));
    let slot = root.join(format!("state/slots/{worker}"));
    for round in 0..rounds {
        let base = mirror.resolve("main").await.expect("main");
        let name = branch(&format!("job/{worker}-{round}"));
        let worktree = mirror.provision(&base, &name, &slot, &provisioner).await.expect("a worktree");
        write(worktree.tree(), "made", format!("{worker} {round}"));
        let made = committed(&worktree).await;
        assert_eq!(worktree.push(&made.commit, &name).await.expect("pushed"), Pushed::New);
        worktree.discard(&root.join("state/trash")).await.expect("discarded");
    }
}

fn check(place: &Place, branches: usize) {
    let remote = place.remote_dir();
    assert_eq!(run(&remote, ["for-each-ref", "refs/heads/job"]).lines().count(), branches);
    run(&remote, ["fsck", "--strict"]);
    run(place.mirror.directory(), ["fsck", "--strict"]);
    let mirrors = std::fs::read_dir(place.root.path().join("state/mirrors")).expect("mirrors").flatten();
    let names: Vec<String> = mirrors.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    assert_eq!(names.iter().filter(|name| name.ends_with(".git")).count(), 1, "{names:?}");
    assert!(!names.iter().any(|name| name.starts_with(".incoming")), "{names:?}");
}
