//! `sawmill reconcile` and `sawmill gc` as an ordinary user, whose mounts went with the namespace of a daemon that was killed.

use std::fs;
use std::process::Command;

use serde_json::json;

use super::Scene;
use super::life::SHORT;
use crate::delivery::host::until;
use crate::janitor::{about, answer_at, reconcile_at, text, with_fate};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_worker_left_is_listed_and_removed_by_its_user() {
    let scene = Scene::set(SHORT).await;
    let (latch, state) = (scene.latch(), scene.host.state_dir("a"));
    let job = scene.enqueue(&format!("echo half > half.txt; {}", latch.here()), &json!({}));
    scene.abandon(&latch).await;
    let look = || reconcile_at(&scene.host, &scene.seat, &[]);
    until("the claim has run out", async || about(&look(), "slot", "slots/0")["fate"] == "goes").await;
    let before = look();
    let why = text(about(&before, "slot", "slots/0"), "why");
    assert!(why.contains("has ended"), "{why}");
    let applied = reconcile_at(&scene.host, &scene.seat, &["--apply"]);
    assert_eq!(with_fate(&applied, "removed"), with_fate(&before, "goes"), "{applied:#?}");
    let after = reconcile_at(&scene.host, &scene.seat, &["--apply"]);
    assert_eq!(with_fate(&after, "stays").len(), after.len(), "{after:#?}");

    let gone = answer_at(&scene.host, &scene.seat, &["gc"]);
    let findings = gone["findings"].as_array().expect("a list");
    assert_eq!(with_fate(findings, "goes"), [], "{gone:#}");
    assert_eq!(fs::read_dir(state.join("trash")).expect("the trash").count(), 0, "{gone:#}");
    let left = Command::new("find").arg(&state).args(["-name", "half.txt"]).output().expect("find runs");
    assert_eq!(String::from_utf8_lossy(&left.stdout), "");
    let worker = scene.start().await;
    scene.host.succeeded(job).await;
    scene.host.close(vec![worker]).await;
}
