//! What is in the slots, as the registry has it.

use std::fs;

use sawmill::job::{JobState, Stage};
use sawmill::store::{SlotContent, WorkerState};
use serde_json::json;

use super::{LEASE, on_both};
use crate::delivery::host::{Host, On, until};
use crate::delivery::remote::small_remote;

on_both! {
    a_slot_shows_the_job_in_it_with_its_stage
}

async fn a_slot_shows_the_job_in_it_with_its_stage(on: On) {
    let mut host = Host::new(on, LEASE, 2).await;
    host.set("SAWMILL_WORKER__LABELS", "[\"linux\", \"gpu=a100\", \"linux\"]");
    host.set("SAWMILL_BACKENDS__SHELL__CAPABILITIES", "[\"posix\"]");
    let remote = small_remote(host.root(), "remote.git");
    let latch = host.job_latch("job");
    latch.close();
    let id = host.enqueue(&json!({ "repo": remote, "changes": "none", "task": { "command": latch.here() } }));
    let worker = host.start("a").await;
    latch.reached().await;
    let in_stage = |content: &SlotContent| matches!(content, SlotContent::Busy { job, attempt, stage: Some(Stage::Execute), .. } if *job == id && attempt.0 == 1);
    until("the slot is shown", async || host.worker("a").await.report.slots.iter().any(|slot| in_stage(&slot.content))).await;
    let found = host.worker("a").await;
    assert_eq!((found.report.slots.len(), found.free_slots(), found.jobs), (2, 1, 1));
    let shown = host.sawmill(&["workers", "show", "a"]);
    assert_eq!(
        (&shown["labels"], &shown["backends"]),
        (&json!(["gpu=a100", "linux"]), &json!([{"name": "shell", "capabilities": ["posix"], "credential": "shell"}]))
    );
    latch.lift();
    latch.release().await;
    host.succeeded(id).await;
    until("the slot is free again", async || host.worker("a").await.free_slots() == 2).await;
    host.close(vec![worker]).await;
}

/// A slot whose supervisor cannot be started takes one job down and no other, and works again when it can.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_slot_takes_no_jobs_until_it_is_mended() {
    let host = Host::new(On::Sqlite, LEASE, 1).await;
    let remote = small_remote(host.root(), "remote.git");
    let worker = host.start("a").await;
    let sup = host.state_dir("a").join("slots/0/sup");
    for pid in host.processes("__supervise") {
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("it is there");
    }
    until("the supervisor is gone", async || host.processes("__supervise").is_empty()).await;
    fs::rename(&sup, host.root().join("aside")).expect("moved");
    fs::write(&sup, "in the way").expect("written");
    let id = host.enqueue(&json!({ "repo": remote, "changes": "none", "task": { "command": "true" } }));
    until("the slot is broken", async || {
        let slots = host.worker("a").await.report.slots;
        matches!(&slots[0].content, SlotContent::Broken { reason, .. } if reason.starts_with("slot 0 has no supervisor: "))
    })
    .await;
    let waiting = host.job(id).await;
    assert_eq!((waiting.state, waiting.resets), (JobState::Queued, 1), "one attempt was spent on it");
    fs::remove_file(&sup).expect("removed");
    let ended = host.succeeded(id).await;
    assert_eq!(ended.resets, 1, "and no more");
    assert_eq!(host.worker("a").await.state, WorkerState::Running);
    host.close(vec![worker]).await;
}
