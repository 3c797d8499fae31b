//! When and where a job may run, as a planner says it on the command line.

use sawmill::cli::Exit;
use sawmill::job::OutcomeClass;
use serde_json::{Value, json};

use super::world::{World, on_both};

async fn enqueued(world: &World, line: &[&str]) -> Value {
    let line: Vec<&str> = ["enqueue", "--json", "--project", "app"].iter().chain(line).copied().chain(["--", "true"]).collect();
    let (ended, text) = world.cli(&line).await;
    assert_eq!(ended.expect("the job is accepted"), Exit::Done);
    serde_json::from_str(&text).expect("a job")
}

on_both! {
async fn the_command_line_says_what_a_document_can(world: &World) {
    let first = enqueued(world, &[]).await;
    let second = enqueued(world, &[]).await;
    let (one, two) = (first["id"].as_str().expect("an id"), second["id"].as_str().expect("an id"));
    let line = [
        "--require", "linux", "--require", "gpu=a100", "--after", one, "--after-failure", "ignore", "--base-from", two,
        "--key", "db:main:3", "--at", "2126-01-01T00:00:00Z", "--start-by", "2126-01-02T00:00:00Z", "--priority", "background",
    ];
    let job = enqueued(world, &line).await;
    assert_eq!(job["held"], json!("dependency"), "{job}");
    let expected = json!({
        "requires": ["linux", "gpu=a100"], "after": [one], "after_failure": "ignore", "base_from": two,
        "concurrency": {"key": "db:main", "limit": 3}, "run_at": 4_922_899_200_000_i64, "start_by": 4_922_985_600_000_i64,
        "priority": "background",
    });
    for (field, value) in expected.as_object().expect("fields") {
        assert_eq!(&job["spec"][field], value, "{field}");
    }
    let soon = enqueued(world, &["--start-by", "1h"]).await;
    let left = soon["spec"]["start_by"].as_i64().expect("a moment") - world.store.now().0;
    assert!((3_000_000..=3_660_000).contains(&left), "an hour from now: {left} ms");
}
}

on_both! {
async fn a_job_that_waits_for_one_that_fails_is_cancelled_or_runs_as_its_planner_says(world: &World) {
    let first = enqueued(world, &[]).await;
    let id = first["id"].as_str().expect("an id");
    let cascade = enqueued(world, &["--after", id]).await;
    let ignore = enqueued(world, &["--after", id, "--after-failure", "ignore"]).await;
    let claim = world.claim().await;
    world.finish(&claim, OutcomeClass::Invalid, "there is no such base").await;
    let (_, cancelled) = world.get(&format!("/v1/jobs/{}", cascade["id"].as_str().expect("an id"))).await;
    assert_eq!((&cancelled["state"], &cancelled["outcome"]["class"]), (&json!("cancelled"), &json!("dependency")));
    assert_eq!(world.claim().await.job.to_string(), ignore["id"].as_str().expect("an id"));
}
}
