//! A supervisor that is killed under its job.

use nix::sys::signal::{Signal, kill};
use sawmill::job::{OutcomeClass, Stream};
use serde_json::json;

use super::{LONG, assert_delivered_once, told};
use crate::delivery::host::{Host, Lodging, On, until};
use crate::delivery::remote::{refs, small_remote};

/// A container dies with its supervisor: that is the subject of `container::daemon`.
async fn host() -> Host {
    Host::new(On::Sqlite, LONG, 1).await.lodge(Lodging::OnTheHost).await
}

/// Infrastructure's fault is not the job's. Of the first attempt no process is left, also none that the supervisor never
/// had the time to write down, and its work is salvaged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_supervisor_that_is_killed_costs_a_reset_and_not_an_attempt() {
    let host = host().await;
    let remote = small_remote(host.root(), "remote.git");
    let command = "printf 'told %s\\n' \"$(tr -d '\\n' < \"$SAWMILL_SPEC\")\" >&2; echo work >> work.txt; \
        if [ $SAWMILL_ATTEMPT = 1 ]; then setsid sleep 1000 & (setsid sleep 1001 &); : > ../../../../../ready; sleep 1002; fi";
    let job = host.enqueue(&json!({ "repo": remote, "task": { "command": command } }));
    let worker = host.start("a").await;
    until("the job runs", async || host.root().join("ready").exists() && host.processes("SAWMILL_ATTEMPT=1").len() >= 4).await;
    let supervisors: Vec<_> = host.processes("__supervise");
    assert_eq!(supervisors.len(), 1);
    kill(supervisors[0], Signal::SIGKILL).expect("killed");

    let job = host.succeeded(job).await;
    assert_eq!(host.processes("SAWMILL_ATTEMPT=1"), [], "of the first attempt no process is left");
    assert_delivered_once(&host, &remote, &job, 2).await;
    assert_eq!((job.resets, job.attempts_used), (1, 1));
    let attempts = host.attempts(job.id).await;
    assert_eq!(attempts[0].outcome.as_ref().expect("it has ended").class, OutcomeClass::Infrastructure);
    let salvage = attempts[0].salvage.clone().expect("its work is salvaged").to_string();
    assert_eq!(refs(&remote, "refs/sawmill/salvage/")[0].1, salvage);
    assert_eq!(told(&host.log(job.id, 2, Stream::Stderr).await)["previous"]["salvage"], salvage);
    host.close(vec![worker]).await;
}

/// Also when daemon and supervisor are killed together, and the daemon comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_finds_its_supervisor_dead_ends_what_is_left_of_the_job() {
    let host = host().await;
    let remote = small_remote(host.root(), "remote.git");
    let command = "echo work >> work.txt; if [ $SAWMILL_ATTEMPT = 1 ]; then (setsid sleep 1001 &); : > ../../../../../ready; sleep 1002; fi";
    let job = host.enqueue(&json!({ "repo": remote, "task": { "command": command } }));
    let worker = host.start("a").await;
    until("the job runs", async || host.root().join("ready").exists() && host.processes("SAWMILL_ATTEMPT=1").len() >= 3).await;
    worker.kill();
    for supervisor in host.processes("__supervise") {
        kill(supervisor, Signal::SIGKILL).expect("killed");
    }
    let worker = host.start("a").await;
    let job = host.succeeded(job).await;
    assert_eq!(host.processes("SAWMILL_ATTEMPT=1"), []);
    assert_delivered_once(&host, &remote, &job, 2).await;
    assert_eq!(job.resets, 1);
    host.close(vec![worker]).await;
}
