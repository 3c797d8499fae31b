//! The life of a job as a planner and an operator see it.

use axum::body::Body;
use axum::http::{StatusCode, header};
use sawmill::job::OutcomeClass;
use serde_json::json;

use super::world::{World, id_of, on_both, request};

on_both! {
async fn a_job_is_created_once_and_found_again_by_its_key(world: &World) {
    let document = r#"{"project": "app", "task": {"command": "true"}, "idempotency_key": "k1"}"#;
    let (status, headers, body) = world.send(request("POST", "/v1/jobs", Body::from(document))).await;
    let job: serde_json::Value = serde_json::from_slice(&body).expect("a job");
    assert_eq!(status, StatusCode::CREATED);
    assert_eq!(headers[header::LOCATION], format!("/v1/jobs/{}", id_of(&job)));
    assert_eq!((&job["state"], &job["repo"], &job["base"]), (&json!("queued"), &json!("/srv/git/app.git"), &json!("main")));
    assert_eq!(job["spec"]["backend"], json!("shell"));

    // The same document in other spacing and order is the same job; another document is not.
    let again = r#"{"idempotency_key":"k1","task":{"command":"true"},"priority":"normal","project":"app"}"#;
    let (status, same) = world.post_text("/v1/jobs", again).await;
    assert_eq!((status, &same["id"]), (StatusCode::OK, &job["id"]));
    let (status, problem) = world.post("/v1/jobs", json!({"project": "app", "task": {"command": "false"}, "idempotency_key": "k1"})).await;
    assert_eq!((status, &problem["type"]), (StatusCode::CONFLICT, &json!("urn:sawmill:problem:key-conflict")));
    let (_, all) = world.get("/v1/jobs").await;
    assert_eq!(all["items"].as_array().map(Vec::len), Some(1));
    let (status, shown) = world.get(&format!("/v1/jobs/{}?forecast=true", id_of(&job))).await;
    assert_eq!((status, shown), (StatusCode::OK, same));
}
}

on_both! {
async fn a_branch_that_is_named_belongs_to_one_job(world: &World) {
    let document = json!({"project": "app", "task": {"command": "true"}, "deliver": {"branch": "fix/parser"}});
    let (_, first) = world.post("/v1/jobs", document.clone()).await;
    let (status, problem) = world.post("/v1/jobs", document).await;
    assert_eq!((status, &problem["type"]), (StatusCode::CONFLICT, &json!("urn:sawmill:problem:branch-taken")));
    let detail = problem["detail"].as_str().expect("a sentence").replace(&id_of(&first).to_string(), "[job]");
    insta::allow_duplicates! {
        insta::assert_snapshot!(detail, @"cannot deliver on branch fix/parser of /srv/git/app.git: it belongs to job [job]; name another, or none");
    }
    // Where the template names the branch, a taken one is told apart instead.
    let (_, one) = world.post("/v1/jobs", json!({"project": "app", "task": {"command": "true"}})).await;
    let (status, two) = world.post("/v1/jobs", json!({"project": "app", "task": {"command": "true"}})).await;
    assert_eq!(status, StatusCode::CREATED);
    assert_ne!(one["branch"], two["branch"]);
}
}

on_both! {
async fn a_list_is_filtered_and_read_page_by_page_newest_first(world: &World) {
    let mut ids = Vec::new();
    for number in 0..5 {
        let execution = if number == 4 { "other" } else { "plan-7" };
        let document = json!({"project": "app", "task": {"command": "true"}, "execution": {"id": execution}});
        let (_, job) = world.post("/v1/jobs", document).await;
        ids.push(id_of(&job).to_string());
    }
    let mut seen = Vec::new();
    let mut before = String::new();
    loop {
        let (status, page) = world.get(&format!("/v1/jobs?execution=plan-7&state=queued&project=app&limit=3{before}")).await;
        assert_eq!(status, StatusCode::OK, "{page}");
        let items = page["items"].as_array().expect("a list");
        seen.extend(items.iter().map(|job| job["id"].as_str().expect("an id").to_owned()));
        match page["next"].as_str() {
            Some(next) => before = format!("&before={next}"),
            None => break,
        }
    }
    ids.truncate(4);
    ids.reverse();
    assert_eq!(seen, ids);
    let (_, none) = world.get("/v1/jobs?state=failed").await;
    assert_eq!(none, json!({"items": []}));
}
}

on_both! {
async fn cancelling_and_retrying_follow_the_state(world: &World) {
    let id = world.enqueue("true").await;
    let retry = format!("/v1/jobs/{id}/retry");
    let cancel = format!("/v1/jobs/{id}/cancel");
    let (status, problem) = world.post_text(&retry, "").await;
    assert_eq!((status, &problem["type"]), (StatusCode::CONFLICT, &json!("urn:sawmill:problem:wrong-state")));
    let (status, job) = world.post(&cancel, json!({"reason": "not needed"})).await;
    assert_eq!((status, &job["state"]), (StatusCode::OK, &json!("cancelled")));
    assert!(job["outcome"]["message"].as_str().is_some_and(|message| message.contains("not needed")), "{job}");
    let (status, _) = world.post_text(&cancel, "").await;
    assert_eq!(status, StatusCode::OK, "saying it again is no mistake");
    let (status, job) = world.post_text(&retry, "").await;
    assert_eq!((status, &job["state"]), (StatusCode::OK, &json!("queued")));

    let claim = world.claim().await;
    let (status, job) = world.post_text(&cancel, "").await;
    assert_eq!((status, &job["state"]), (StatusCode::ACCEPTED, &json!("running")));
    assert!(job["cancel_requested_at"].is_i64(), "{job}");
    world.finish(&claim, OutcomeClass::Succeeded, "done").await;
    let (status, problem) = world.post_text(&cancel, "").await;
    assert_eq!((status, &problem["type"]), (StatusCode::CONFLICT, &json!("urn:sawmill:problem:wrong-state")));
}
}

on_both! {
async fn what_a_job_changed_and_how_it_was_tried_are_on_record(world: &World) {
    let id = world.enqueue("true").await;
    let (status, problem) = world.get(&format!("/v1/jobs/{id}/diff")).await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert_eq!(problem["detail"], format!("job {id} is queued and has delivered nothing; wait for its end"));
    let claim = world.claim().await;
    world.finish(&claim, OutcomeClass::Succeeded, "done").await;
    let (status, diff) = world.get(&format!("/v1/jobs/{id}/diff")).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!((&diff["diff"]["files"], &diff["commit"]), (&json!(1), &json!("2".repeat(40))));
    let (_, attempts) = world.get(&format!("/v1/jobs/{id}/attempts")).await;
    assert_eq!(attempts["items"][0]["outcome"]["class"], "succeeded");
    assert_eq!(attempts["items"][0]["worker"], "w1");
}
}

on_both! {
async fn probes_scrapers_and_people_get_what_they_ask_for(world: &World) {
    world.report_worker().await;
    world.enqueue("true").await;
    assert_eq!(world.get("/healthz").await, (StatusCode::OK, json!("ok\n")));
    assert_eq!(world.get("/readyz").await, (StatusCode::OK, json!("ok\n")));
    let (_, metrics) = world.get("/metrics").await;
    let metrics = metrics.as_str().expect("text");
    for line in ["sawmill_jobs{state=\"queued\"} 1", "sawmill_jobs{state=\"failed\"} 0", "sawmill_completions{state=\"pending\"} 0",
        "sawmill_worker_slots{worker=\"w1\",state=\"running\"} 4", "# TYPE sawmill_jobs gauge"] {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
    }
    let (_, counts) = world.get("/v1/counts").await;
    assert_eq!(counts["jobs"], json!({ "queued": 1, "running": 0, "succeeded": 0, "failed": 0, "cancelled": 0 }));
    assert_eq!(counts["completions"], json!({ "pending": 0, "claimed": 0, "acked": 0, "dead": 0 }));
    let (_, workers) = world.get("/v1/workers").await;
    assert_eq!(workers["items"][0]["id"], "w1");
    let (_, worker) = world.get("/v1/workers/w1").await;
    assert_eq!(worker["host"], "builder");
    let (_, configuration) = world.get("/v1/config").await;
    assert_eq!(configuration["settings"][1], json!({"key": "queue.url", "value": "(hidden)", "origin": "SAWMILL_QUEUE__URL"}));
}
}

on_both! {
async fn readiness_ends_with_the_database(world: &World) {
    world.store.clone().close().await;
    let (status, problem) = world.get("/readyz").await;
    assert_eq!((status, &problem["type"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("urn:sawmill:problem:database-unavailable")));
    assert_eq!(world.get("/healthz").await.0, StatusCode::OK);
}
}

#[tokio::test]
async fn the_description_has_every_route_and_every_document() {
    let world = World::on_sqlite().await;
    let (status, description) = world.get("/openapi.json").await;
    assert_eq!(status, StatusCode::OK);
    let paths: Vec<String> = description["paths"]
        .as_object()
        .expect("paths")
        .iter()
        .flat_map(|(path, methods)| methods.as_object().expect("methods").keys().map(move |method| format!("{method} {path}")))
        .collect();
    insta::assert_snapshot!(paths.join("\n"), @r#"
    get /healthz
    get /metrics
    get /readyz
    get /v1/budget
    get /v1/completions
    post /v1/completions/claim
    post /v1/completions/{id}/ack
    post /v1/completions/{id}/nack
    post /v1/completions/{id}/renew
    post /v1/completions/{id}/requeue
    get /v1/config
    get /v1/counts
    get /v1/events
    get /v1/jobs
    post /v1/jobs
    post /v1/jobs/cancel
    post /v1/jobs/requeue
    post /v1/jobs/retry
    get /v1/jobs/{id}
    post /v1/jobs/{id}/answer
    get /v1/jobs/{id}/artifacts
    get /v1/jobs/{id}/artifacts/{name}
    get /v1/jobs/{id}/attempts
    post /v1/jobs/{id}/cancel
    post /v1/jobs/{id}/deadline
    get /v1/jobs/{id}/diff
    get /v1/jobs/{id}/explain
    get /v1/jobs/{id}/logs
    post /v1/jobs/{id}/requeue
    post /v1/jobs/{id}/retry
    get /v1/pauses
    post /v1/pauses/{credential}/lift
    get /v1/workers
    get /v1/workers/{id}
    post /v1/workers/{id}/drain
    post /v1/workers/{id}/resume
    "#);
    assert_eq!(description["info"]["version"], "0.1.0 (test)");
    // Every reference leads somewhere.
    let text = description.to_string();
    for reference in text.split("\"#/components/schemas/").skip(1).filter_map(|rest| rest.split('"').next()) {
        assert!(description["components"]["schemas"][reference].is_object(), "{reference} is not described");
    }
    world.close().await;
}
