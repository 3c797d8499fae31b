//! Why a job does not run, with real workers: each reason as it comes and goes.

use sawmill::ids::JobId;
use serde_json::{Value, json};

use super::{LEASE, on_both};
use crate::delivery::host::{Host, On, until};
use crate::delivery::remote::small_remote;

on_both! {
    what_keeps_a_job_from_its_only_worker_is_named_as_it_comes_and_goes
    jobs_that_others_wait_for_are_named_until_they_end
}

fn explain(host: &Host, job: JobId) -> Value {
    host.sawmill(&["job", "explain", &job.to_string()])
}

/// The kinds of all that keeps a job from the first worker.
fn kinds(told: &Value) -> Vec<&str> {
    let obstacles = told["workers"][0]["obstacles"].as_array().into_iter().flatten();
    obstacles.filter_map(|obstacle| obstacle["kind"].as_str()).collect()
}

async fn what_keeps_a_job_from_its_only_worker_is_named_as_it_comes_and_goes(on: On) {
    let mut host = Host::new(on, LEASE, 1).await;
    host.set("SAWMILL_WORKER__REPORT", "2s");
    let remote = small_remote(host.root(), "remote.git");
    let latch = host.job_latch("job");
    latch.close();
    let first = host.enqueue(&json!({ "repo": remote, "changes": "none", "task": { "command": latch.here() } }));
    assert_eq!(explain(&host, first)["reasons"][0]["kind"], json!("no_worker"));

    let worker = host.start("a").await;
    latch.reached().await;
    until("its stage is on record", async || explain(&host, first)["reasons"][0]["stage"] == json!("execute")).await;
    let told = explain(&host, first);
    let reason = &told["reasons"][0];
    assert_eq!((&reason["kind"], &reason["worker"]), (&json!("running"), &json!("a")), "{told}");

    let second = host.enqueue(&json!({ "repo": remote, "changes": "none", "task": { "command": "true" } }));
    until("its slot is known to be taken", async || {
        let told = explain(&host, second);
        told["workers"][0]["obstacles"][0]["taken"][0]["job"] == json!(first.to_string())
    })
    .await;
    assert_eq!(explain(&host, second)["reasons"][0]["kind"], json!("nobody_free"));

    host.sawmill(&["workers", "drain", "a", "--reason", "new kernel"]);
    let told = explain(&host, second);
    assert_eq!(kinds(&told), ["drained", "no_slot"], "{told}");
    host.sawmill(&["workers", "resume", "a"]);

    worker.kill();
    until("it is missed", async || kinds(&explain(&host, second)) == ["offline"]).await;
    assert_eq!(explain(&host, second)["reasons"][0]["kind"], json!("no_worker"));
    let told = explain(&host, first);
    assert_eq!((&told["state"], &told["reasons"][1]["kind"]), (&json!("running"), &json!("silent_worker")), "{told}");

    let worker = host.start("a").await;
    latch.lift();
    latch.release().await;
    host.succeeded(first).await;
    host.succeeded(second).await;
    assert_eq!(explain(&host, second)["reasons"][0]["kind"], json!("ended"));
    host.close(vec![worker]).await;
}

async fn jobs_that_others_wait_for_are_named_until_they_end(on: On) {
    let host = Host::new(on, LEASE, 3).await;
    let remote = small_remote(host.root(), "remote.git");
    let latch = host.job_latch("job");
    latch.close();
    let command = |command: &str| json!({ "repo": remote, "changes": "none", "task": { "command": command } });
    let with = |mut document: Value, field: &str, value: Value| {
        document[field] = value;
        document
    };
    let key = json!({ "key": "deploy", "limit": 1 });
    let first = host.enqueue(&with(command(&latch.here()), "concurrency", key.clone()));
    let worker = host.start("a").await;
    latch.reached().await;
    let after = host.enqueue(&with(command("true"), "after", json!([first])));
    let same_key = host.enqueue(&with(command("true"), "concurrency", key));
    let told = explain(&host, after);
    let reason = &told["reasons"][0];
    assert_eq!(
        (&reason["kind"], &reason["job"], &reason["worker"]),
        (&json!("dependency"), &json!(first), &json!("a")),
        "{told}"
    );
    let told = explain(&host, same_key);
    let reason = &told["reasons"][0];
    assert_eq!((&reason["kind"], &reason["runners"][0]["job"]), (&json!("key"), &json!(first)), "{told}");
    assert_eq!(kinds(&told), Vec::<&str>::new(), "the worker could take it: {told}");
    latch.lift();
    latch.release().await;
    for job in [first, after, same_key] {
        host.succeeded(job).await;
    }
    host.close(vec![worker]).await;
}
