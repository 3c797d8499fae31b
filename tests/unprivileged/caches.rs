//! Caches of a worker that is not root, whose rights are those of its jobs: what these have closed to themselves is closed to it.

use std::fs;
use std::os::unix::fs::chown;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;

use super::{NOBODY, Scene};
use crate::delivery::host::until;
use crate::git::snapshots::Btrfs;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_job_has_closed_in_a_snapshot_is_saved() {
    let mut scene = Scene::set(Duration::from_secs(600)).await;
    scene.host.set("SAWMILL_PROJECTS__APP__REPO", scene.remote.to_str().expect("UTF-8"));
    scene.host.set("SAWMILL_PROJECTS__APP__CACHES", r#"["target"]"#);
    scene.host.set("SAWMILL_CACHES__REFRESH", "0s");
    scene.host.set("SAWMILL_WORKSPACE__STRATEGY", "snapshot");
    let (disk, state) = (Btrfs::make(), scene.host.state_dir("a"));
    fs::create_dir_all(&state).expect("made");
    disk.mount(&state);
    chown(&state, Some(NOBODY), Some(NOBODY)).expect("given away");
    let mut worker = scene.host.start_at(&scene.seat).await;
    assert!(worker.log().contains("worktrees are made by snapshot"), "{}", worker.log());
    let run = async |command: &str| {
        let spec = json!({ "project": "app", "changes": "optional", "task": { "command": format!("set -e; {command}") } });
        scene.host.succeeded(scene.host.enqueue(&spec)).await;
        until("the slot is empty", async || !scene.slot().join("run").exists()).await;
    };
    run("mkdir -p target/shut/deep; echo one > target/closed; echo one > target/shut/file; echo one > target/shut/deep/file; \
         chmod 000 target/closed target/shut/file target/shut/deep; chmod 000 target/shut; echo work > work.txt")
    .await;
    assert!(worker.log().contains("saved cache target of project app"), "{}", worker.log());
    run("test \"$(cat target/closed target/shut/file target/shut/deep/file | sort -u)\" = one").await;
    worker.signal(Signal::SIGTERM);
    assert!(worker.exit().await.success());
    until("it is unmounted", async || Command::new("umount").arg(&state).status().expect("umount runs").success()).await;
    scene.host.close(Vec::new()).await;
}
