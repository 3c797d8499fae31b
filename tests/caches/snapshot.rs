//! Caches where worktrees are subvolumes, into which nothing can be moved and out of which nothing can.

use std::process::Command;

use nix::sys::signal::Signal;
use sawmill::git::Strategy;
use serde_json::json;

use super::Scene;
use crate::delivery::host::{Lodging, until};
use crate::git::snapshots::Btrfs;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_in_a_snapshot_is_found_saved_and_in_no_commit() {
    let scene = Scene::set(Strategy::Snapshot, Lodging::OnTheHost, r#"["target", "web/node_modules", "~/.tool"]"#).await;
    let (disk, state) = (Btrfs::make(), scene.state());
    std::fs::create_dir_all(&state).expect("made");
    disk.mount(&state);
    let mut worker = scene.host.start("a").await;
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
    worker.signal(Signal::SIGTERM);
    assert!(worker.exit().await.success());
    until("it is unmounted", async || Command::new("umount").arg(&state).status().expect("umount runs").success()).await;
    scene.host.close(Vec::new()).await;
}
