//! Where there is no namespace to be had, or none is wanted, the worker says why and does without.

use std::fs;
use std::time::Duration;

use sawmill::job::Stream;
use serde_json::{Value, json};

use super::Scene;
use crate::delivery::daemon::Seat;
use crate::delivery::host::until;

const LEASE: Duration = Duration::from_secs(30);

/// Begins the program with another root than its mounts have: there the kernel lets nobody make a namespace of users.
const REFUSED: &str = "unshare --mount sh -c 'mkdir -p other && mount --rbind / other && exec chroot other \"$@\"' sh";

/// What `sawmill doctor` says of worktrees.
fn worktrees(scene: &Scene) -> Value {
    let output = scene.host.command(&scene.seat, &["doctor", "--json"]).output().expect("the program runs");
    let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let found = found.as_array().expect("a list").iter().find(|finding| finding["check"] == "worktrees");
    found.expect("a finding").clone()
}

/// The worktree that waits for the slot's next job, as the one before left it.
async fn take_away_recycled(scene: &Scene) {
    let waits = scene.host.state_dir("a").join("slots/0/recycled");
    // The slot is cleared when the job's end is on record.
    until("a worktree waits", async || waits.join("tree/work.txt").exists()).await;
    fs::remove_dir_all(waits).expect("root may");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn doctor_says_that_a_namespace_is_used_and_what_does_not_work_there() {
    let scene = Scene::set(LEASE).await;
    let found = worktrees(&scene);
    assert_eq!(found["state"], "ready", "{found}");
    let seen = found["seen"].as_str().expect("text");
    assert!(seen.starts_with("by overlay: ") && seen.contains("in a namespace of this worker's own"), "{seen}");
    assert!(seen.ends_with("; sudo and its like do not work in jobs on the host"), "{seen}");
    scene.host.close(Vec::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_no_namespace_may_be_made_worktrees_are_recycled_or_the_worker_does_not_start() {
    let mut scene = Scene::begun_by(LEASE, REFUSED).await;
    scene.host.set("SAWMILL_WORKSPACE__STRATEGY", "auto");
    let why = "this user may make no namespace: see kernel.unprivileged_userns_clone, and what confines this process";
    let both = format!("no overlays: {why}; no snapshots: the state directory is not on Btrfs");
    let found = worktrees(&scene);
    assert_eq!((&found["state"], &found["seen"]), (&json!("warning"), &json!(format!("by recycled: {both}"))));
    let job = scene.enqueue("echo work > work.txt; ! grep \" $PWD \" /proc/self/mountinfo", &json!({}));
    let worker = scene.host.start_at(&scene.seat).await;
    assert!(worker.log().contains(&format!("worktrees are made by recycled: {both}")), "{}", worker.log());
    scene.host.succeeded(job).await;

    scene.host.set("SAWMILL_WORKSPACE__STRATEGY", "overlay");
    let other = Seat { worker: "b".to_owned(), ..scene.seat.clone() };
    let mut refused = scene.host.spawn_at(&other, &["worker"]);
    assert!(!refused.exit().await.success());
    assert!(refused.log().contains(&format!("cannot make worktrees by overlay: {why}")), "{}", refused.log());
    take_away_recycled(&scene).await;
    scene.host.close(vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_is_where_the_supervisors_of_its_jobs_are() {
    let mut scene = Scene::set(LEASE).await;
    scene.host.set("SAWMILL_WORKSPACE__STRATEGY", "checkout");
    let latch = scene.latch();
    let job = scene.enqueue(&format!("echo work > work.txt; {}", latch.here()), &json!({}));
    let worker = scene.host.start_at(&scene.seat).await;
    latch.reached().await;
    latch.lift();
    worker.kill();
    // The job's supervisor is outside, and would not see what is mounted in a namespace.
    scene.host.set("SAWMILL_WORKSPACE__STRATEGY", "auto");
    let mut worker = scene.host.start_at(&scene.seat).await;
    assert!(worker.log().contains("was started without a namespace of its own"), "{}", worker.log());
    latch.release().await;
    scene.host.succeeded(job).await;
    worker.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(worker.exit().await.success());
    let worker = scene.start().await;
    scene.host.close(vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_in_a_container_has_a_recycled_worktree_because_the_engine_sees_no_mounts() {
    let scene = Scene::in_containers(LEASE).await;
    let gates = json!({ "gates": [{ "name": "unit", "command": "test -s work.txt && test ! -e docs && test -f README.md" }] });
    let job = scene.enqueue("test -f src/lib.rs && echo work > work.txt && rm -r docs", &gates);
    let worker = scene.start().await;
    scene.host.succeeded(job).await;
    let said = scene.host.log(job, 1, Stream::System).await;
    let why = "the worktree is recycled, and no overlay: others do not see what is mounted in a namespace of this worker's own";
    assert!(said.contains(why) && said.contains("in container "), "{said}");
    take_away_recycled(&scene).await;
    scene.host.close(vec![worker]).await;
}
