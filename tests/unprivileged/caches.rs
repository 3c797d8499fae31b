//! Caches of a worker that is not root, whose rights are those of its jobs: what these have closed to themselves is closed to it.

use std::fs;
use std::os::unix::fs::chown;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use sawmill::ids::JobId;
use sawmill::job::Stream;
use serde_json::json;

use super::{NOBODY, Scene};
use crate::delivery::daemon::Daemon;
use crate::delivery::host::until;
use crate::git::snapshots::Btrfs;

const CACHES: &str = r#"["target"]"#;

/// A job that leaves files and a directory that nobody may read, and a later one that finds them.
async fn leave_and_find(scene: &Scene, worker: &Daemon) {
    let run = async |command: &str| -> JobId {
        let spec = json!({ "project": "app", "changes": "optional", "task": { "command": format!("set -e; {command}") } });
        let job = scene.host.enqueue(&spec);
        scene.host.succeeded(job).await;
        until("the slot is empty", async || !scene.slot().join("run").exists()).await;
        job
    };
    let first = run(
        "mkdir -p target/shut/deep; echo one > target/closed; echo one > target/shut/file; echo one > target/shut/deep/file; \
                     chmod 000 target/closed target/shut/file target/shut/deep; chmod 000 target/shut; echo work > work.txt",
    )
    .await;
    let said = scene.host.log(first, 1, Stream::System).await;
    assert!(said.contains("cache target is to be saved for key"), "{said}");
    assert!(worker.log().contains("saved cache target of project app"), "{}", worker.log());
    run("test \"$(cat target/closed target/shut/file target/shut/deep/file | sort -u)\" = one").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_job_has_closed_in_a_layer_is_saved() {
    let mut scene = Scene::set(Duration::from_secs(600)).await;
    with_caches(&mut scene);
    let worker = scene.start().await;
    leave_and_find(&scene, &worker).await;
    scene.host.close(vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_job_has_closed_in_a_snapshot_is_saved() {
    let mut scene = Scene::set(Duration::from_secs(600)).await;
    with_caches(&mut scene);
    scene.host.set("SAWMILL_WORKSPACE__STRATEGY", "snapshot");
    let (disk, state) = (Btrfs::make(), scene.host.state_dir("a"));
    fs::create_dir_all(&state).expect("made");
    disk.mount(&state);
    chown(&state, Some(NOBODY), Some(NOBODY)).expect("given away");
    let mut worker = scene.host.start_at(&scene.seat).await;
    assert!(worker.log().contains("worktrees are made by snapshot"), "{}", worker.log());
    leave_and_find(&scene, &worker).await;
    worker.signal(Signal::SIGTERM);
    assert!(worker.exit().await.success());
    until("it is unmounted", async || Command::new("umount").arg(&state).status().expect("umount runs").success()).await;
    scene.host.close(Vec::new()).await;
}

fn with_caches(scene: &mut Scene) {
    scene.host.set("SAWMILL_PROJECTS__APP__REPO", scene.remote.to_str().expect("UTF-8"));
    scene.host.set("SAWMILL_PROJECTS__APP__CACHES", CACHES);
    scene.host.set("SAWMILL_CACHES__REFRESH", "0s");
}
