//! When and where a job may run, as a planner says it on the command line.

use axum::body::Body;
use axum::http::{StatusCode, header};
use sawmill::cli::Exit;
use sawmill::job::OutcomeClass;
use serde_json::{Value, json};

use super::world::{World, on_both, request};

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
async fn what_a_job_may_use_and_how_it_is_judged_is_said_on_the_command_line(world: &World) {
    let line = [
        "--budget", "tokens=5000", "--execution", "plan-7", "--execution-budget", "cost_usd=1", "--input", "depth=3",
        "--gate", "unit:cargo=cargo test", "--check", "files=3", "--acceptance", "it is tested",
    ];
    let spec = &enqueued(world, &line).await["spec"];
    assert_eq!(spec["budget"], json!({ "tokens": 5000 }), "{spec}");
    assert_eq!(spec["execution"]["budget"], json!({ "cost_usd": 1.0 }));
    assert_eq!((&spec["task"]["inputs"], &spec["task"]["acceptance"]), (&json!({ "depth": "3" }), &json!(["it is tested"])));
    let last = |field: &str| spec[field].as_array().and_then(|all| all.last()).cloned().expect("one");
    assert_eq!(last("gates"), json!({ "name": "unit", "command": "cargo test", "tests": "cargo" }));
    assert_eq!(last("checks")["files"], json!(3));
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

on_both! {
async fn a_planner_that_is_refused_comes_back_when_it_was_told_to(world: &World) {
    let line = |more: &[&'static str]| ["enqueue", "--project", "small"].iter().chain(more).copied().chain(["--", "true"]).collect::<Vec<_>>();
    for _ in 0..2 {
        world.cli(&line(&[])).await.0.expect("there is room");
    }
    world.claim().await;
    let (ended, _) = world.cli(&line(&["--wait-for-room", "2m"])).await;
    ended.expect("one has started");
    let (ended, _) = world.cli(&line(&[])).await;
    assert_eq!(ended.expect_err("it is full").exit(), Exit::Conflict);

    let document = json!({"project": "small", "task": {"command": "true"}}).to_string();
    let (status, headers, body) = world.send(request("POST", "/v1/jobs", Body::from(document))).await;
    let problem: Value = serde_json::from_slice(&body).expect("a problem");
    assert_eq!((status, &problem["type"]), (StatusCode::TOO_MANY_REQUESTS, &json!("urn:sawmill:problem:queue-full")));
    let seconds = problem["retry_after_s"].as_u64().expect("when to come back");
    assert_eq!(headers[header::RETRY_AFTER], seconds.to_string().as_str());
    assert!((1..=300).contains(&seconds), "{problem}");

    let waiting = line(&["--wait-for-room", "2m"]);
    let (waited, _) = tokio::join!(world.cli(&waiting), world.claim());
    assert_eq!(waited.0.expect("there is room before long"), Exit::Done);
    let (ended, _) = world.cli(&line(&["--wait-for-room", "10ms"])).await;
    assert_eq!(ended.expect_err("it is full for longer").exit(), Exit::Conflict);
}
}

on_both! {
async fn a_forecast_comes_to_who_enqueues_and_to_who_looks_where_it_is_asked_for(world: &World) {
    let document = json!({"project": "app", "task": {"command": "true"}});
    let (_, plain) = world.post("/v1/jobs?forecast=false", document.clone()).await;
    assert!(plain.get("forecast").is_none(), "{plain}");
    let (status, job) = world.post("/v1/jobs", document.clone()).await;
    assert_eq!((status, &job["forecast"]["ahead"]), (StatusCode::CREATED, &json!(1)));
    assert_eq!(job["forecast"]["unknown"], json!("no live worker has its backend and all that it requires"));
    world.report_worker().await;
    let path = format!("/v1/jobs/{}", job["id"].as_str().expect("an id"));
    let (_, plain) = world.get(&path).await;
    assert!(plain.get("forecast").is_none(), "{plain}");
    let (_, shown) = world.get(&format!("{path}?forecast=true")).await;
    assert!(shown["forecast"]["expected_start"].is_i64(), "{shown}");
    assert_eq!(shown["forecast"]["slots"], json!(4));
    let (_, shown) = world.cli(&["job", "show", job["id"].as_str().expect("an id")]).await;
    assert!(shown.contains("forecast       1 job is before it; it should start at once"), "{shown}");
    let (status, problem) = world.get(&format!("{path}?forcast=true")).await;
    assert_eq!((status, &problem["type"]), (StatusCode::BAD_REQUEST, &json!("urn:sawmill:problem:invalid-parameter")));
    world.claim().await;
    world.claim().await;
    let (_, running) = world.get(&format!("{path}?forecast=true")).await;
    assert_eq!((&running["state"], running.get("forecast")), (&json!("running"), None));
}
}
