//! Draining: who is told takes no more, finishes and leaves; who is started under a drain waits to be resumed.

use std::time::{Duration, Instant};

use sawmill::job::JobState;
use sawmill::store::{WorkerPhase, WorkerState};
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use super::{LEASE, on_both};
use crate::delivery::host::{Host, On, until, until_within};
use crate::delivery::remote::small_remote;

on_both! {
    a_drained_worker_finishes_leaves_and_takes_nothing_when_it_is_started_again
    an_idle_worker_leaves_within_two_seconds
    a_worker_that_is_resumed_in_time_goes_on
    a_worker_that_crashed_in_its_drain_finishes_what_it_had_and_takes_nothing
}

async fn a_drained_worker_finishes_leaves_and_takes_nothing_when_it_is_started_again(on: On) {
    let host = Host::new(on, LEASE, 2).await;
    let remote = small_remote(host.root(), "remote.git");
    let latch = host.job_latch("job");
    latch.close();
    let first = host.enqueue(&json!({ "repo": remote, "changes": "none", "task": { "command": latch.here() } }));
    let mut worker = host.start("a").await;
    latch.reached().await;
    let answer = host.sawmill(&["workers", "drain", "a", "--reason", "new kernel"]);
    assert_eq!(
        (&answer["state"], &answer["jobs"], &answer["drain"]["reason"]),
        (&json!("draining"), &json!(1), &json!("new kernel"))
    );
    until("the worker has heard", async || host.worker("a").await.report.phase == WorkerPhase::Draining).await;

    // From here on it claims nothing: one slot is free, and one job waits.
    let second = host.enqueue(&json!({ "repo": remote, "changes": "none", "task": { "command": "true" } }));
    latch.lift();
    latch.release().await;
    host.succeeded(first).await;
    let status = worker.exit().await;
    assert!(status.success(), "{status}\n{}", host.logs());
    assert_eq!(host.worker("a").await.state, WorkerState::Stopped);
    assert_eq!(host.job(second).await.state, JobState::Queued);

    // As systemd would.
    let worker = host.start("a").await;
    until("it says that it is drained", async || host.worker("a").await.is_drained()).await;
    until("it rests", async || host.worker("a").await.report.phase == WorkerPhase::Draining).await;
    assert_eq!(host.job(second).await.state, JobState::Queued);
    assert_eq!(host.sawmill(&["workers", "drain", "a", "--wait"])["jobs"], json!(0), "nothing is left to wait for");
    host.sawmill(&["workers", "resume", "a"]);
    host.succeeded(second).await;
    host.close(vec![worker]).await;
}

async fn an_idle_worker_leaves_within_two_seconds(on: On) {
    let host = Host::new(on, LEASE, 2).await;
    let mut worker = host.start("a").await;
    let asked = Instant::now();
    host.sawmill(&["workers", "drain", "a"]);
    until("it rests", async || host.worker("a").await.report.phase != WorkerPhase::Running).await;
    let took = asked.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}\n{}", host.logs());
    assert!(worker.exit().await.success());
    host.close(Vec::new()).await;
}

async fn a_worker_that_is_resumed_in_time_goes_on(on: On) {
    let host = Host::new(on, LEASE, 2).await;
    let remote = small_remote(host.root(), "remote.git");
    let latch = host.job_latch("job");
    latch.close();
    let first = host.enqueue(&json!({ "repo": remote, "changes": "none", "task": { "command": latch.here() } }));
    let worker = host.start("a").await;
    latch.reached().await;
    host.sawmill(&["workers", "drain", "a"]);
    until("the worker has heard", async || host.worker("a").await.report.phase == WorkerPhase::Draining).await;
    let second = host.enqueue(&json!({ "repo": remote, "changes": "none", "task": { "command": "true" } }));
    host.sawmill(&["workers", "resume", "a"]);
    host.succeeded(second).await;
    assert_eq!(host.worker("a").await.state, WorkerState::Running);
    latch.lift();
    latch.release().await;
    host.succeeded(first).await;
    host.close(vec![worker]).await;
}

async fn a_worker_that_crashed_in_its_drain_finishes_what_it_had_and_takes_nothing(on: On) {
    let host = Host::new(on, LEASE, 2).await;
    let remote = small_remote(host.root(), "remote.git");
    let latch = host.job_latch("job");
    latch.close();
    let first = host.enqueue(&json!({ "repo": remote, "changes": "none", "task": { "command": latch.here() } }));
    let worker = host.start("a").await;
    latch.reached().await;
    worker.kill();
    host.sawmill(&["workers", "drain", "a"]);
    let second = host.enqueue(&json!({ "repo": remote, "changes": "none", "task": { "command": "true" } }));
    let worker = host.start("a").await;
    latch.lift();
    latch.release().await;
    assert_eq!(host.succeeded(first).await.attempt.map(|attempt| attempt.0), Some(1));
    until("it rests without a job", async || {
        let worker = host.worker("a").await;
        worker.is_drained() && worker.report.phase == WorkerPhase::Draining
    })
    .await;
    assert_eq!(host.job(second).await.state, JobState::Queued);
    host.sawmill(&["workers", "resume", "a"]);
    host.succeeded(second).await;
    host.close(vec![worker]).await;
}

/// Nobody tells of what is written into the table by hand.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_hints_an_idle_worker_hears_with_its_next_report() {
    let mut host = Host::new(On::Postgres, LEASE, 1).await;
    host.set("SAWMILL_WORKER__REPORT", "1s");
    let mut worker = host.start("a").await;
    let mut connection = PgConnection::connect(host.url()).await.expect("the server answers");
    let sql = "UPDATE workers SET drain_asked_at = 1, drain_asked_by = 'by hand', drain_reason = ''";
    connection.execute(AssertSqlSafe(sql)).await.expect("written");
    until_within(Duration::from_secs(5), "the worker leaves", async || host.worker("a").await.state == WorkerState::Stopped)
        .await;
    assert!(worker.exit().await.success());
    host.close(Vec::new()).await;
}

/// The leases are long: with a job to renew it hears by looking once a second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_hints_a_busy_worker_hears_while_its_job_runs() {
    let host = Host::new(On::Postgres, LEASE, 1).await;
    let remote = small_remote(host.root(), "remote.git");
    let latch = host.job_latch("job");
    latch.close();
    let job = host.enqueue(&json!({ "repo": remote, "changes": "none", "task": { "command": latch.here() } }));
    let mut worker = host.start("a").await;
    latch.reached().await;
    let mut connection = PgConnection::connect(host.url()).await.expect("the server answers");
    let sql = "UPDATE workers SET drain_asked_at = 1, drain_asked_by = 'by hand', drain_reason = ''";
    connection.execute(AssertSqlSafe(sql)).await.expect("written");
    until_within(Duration::from_secs(5), "the worker has heard", async || {
        host.worker("a").await.report.phase == WorkerPhase::Draining
    })
    .await;
    latch.lift();
    latch.release().await;
    host.succeeded(job).await;
    assert!(worker.exit().await.success());
    host.close(Vec::new()).await;
}
