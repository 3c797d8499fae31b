//! A host that is short of something: no claims, the reason for everybody to see, and claims again once there is enough.

use nix::sys::signal::Signal;
use sawmill::job::JobState;
use sawmill::store::WorkerState;
use serde_json::json;

use super::LEASE;
use crate::delivery::daemon::Daemon;
use crate::delivery::host::{Host, Lodging, On, until};
use crate::delivery::remote::small_remote;
use crate::trouble::disk::{Small, noise};

/// On these disks there is no room for the program that containers are given.
async fn host() -> Host {
    Host::new(On::Sqlite, LEASE, 1).await.lodge(Lodging::OnTheHost).await
}

/// Ends the worker before its disk goes, and the disk before its directory does.
async fn end(host: Host, mut worker: Daemon, small: Small) {
    worker.signal(Signal::SIGTERM);
    assert!(worker.exit().await.success());
    drop(small);
    host.close(Vec::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_stops_claims_and_room_lets_them_go_on() {
    let mut host = host().await;
    host.set("SAWMILL_WORKER__ADMISSION__DISK_FREE", "4 MiB");
    host.set("SAWMILL_WORKER__ADMISSION__DISK_JOB", "0 B");
    host.set("SAWMILL_WORKER__ADMISSION__INODES_FREE", "10");
    host.set("SAWMILL_WORKER__ADMISSION__EVERY", "100ms");
    let remote = small_remote(host.root(), "remote.git");
    let small = Small::mount(&host.state_dir("a"), 8);
    let filler = host.state_dir("a").join("filler");
    std::fs::write(&filler, noise(5 << 20)).expect("there is room");
    let job = host.enqueue(&json!({ "repo": remote, "changes": "none", "task": { "command": "true" } }));
    let worker = host.start("a").await;
    until("it is paused", async || host.worker("a").await.state == WorkerState::Paused).await;
    let shortage = host.worker("a").await.report.pressure.shortage.expect("a reason");
    assert_eq!(shortage.reason, "less than 4.0 MiB is free on the disk of the state directory");
    assert_eq!(host.job(job).await.state, JobState::Queued);
    assert_eq!(worker.log().matches("no more jobs are claimed").count(), 1, "said once:\n{}", worker.log());

    std::fs::remove_file(&filler).expect("removed");
    host.succeeded(job).await;
    until("it runs", async || host.worker("a").await.state == WorkerState::Running).await;
    end(host, worker, small).await;
}

/// What attempts have left is deleted before a disk counts as short.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trash_is_emptied_before_a_disk_is_called_short() {
    let mut host = host().await;
    host.set("SAWMILL_WORKER__ADMISSION__DISK_FREE", "4 MiB");
    host.set("SAWMILL_WORKER__ADMISSION__DISK_JOB", "0 B");
    host.set("SAWMILL_WORKER__ADMISSION__INODES_FREE", "10");
    let remote = small_remote(host.root(), "remote.git");
    let small = Small::mount(&host.state_dir("a"), 8);
    std::fs::create_dir_all(host.state_dir("a").join("trash")).expect("a directory");
    std::fs::write(host.state_dir("a").join("trash/old"), noise(6 << 20)).expect("there is room");
    let job = host.enqueue(&json!({ "repo": remote, "changes": "none", "task": { "command": "true" } }));
    let worker = host.start("a").await;
    host.succeeded(job).await;
    assert!(!worker.log().contains("no more jobs are claimed"), "{}", worker.log());
    end(host, worker, small).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_without_enough_memory_claims_nothing_and_says_so() {
    let mut host = Host::new(On::Postgres, LEASE, 1).await;
    host.set("SAWMILL_WORKER__ADMISSION__MEMORY_AVAILABLE", "1 PiB");
    let remote = small_remote(host.root(), "remote.git");
    let job = host.enqueue(&json!({ "repo": remote, "changes": "none", "task": { "command": "true" } }));
    let worker = host.start("a").await;
    until("it is paused", async || host.worker("a").await.state == WorkerState::Paused).await;
    let shown = host.sawmill(&["workers", "show", "a"]);
    assert_eq!(shown["pressure"]["shortage"]["reason"], json!("less than 1.0 PiB of memory is available"));
    assert!(shown["pressure"]["memory_available_bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{shown}");
    let told = host.sawmill(&["job", "explain", &job.to_string()]);
    let obstacle = &told["workers"][0]["obstacles"][0];
    assert_eq!((&obstacle["kind"], &obstacle["of"]), (&json!("short"), &json!(["memory"])), "{told}");
    assert!(told["answer"].as_str().is_some_and(|answer| answer.contains("less than 1.0 PiB of memory")), "{told}");
    assert_eq!(host.job(job).await.state, JobState::Queued);
    assert!(host.attempts(job).await.is_empty());
    host.close(vec![worker]).await;
}
