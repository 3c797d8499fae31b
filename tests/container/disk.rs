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
        assert!(said.contains("what it left is not salvaged"), "{said}");
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
