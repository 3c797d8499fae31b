//! Stopping a job by request that runs in another process: for good, or to give it back.

use std::fs;
use std::time::{Duration, Instant, SystemTime};

use sawmill::job::{JobState, OutcomeClass};
use serde_json::json;
use sqlx::{Connection, Executor, PgConnection};

use super::{Held, LONG, Scene, each};
use crate::delivery::host::{Host, On, until};
use crate::delivery::processes::describe;
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
    let ready = host.mark("ready");
    let command =
        format!("echo half > work.txt; setsid sleep 1000 & (setsid sh -c 'sleep 1001' &) ; : > {}; sleep 1002", ready.here());
    let job = host.enqueue(&json!({ "repo": remote, "task": { "command": command } }));
    let worker = host.start("a").await;
    let mark = format!("SAWMILL_JOB={job}");
    until("the job runs", async || ready.made().is_some() && host.processes(&mark).len() >= 3).await;

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

/// As many as there are slots at once, and again, each at another moment of what a worker does now and then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_one_of_many_cancels_is_felt_within_two_seconds() {
    all_within_two_seconds(On::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_one_of_many_cancels_is_felt_within_two_seconds_on_postgres() {
    all_within_two_seconds(On::Postgres).await;
}

async fn all_within_two_seconds(on: On) {
    const SLOTS: u32 = 8;
    let host = Host::new(on, LONG, SLOTS).await;
    let remote = small_remote(host.root(), "remote.git");
    let worker = host.start("a").await;
    let mut felt = Vec::new();
    for round in 0..3 {
        let numbers = (round * SLOTS..(round + 1) * SLOTS).map(|number| felt_after(&host, &remote, Word::Sent, number));
        felt.extend(futures_util::future::join_all(numbers).await);
    }
    host.close(vec![worker]).await;
    assert!(felt.iter().all(|felt| *felt < Duration::from_secs(2)), "{felt:?}");
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_requeue_ends_the_attempt_at_no_charge_and_the_next_one_delivers() {
    given_back(On::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_requeue_ends_the_attempt_at_no_charge_and_the_next_one_delivers_on_postgres() {
    given_back(On::Postgres).await;
}

async fn given_back(on: On) {
    let host = Host::new(on, LONG, 2).await;
    let remote = small_remote(host.root(), "remote.git");
    let ready = host.mark("ready");
    let command = format!(
        "if [ \"$SAWMILL_ATTEMPT\" = 2 ]; then echo whole > work.txt; else echo half > work.txt; : > {}; sleep 1000; fi",
        ready.here()
    );
    let job = host.enqueue(&json!({ "repo": remote, "task": { "command": command } }));
    let worker = host.start("a").await;
    until("the job runs", async || ready.made().is_some()).await;
    host.sawmill(&["job", "requeue", &job.to_string(), "--reason", "that host is slow"]);

    let ended = host.succeeded(job).await;
    assert_eq!((ended.attempts_used, ended.resets), (1, 0), "only the delivery is charged");
    let attempts = host.attempts(job).await;
    let outcome = attempts[0].outcome.as_ref().expect("an outcome");
    assert_eq!((outcome.class, outcome.message.as_str()), (OutcomeClass::Released, "given back by request: that host is slow"));
    assert!(attempts[0].salvage.is_some(), "half a change is salvaged");
    assert_eq!((attempts.len(), host.completions(Some(job)).await.len()), (2, 1));
    host.close(vec![worker]).await;
}

/// How the worker may hear of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    /// As ever.
    Sent,
    /// It is written into the database by hand, and nobody is notified.
    Lost,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_that_nobody_is_notified_of_is_felt_within_one_renewal() {
    let host = Host::new(On::Postgres, LONG, 2).await;
    let remote = small_remote(host.root(), "remote.git");
    let worker = host.start("a").await;
    let took = felt_after(&host, &remote, Word::Lost, 0).await;
    assert!(took < LONG / 3, "{took:?}");
    host.close(vec![worker]).await;
}

/// Figures for a person to read: `cargo nextest run --run-ignored only -E 'test(how_soon_a_cancel)' --no-capture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn how_soon_a_cancel_is_felt_by_the_process_tree() {
    for (on, word) in [(On::Sqlite, Word::Sent), (On::Postgres, Word::Sent), (On::Postgres, Word::Lost)] {
        let host = Host::new(on, LONG, 2).await;
        let remote = small_remote(host.root(), "remote.git");
        let worker = host.start("a").await;
        let mut felt = Vec::new();
        for number in 0..40 {
            felt.push(felt_after(&host, &remote, word, number).await);
        }
        felt.sort_unstable();
        println!(
            "{on:?}, word {word:?}: p50 {:?}, p99 {:?} of {}",
            felt[felt.len() / 2],
            felt[felt.len() * 99 / 100],
            felt.len()
        );
        host.close(vec![worker]).await;
    }
}

/// The time from the request to TERM in the job's shell, which waits for nothing else.
async fn felt_after(host: &Host, remote: &std::path::Path, word: Word, number: u32) -> Duration {
    let (ready, felt) = (host.mark(&format!("ready-{number}")), host.mark(&format!("felt-{number}")));
    // It goes on until it is killed, so that there is time to look at what it made. A shell hears a signal at once while it waits for what runs
    // in the background, and eight of them that looked every few milliseconds were a load of their own.
    let command = format!("trap ': > {}' TERM; : > {}; while :; do sleep 1000 & wait $!; done", felt.here(), ready.here());
    let job = host.enqueue(&json!({ "repo": remote, "task": { "command": command } }));
    until("the job runs", async || ready.made().is_some()).await;
    // Out of step with whatever the worker does every second.
    let phase = Duration::from_millis(u64::from(number * 379 % 1000));
    drop(tokio::time::timeout(phase, std::future::pending::<()>()).await);
    let asked = SystemTime::now();
    match word {
        Word::Sent => drop(host.store.cancel(job, "").await.expect("asked")),
        Word::Lost => {
            let mut connection = PgConnection::connect(host.url()).await.expect("the server answers");
            let sql = "UPDATE jobs SET cancel_requested_at = 1, cancel_reason = '' WHERE state = 'running'";
            connection.execute(sql).await.expect("written");
        }
    }
    let mut when = None;
    until("the job feels it", async || {
        when = felt.made().and_then(|path| fs::metadata(path).ok()?.modified().ok());
        when.is_some()
    })
    .await;
    host.ended(job).await;
    when.expect("it was made").duration_since(asked).unwrap_or_default()
}
