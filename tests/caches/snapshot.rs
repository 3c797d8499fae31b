//! Caches where worktrees are subvolumes, into which nothing can be moved and out of which nothing can.

use std::fs;
use std::process::Command;

use nix::sys::signal::Signal;
use sawmill::git::Strategy;
use sawmill::ids::JobId;
use sawmill::job::JobState;
use serde_json::json;

use super::Scene;
use crate::crash::stop_quietly;
use crate::delivery::daemon::Daemon;
use crate::delivery::host::{Lodging, until};
use crate::git::snapshots::Btrfs;

/// A project with caches, and the disk on which its worker keeps what it has.
async fn on_btrfs(caches: &str) -> (Scene, Btrfs) {
    let scene = Scene::set(Strategy::Snapshot, Lodging::OnTheHost, caches).await;
    let (disk, state) = (Btrfs::make(), scene.state());
    fs::create_dir_all(&state).expect("made");
    disk.mount(&state);
    (scene, disk)
}

/// Ends the worker, and proves that nothing of it holds the disk.
async fn close(scene: Scene, mut worker: Daemon) {
    worker.signal(Signal::SIGTERM);
    assert!(worker.exit().await.success());
    let state = scene.state();
    until("it is unmounted", async || Command::new("umount").arg(&state).status().expect("umount runs").success()).await;
    scene.host.close(Vec::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_in_a_snapshot_is_found_saved_and_in_no_commit() {
    let (scene, _disk) = on_btrfs(r#"["target", "web/node_modules", "~/.tool"]"#).await;
    let worker = scene.host.start("a").await;
    assert!(worker.log().contains("worktrees are made by snapshot"), "{}", worker.log());
    let fill = "echo one > target/one; ln target/one target/again; ln -s one target/link; echo one > web/node_modules/one; \
                echo one > ~/.tool/one; echo work > work.txt";
    let gate = json!([{ "name": "unit", "command": "test -z \"$(ls -A target)\"" }]);
    let first = scene.run_with(fill, json!({ "gates": gate })).await;
    let said = scene.said(first).await;
    assert!(said.contains("cache target is to be saved for key"), "{said}");
    assert!(!said.contains("stays where"), "{said}");
    assert_eq!(scene.saved().len(), 3, "{}", worker.log());
    let gate = json!([{ "name": "unit", "command": "test \"$(echo $(ls target))\" = 'again link one' && test -e ~/.tool/one" }]);
    let found = "test \"$(cat target/again target/link web/node_modules/one ~/.tool/one | sort -u)\" = one; \
                 test target/again -ef target/one; echo two > target/two; echo work > more.txt";
    scene.run_with(found, json!({ "gates": gate })).await;
    // Nor is it in the salvage of one that fails.
    let failing = scene.enqueue("echo more > target/more; git init --quiet web; echo work > salvaged.txt; exit 1", &json!({}));
    scene.host.ended(failing).await;
    scene.emptied().await;
    scene.run("test -e target/two; test ! -e target/more").await;
    let delivered = scene.delivered();
    for part in ["work.txt", "more.txt", "salvaged.txt"] {
        assert!(delivered.contains(part), "{delivered}");
    }
    for part in ["target", "node_modules", "one"] {
        assert!(!delivered.contains(part), "{delivered}");
    }
    close(scene, worker).await;
}

/// How many files are in the cache of which a part is copied.
const FILES: usize = 30_000;

/// Enqueues a job, and has its worker stand still in the middle of copying its cache into the worktree.
async fn half_copied(scene: &Scene, worker: &Daemon, command: &str) -> JobId {
    let job = scene.enqueue(command, &json!({}));
    let place = scene.state().join("slots/0/job/tree/target");
    let copied = || fs::read_dir(&place).map_or(0, Iterator::count);
    until("copying has begun", async || copied() > 0).await;
    stop_quietly(&scene.host, worker).await;
    assert!((1..FILES).contains(&copied()), "the worker was held too late: all {} files are copied", copied());
    job
}

/// While it is copied a cache is in the very tree of which a salvage is made. One job is cancelled then; of the next the worker is killed,
/// and nobody goes on with it; of the last one the worker is killed, and another goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_that_is_half_copied_is_neither_salvaged_nor_committed_nor_saved() {
    let (scene, _disk) = on_btrfs(r#"["target"]"#).await;
    let worker = scene.host.start("a").await;
    scene.run(&format!("seq 1 {FILES} | split -l 1 -a 4 - target/f")).await;
    let saved = scene.saved();
    assert_eq!(saved.len(), 1, "{}", worker.log());
    let nothing_of_it = |scene: &Scene| {
        assert!(!scene.delivered().contains("target"), "{:.1000}", scene.delivered());
        assert_eq!(scene.saved(), saved);
    };

    let cancelled = half_copied(&scene, &worker, "true").await;
    scene.host.sawmill(&["job", "cancel", &cancelled.to_string()]);
    worker.signal(Signal::SIGCONT);
    assert_eq!(scene.host.ended(cancelled).await.state, JobState::Cancelled);
    scene.emptied().await;
    nothing_of_it(&scene);

    let abandoned = half_copied(&scene, &worker, "true").await;
    worker.kill();
    scene.host.sawmill(&["job", "cancel", &abandoned.to_string()]);
    let worker = scene.host.start("a").await;
    assert_eq!(scene.host.ended(abandoned).await.state, JobState::Cancelled);
    scene.emptied().await;
    nothing_of_it(&scene);

    let whole = format!("test \"$(ls target | wc -l)\" = {FILES}; echo work > work.txt");
    let taken_up = half_copied(&scene, &worker, &whole).await;
    worker.kill();
    let worker = scene.host.start("a").await;
    scene.host.succeeded(taken_up).await;
    scene.emptied().await;
    assert_eq!(scene.host.attempts(taken_up).await.len(), 1);
    assert!(scene.delivered().contains("work.txt"));
    nothing_of_it(&scene);
    close(scene, worker).await;
}
