//! Cancelling a job that runs in another process.

use std::time::{Duration, Instant};

use sawmill::job::{JobState, OutcomeClass};
use serde_json::json;

use super::{Held, LONG, Scene, each};
use crate::delivery::host::{Host, On, describe, until};
use crate::delivery::remote::{refs, small_remote};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_reaches_the_whole_tree_within_two_seconds() {
    whole_tree(On::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_reaches_the_whole_tree_within_two_seconds_on_postgres() {
    whole_tree(On::Postgres).await;
}

async fn whole_tree(on: On) {
    let host = Host::new(on, LONG, 2).await;
    let remote = small_remote(host.root(), "remote.git");
    let command = "echo half > work.txt; setsid sleep 1000 & (setsid sh -c 'sleep 1001' &) ; : > ../../../../ready; sleep 1002";
    let job = host.enqueue(&json!({ "repo": remote, "task": { "command": command } }));
    let worker = host.start("a").await;
    let mark = format!("SAWMILL_JOB={job}");
    until("the job runs", async || host.root().join("ready").exists() && host.processes(&mark).len() >= 4).await;

    let asked = Instant::now();
    host.sawmill(&["job", "cancel", &job.to_string(), "--reason", "no longer wanted"]);
    until("no process of the job is left", async || host.processes(&mark).is_empty()).await;
    let took = asked.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}; {:?}", describe(&host.processes(&mark)));

    let ended = host.ended(job).await;
    assert_eq!(ended.state, JobState::Cancelled);
    let outcome = ended.outcome.expect("an outcome");
    assert_eq!((outcome.class, outcome.message.as_str()), (OutcomeClass::Cancelled, "cancelled by request: no longer wanted"));
    assert!(host.completions(None).await.is_empty());
    assert_eq!(refs(&remote, "refs/heads/sawmill/"), []);
    assert_eq!(refs(&remote, "refs/sawmill/salvage/").len(), 1, "half a change is salvaged");
    host.close(vec![worker]).await;
}

each! { has_succeeded:
    a_cancel_that_comes_when_the_branch_was_pushed_comes_too_late(Sqlite, Complete)
    a_cancel_that_comes_when_the_branch_was_pushed_comes_too_late_on_postgres(Postgres, Complete)
}

/// The daemon that pushed was killed before it could say so, and the next one is told to cancel. A job that is cancelled
/// leaves no branch.
async fn has_succeeded(on: On, held: Held) {
    let scene = Scene::set(on, held, LONG).await;
    scene.kill_in_stage().await;
    scene.host.sawmill(&["job", "cancel", &scene.job.to_string(), "--reason", "no longer wanted"]);
    let worker = scene.host.start("a").await;
    scene.assert_delivered_once(1).await;
    scene.close(vec![worker]).await;
}

each! { ends_the_push:
    a_cancel_that_comes_in_a_push_lets_it_arrive(Sqlite, Publish)
    a_cancel_that_comes_in_a_push_lets_it_arrive_on_postgres(Postgres, Publish)
}

async fn ends_the_push(on: On, held: Held) {
    let scene = Scene::set(on, held, LONG).await;
    let worker = scene.host.start("a").await;
    scene.latch.reached().await;
    scene.latch.lift();
    scene.host.sawmill(&["job", "cancel", &scene.job.to_string(), "--reason", "no longer wanted"]);
    scene.latch.release().await;
    scene.assert_delivered_once(1).await;
    scene.close(vec![worker]).await;
}
