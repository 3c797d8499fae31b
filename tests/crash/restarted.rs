//! A worker that is killed and started again at once takes its jobs up where they are.

use sawmill::job::{LogVerdict, Stream};
use serde_json::json;

use super::{Held, LONG, Scene, assert_delivered_once, each};
use crate::delivery::host::{Host, On, until};
use crate::delivery::remote::small_remote;

each! { is_taken_up:
    in_prepare(Sqlite, Prepare)
    in_execute(Sqlite, Execute)
    in_commit(Sqlite, Commit)
    in_judge(Sqlite, Judge)
    in_publish(Sqlite, Publish)
    in_complete(Sqlite, Complete)
    in_prepare_on_postgres(Postgres, Prepare)
    in_execute_on_postgres(Postgres, Execute)
    in_commit_on_postgres(Postgres, Commit)
    in_judge_on_postgres(Postgres, Judge)
    in_publish_on_postgres(Postgres, Publish)
    in_complete_on_postgres(Postgres, Complete)
}

async fn is_taken_up(on: On, held: Held) {
    let scene = Scene::set(on, held, LONG).await;
    let worker = scene.assert_taken_up(held).await;
    until("it is known to be delivered", async || scene.pushes("a").is_empty()).await;
    scene.close(vec![worker]).await;
}

/// The job goes on while no daemon is there, and what it prints then is in its log with the rest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_job_prints_without_a_daemon_is_in_its_log() {
    let host = Host::new(On::Sqlite, LONG, 1).await;
    let remote = small_remote(host.root(), "remote.git");
    let (first, second) = (host.job_latch("first"), host.job_latch("second"));
    first.close();
    second.close();
    let numbers = |from: u32, to: u32| (from..=to).map(|number| format!("{number}\n")).collect::<String>();
    let job = host.enqueue(&json!({
        "repo": remote,
        "task": { "command": format!(
            "echo work > work.txt; seq 1 5000; {}; seq 5001 20000; {}; seq 20001 25000", first.here(), second.here()
        ) },
    }));
    let worker = host.start("a").await;
    first.reached().await;
    until("some of the log is shipped", async || host.attempts(job).await[0].log_bytes > 1000).await;
    worker.kill();
    first.release().await;
    second.reached().await;
    let worker = host.start("a").await;
    second.release().await;
    let job = host.succeeded(job).await;
    assert_delivered_once(&host, &remote, &job, 1).await;
    assert_eq!(host.log(job.id, 1, Stream::Stdout).await, numbers(1, 25_000));
    assert_eq!(host.attempts(job.id).await[0].log_verdict, Some(LogVerdict::Complete));
    host.close(vec![worker]).await;
}
