//! What is in the slots, as the registry has it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sawmill::job::{JobState, Stage};
use sawmill::store::{SlotContent, WorkerState};
use serde_json::{Value, json};

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

/// A slot whose supervisor cannot be started takes no job after the one that meets that, and works again when it can.
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
    until("its job is given back", async || host.job(id).await.state == JobState::Queued).await;
    let waiting = host.job(id).await;
    assert_eq!((waiting.state, waiting.resets, waiting.attempts_used), (JobState::Queued, 0, 0), "it is not charged for that");
    fs::remove_file(&sup).expect("removed");
    host.succeeded(id).await;
    assert_eq!(host.attempts(id).await.len(), 2, "it came into the slot once while that was broken");
    assert_eq!(host.worker("a").await.state, WorkerState::Running);
    host.close(vec![worker]).await;
}

/// What nobody can move out of its place, root neither.
struct Immovable(PathBuf);

impl Immovable {
    fn in_slot(slot: &Path) -> Self {
        let dir = slot.join("left");
        fs::create_dir(&dir).expect("made");
        chattr("+i", &dir);
        Self(dir)
    }
}

impl Drop for Immovable {
    fn drop(&mut self) {
        chattr("-i", &self.0);
    }
}

fn chattr(change: &str, path: &Path) {
    assert!(Command::new("chattr").arg(change).arg(path).status().expect("chattr runs").success());
}

/// A slot that cannot be emptied refuses one job, at no charge, and no other; it is well again when it can be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_cannot_be_cleared_takes_no_jobs_until_it_can_be() {
    let mut host = Host::new(On::Sqlite, LEASE, 1).await;
    host.set("SAWMILL_WORKER__REPORT", "2s");
    host.set("SAWMILL_WORKER__RECONCILE", "1h");
    let remote = small_remote(host.root(), "remote.git");
    let worker = host.start("a").await;
    let well = host.sawmill_at("a", &["doctor"]);
    let slots_of = |doctor: &Value| doctor.as_array().expect("a list").iter().find(|one| one["check"] == "slots").cloned();
    assert_eq!(slots_of(&well).map(|one| one["state"].clone()), Some(json!("ready")), "{well}");
    let stuck = Immovable::in_slot(&host.state_dir("a").join("slots/0"));
    let enqueue = || host.enqueue(&json!({ "repo": remote, "changes": "none", "task": { "command": "true" } }));
    let (first, second) = (enqueue(), enqueue());
    until("the slot is broken", async || {
        let slots = host.worker("a").await.report.slots;
        matches!(&slots[0].content, SlotContent::Broken { reason, .. } if reason.starts_with("slot 0 cannot be cleared: "))
    })
    .await;
    let told = host.sawmill(&["job", "explain", &second.to_string()]);
    let broken = &told["workers"][0]["obstacles"][0]["broken"][0];
    assert!(broken["reason"].as_str().is_some_and(|why| why.contains("slots/0/left to the trash")), "{told}");
    let ill = host.sawmill_at("a", &["doctor"]);
    let found = slots_of(&ill).expect("it is listed");
    assert!(found["state"] == "failed" && found["seen"].as_str().is_some_and(|seen| seen.contains("slots/0/left")), "{ill}");
    for id in [first, second] {
        until("it waits", async || host.job(id).await.state == JobState::Queued).await;
        let job = host.job(id).await;
        assert_eq!((job.state, job.resets, job.attempts_used), (JobState::Queued, 0, 0), "{:?}", job.outcome);
    }

    drop(stuck);
    for id in [first, second] {
        host.succeeded(id).await;
    }
    let attempts = host.attempts(first).await.len() + host.attempts(second).await.len();
    assert_eq!(attempts, 3, "one was begun while the slot was broken");
    until("it is free", async || host.worker("a").await.free_slots() == 1).await;
    host.close(vec![worker]).await;
}
