//! What a job in a container may write to the disk, and what happens when it wants more.

use std::fs;
use std::process::Command;

use nix::sys::signal::Signal;
use sawmill::job::{JobState, OutcomeClass, Stream};
use serde_json::json;

use super::beside::Beside;
use super::{LONG, image, until};
use crate::delivery::host::{Host, Lodging, On};
use crate::delivery::remote::small_remote;
use crate::git::snapshots::{Btrfs, subvolumes};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_fills_its_share_of_the_disk_is_ended_and_the_others_go_on() {
    let beside = Beside::with("SAWMILL_CONTAINER__DISK", "16 MiB").await;
    let (host, remote) = (&beside.host, &beside.remote);
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
    beside.goes_on().await;
    let next = host.enqueue(&json!({ "repo": remote, "task": { "command": "dd if=/dev/zero of=small bs=1M count=8" } }));
    host.succeeded(next).await;
    until("the slots are empty", async || {
        (0..2).all(|slot| {
            fs::read_dir(host.state_dir("a").join(format!("slots/{slot}/job"))).is_ok_and(|mut left| left.next().is_none())
        })
    })
    .await;
    beside.host.close(vec![beside.worker]).await;
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

/// What a walk by names does not meet so easily: a file below more directories than anybody makes, and files without a name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_are_deep_down_or_deleted_and_held_open_count() {
    let mut host = Host::new(On::Sqlite, LONG, 1).await.lodge(Lodging::InContainers).await;
    host.set("SAWMILL_CONTAINER__DISK", "16 MiB");
    let remote = small_remote(host.root(), "remote.git");
    let worker = host.start("a").await;
    let deep = "i=0; while [ $i -lt 300 ]; do mkdir d && cd d; i=$((i+1)); done; dd if=/dev/zero of=large bs=1M count=64";
    let held = "exec 3> gone; rm gone; dd if=/dev/zero bs=1M count=40 >&3; exec 4> ~/gone; rm ~/gone; dd if=/dev/zero bs=1M count=24 >&4";
    for fill in [deep, held] {
        let command = format!("trap '' TERM; {{ {fill}; }} 2>/dev/null; while true; do sleep 0.1; done");
        let job = host.enqueue(&json!({ "repo": remote, "task": { "command": command } }));
        let outcome = host.ended(job).await.outcome.expect("an outcome");
        assert_eq!(outcome.class, OutcomeClass::OutOfDisk, "{outcome:?}");
        assert!(outcome.message.starts_with("its files took "), "{}", outcome.message);
    }
    // What is deleted and closed is no more, nor is what the job has of its base.
    let freed = "dd if=/dev/zero of=a bs=1M count=12; rm a; exec 3< README.md; rm README.md; sleep 3; dd if=/dev/zero of=b bs=1M count=12; sleep 3";
    let next = host.enqueue(&json!({ "repo": remote, "task": { "command": freed } }));
    host.succeeded(next).await;
    host.close(vec![worker]).await;
}

/// On Btrfs a job can make subvolumes of its own, whose files have the same numbers as those of others, and which it can make read-only.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_job_has_in_subvolumes_of_its_own_counts_and_goes_with_it() {
    let mut host = Host::new(On::Sqlite, LONG, 1).await.lodge(Lodging::InContainers).await;
    let programs = [image::TOOLS, &["/usr/bin/btrfs"]].concat();
    host.set("SAWMILL_CONTAINER__IMAGE", &image::image_at(&image::socket(), "btrfs", &programs).await);
    host.set("SAWMILL_CONTAINER__DISK", "16 MiB");
    host.set("SAWMILL_WORKSPACE__STRATEGY", "snapshot");
    let (disk, state) = (Btrfs::make(), host.state_dir("a"));
    fs::create_dir_all(&state).expect("made");
    disk.mount(&state);
    let remote = small_remote(host.root(), "remote.git");
    let mut worker = host.start("a").await;
    // Two files of one number, each with two names. The names count once, and the files count both.
    let fill = |size: u32| {
        format!(
            "set -e; for at in own ~/own; do btrfs subvolume create $at; dd if=/dev/zero of=$at/file bs=1M count={size}; \
             ln $at/file $at/again; btrfs property set -t subvol $at ro true; done; test $(stat -c %i own/file) = $(stat -c %i ~/own/file)"
        )
    };
    let fits = host.enqueue(&json!({ "repo": remote, "task": { "command": fill(6) } }));
    host.succeeded(fits).await;
    let command = format!("{}; while true; do sleep 0.1; done", fill(10));
    let job = host.enqueue(&json!({ "repo": remote, "task": { "command": command } }));
    let outcome = host.ended(job).await.outcome.expect("an outcome");
    assert_eq!(outcome.class, OutcomeClass::OutOfDisk, "{outcome:?}");
    assert!(outcome.message.starts_with("its files took 20."), "{}", outcome.message);
    // The base is.
    until("no subvolume of a job is left", async || subvolumes(&state) == 1).await;
    worker.signal(Signal::SIGTERM);
    assert!(worker.exit().await.success());
    until("it is unmounted", async || Command::new("umount").arg(&state).status().expect("umount runs").success()).await;
    host.close(Vec::new()).await;
}
