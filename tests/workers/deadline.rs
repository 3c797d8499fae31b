//! Deadlines that are moved while the job runs: the daemon hears, and its supervisor, which holds the clock.

use std::time::{Duration, Instant};

use sawmill::job::{JobState, OutcomeClass};
use serde_json::{Value, json};

use super::{LEASE, on_both};
use crate::delivery::host::{Host, On, until};
use crate::delivery::remote::small_remote;

on_both! {
    a_job_that_is_given_more_time_succeeds
    a_job_whose_time_is_cut_ends_as_a_timeout
    time_that_is_given_while_no_daemon_is_there_counts_all_the_same
}

/// A job that says when it runs, and then takes so many seconds.
fn job(host: &Host, timeout: &str, seconds: u32) -> Value {
    let command = format!(": > {}; sleep {seconds}", host.mark("ready").here());
    json!({
        "repo": small_remote(host.root(), "remote.git"),
        "changes": "none",
        "timeout": timeout,
        "task": { "command": command },
    })
}

async fn runs(host: &Host) {
    until("the job runs", async || host.mark("ready").made().is_some()).await;
}

async fn a_job_that_is_given_more_time_succeeds(on: On) {
    let host = Host::new(on, LEASE, 1).await;
    let id = host.enqueue(&job(&host, "15s", 17));
    let worker = host.start("a").await;
    runs(&host).await;
    let moved = host.sawmill(&["job", "deadline", &id.to_string(), "--in", "1m"]);
    assert_eq!(moved["attempt"], json!(1));
    let ended = host.succeeded(id).await;
    let took = ended.finished_at.expect("ended").since(ended.started_at.expect("begun"));
    assert!(took > Duration::from_secs(15), "it would have ended anyway: {took:?}");
    let attempt = host.attempts(id).await.remove(0);
    assert_eq!(attempt.deadline_at.map(|at| json!(at)), Some(moved["deadline_at"].clone()));
    host.close(vec![worker]).await;
}

async fn a_job_whose_time_is_cut_ends_as_a_timeout(on: On) {
    let host = Host::new(on, LEASE, 1).await;
    let id = host.enqueue(&job(&host, "10m", 600));
    let worker = host.start("a").await;
    runs(&host).await;
    let asked = Instant::now();
    host.sawmill(&["job", "deadline", &id.to_string(), "--in", "1s"]);
    let ended = host.ended(id).await;
    let took = asked.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}\n{}", host.logs());
    let outcome = ended.outcome.expect("an outcome");
    assert_eq!((ended.state, outcome.class), (JobState::Failed, OutcomeClass::Timeout), "{outcome}");
    let log = host.log(id, 1, sawmill::job::Stream::System).await;
    assert!(log.contains("the deadline was moved to "), "{log}");
    host.close(vec![worker]).await;
}

/// The supervisor outlives the daemon with the old deadline; the next daemon has to tell it of the new one.
async fn time_that_is_given_while_no_daemon_is_there_counts_all_the_same(on: On) {
    let host = Host::new(on, LEASE, 1).await;
    let id = host.enqueue(&job(&host, "20s", 22));
    let worker = host.start("a").await;
    runs(&host).await;
    worker.kill();
    host.sawmill(&["job", "deadline", &id.to_string(), "--in", "1m"]);
    let worker = host.start("a").await;
    let ended = host.succeeded(id).await;
    assert_eq!(ended.attempt.map(|attempt| attempt.0), Some(1), "it was taken up");
    host.close(vec![worker]).await;
}
