//! What a job in a container may write to the disk, and what happens when it wants more.

use std::fs;

use sawmill::job::{JobState, OutcomeClass, Stream};
use serde_json::json;

use super::{LONG, until};
use crate::delivery::host::{Host, Lodging, On};
use crate::delivery::remote::small_remote;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_fills_its_share_of_the_disk_is_ended_and_the_others_go_on() {
    let mut host = Host::new(On::Sqlite, LONG, 2).await.lodge(Lodging::InContainers).await;
    host.set("SAWMILL_CONTAINER__DISK", "16 MiB");
    let remote = small_remote(host.root(), "remote.git");
    let latch = host.job_latch("other");
    latch.close();
    let worker = host.start("a").await;
    let other = host.enqueue(&json!({ "repo": remote, "task": { "command": format!("{}; echo more > more", latch.here()) } }));
    latch.reached().await;
    // In small files and in a large one, in the worktree and beside it; TERM is ignored, and the filling goes on.
    for fill in
        ["dd if=/dev/zero of=large bs=1M count=64", "for i in $(seq 640); do dd if=/dev/zero of=$HOME/$i bs=64k count=1; done"]
    {
        let command = format!("trap '' TERM; {fill} 2>/dev/null; while true; do sleep 0.1; echo more >> more; done");
        let job = host.enqueue(&json!({ "repo": remote, "task": { "command": command } }));
        let ended = host.ended(job).await;
        let outcome = ended.outcome.expect("an outcome");
        assert_eq!((ended.state, outcome.class), (JobState::Failed, OutcomeClass::OutOfDisk), "{outcome:?}");
        assert!(outcome.message.ends_with(" on the disk, which is more than container.disk, 16.0 MiB"), "{}", outcome.message);
        let attempt = host.attempts(job).await.remove(0);
        assert_eq!(attempt.salvage, None);
        let said = host.log(job, 1, Stream::System).await;
        assert!(said.contains("what it left is not salvaged: it is more than a job may have"), "{said}");
    }
    latch.release().await;
    host.succeeded(other).await;
    let next = host.enqueue(&json!({ "repo": remote, "task": { "command": "dd if=/dev/zero of=small bs=1M count=8" } }));
    host.succeeded(next).await;
    until("the slots are empty", async || {
        (0..2).all(|slot| {
            fs::read_dir(host.state_dir("a").join(format!("slots/{slot}/job"))).is_ok_and(|mut left| left.next().is_none())
        })
    })
    .await;
    host.close(vec![worker]).await;
}

/// Ten million files would be as good as one without end: what bounds them is looked at, and the disk has some left for others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_makes_small_files_without_end_is_ended_at_its_share_of_them() {
    let mut host = Host::new(On::Sqlite, LONG, 1).await.lodge(Lodging::InContainers).await;
    host.set("SAWMILL_CONTAINER__FILES", "20000");
    let remote = small_remote(host.root(), "remote.git");
    let worker = host.start("a").await;
    // They are empty, so that none of them takes room; each directory has few, so that none is slow.
    let command = "trap '' TERM; d=0; while true; do d=$((d+1)); mkdir $d; for i in $(seq 500); do : > $d/$i; done; done";
    let job = host.enqueue(&json!({ "repo": remote, "task": { "command": command } }));
    let ended = host.ended(job).await;
    let outcome = ended.outcome.expect("an outcome");
    assert_eq!((ended.state, outcome.class), (JobState::Failed, OutcomeClass::OutOfDisk), "{outcome:?}");
    let counted = outcome.message.strip_prefix("it had ").and_then(|rest| rest.split_once(' ')).expect("a number");
    assert_eq!(counted.1, "files and directories, which is more than container.files, 20000");
    let counted: u64 = counted.0.parse().expect("a number");
    assert!((20_001..2_000_000).contains(&counted), "{counted}");
    let said = host.log(job, 1, Stream::System).await;
    assert!(said.contains("what it left is not salvaged: it is more than a job may have"), "{said}");
    let fewer = "for i in $(seq 1000); do : > $i; done";
    let next = host.enqueue(&json!({ "repo": remote, "task": { "command": fewer } }));
    host.succeeded(next).await;
    host.close(vec![worker]).await;
}
