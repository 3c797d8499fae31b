//! The queue of completions from the integrator's side.

use axum::http::StatusCode;
use sawmill::cli::Exit;
use sawmill::job::OutcomeClass;
use serde_json::{Value, json};

use super::world::{World, on_both};

async fn deliver(world: &World) {
    world.enqueue("true").await;
    let claim = world.claim().await;
    world.finish(&claim, OutcomeClass::Succeeded, "done").await;
}

async fn claim(world: &World, body: Value) -> Vec<Value> {
    let (status, page) = world.post("/v1/completions/claim", body).await;
    assert_eq!(status, StatusCode::OK, "{page}");
    page["items"].as_array().expect("a list").clone()
}

on_both! {
async fn a_completion_is_taken_held_given_back_and_acknowledged(world: &World) {
    assert!(claim(world, json!({"consumer": "ci"})).await.is_empty());
    deliver(world).await;
    deliver(world).await;

    let held = claim(world, json!({"consumer": "ci", "limit": 1, "lease": "1m"})).await;
    assert_eq!(held.len(), 1);
    let (id, token) = (held[0]["id"].as_str().expect("an id"), &held[0]["token"]);
    assert_eq!((&held[0]["state"], &held[0]["consumer"], &held[0]["deliveries"]), (&json!("claimed"), &json!("ci"), &json!(1)));
    let (status, renewed) = world.post(&format!("/v1/completions/{id}/renew"), json!({"token": token, "lease": "10m"})).await;
    assert_eq!(status, StatusCode::OK, "{renewed}");
    assert!(renewed["lease_until"].as_i64() > held[0]["lease_until"].as_i64());

    // Whoever has another token has no say.
    let stranger = json!({"token": "00000000-0000-4000-8000-000000000000"});
    let (status, problem) = world.post(&format!("/v1/completions/{id}/ack"), stranger).await;
    assert_eq!((status, &problem["type"]), (StatusCode::CONFLICT, &json!("urn:sawmill:problem:lease-lost")));

    let (status, back) = world.post(&format!("/v1/completions/{id}/nack"), json!({"token": token, "reason": "main is red"})).await;
    assert_eq!((status, &back["state"], &back["last_error"]), (StatusCode::OK, &json!("pending"), &json!("main is red")));
    let both = claim(world, json!({"consumer": "ci", "limit": 10})).await;
    assert_eq!(both.len(), 2);
    let again = both.iter().find(|entry| entry["id"] == id).expect("it is handed out again");
    assert_ne!(&again["token"], token, "each delivery has a token of its own");
    let (status, acked) = world.post(&format!("/v1/completions/{id}/ack"), json!({"token": again["token"]})).await;
    assert_eq!((status, &acked["state"]), (StatusCode::OK, &json!("acked")));

    let other = both.iter().find(|entry| entry["id"] != id).expect("the other one");
    let path = format!("/v1/completions/{}/nack", other["id"].as_str().expect("an id"));
    let (_, dead) = world.post(&path, json!({"token": other["token"], "reason": "never", "dead": true})).await;
    assert_eq!(dead["state"], "dead");
    let (_, list) = world.get("/v1/completions?state=acked").await;
    assert_eq!(list["items"].as_array().map(Vec::len), Some(1));
    let (_, page) = world.get("/v1/completions?limit=1").await;
    let (_, rest) = world.get(&format!("/v1/completions?before={}", page["next"].as_str().expect("a cursor"))).await;
    assert_eq!(rest["items"].as_array().map(Vec::len), Some(1));
}
}

on_both! {
async fn a_claim_that_waits_is_answered_when_something_is_delivered_or_the_time_is_over(world: &World) {
    let began = tokio::time::Instant::now();
    assert!(claim(world, json!({"consumer": "ci", "wait": "300ms"})).await.is_empty());
    assert!(began.elapsed() >= std::time::Duration::from_millis(300));
    let (held, ()) = tokio::join!(claim(world, json!({"consumer": "ci", "wait": "30s"})), deliver(world));
    assert_eq!(held.len(), 1);
    assert!(began.elapsed() < std::time::Duration::from_secs(20), "it did not wait for the end of its time");
    // One who waits is let go when the server stops.
    let (held, ()) = tokio::join!(claim(world, json!({"consumer": "ci", "wait": "30s"})), async { world.shutdown.cancel() });
    assert!(held.is_empty() && began.elapsed() < std::time::Duration::from_secs(25));
}
}

on_both! {
async fn a_dead_completion_is_listed_with_its_error_and_brought_back(world: &World) {
    deliver(world).await;
    let held = claim(world, json!({"consumer": "ci", "project": "nobody's"})).await;
    assert!(held.is_empty(), "it is of no project");
    let held = claim(world, json!({"consumer": "ci", "repo": "/srv/git/app.git"})).await;
    let (id, token) = (held[0]["id"].as_str().expect("an id"), &held[0]["token"]);
    let refusal = json!({"token": token, "reason": "does not merge", "dead": true});
    world.post(&format!("/v1/completions/{id}/nack"), refusal).await;
    let (_, list) = world.cli(&["completions", "list", "--state", "dead"]).await;
    let row = list.lines().nth(1).expect("a row");
    assert!(row.starts_with(id) && row.contains(" 1 ") && row.ends_with("does not merge"), "{list}");
    let (ended, written) = world.cli(&["completions", "requeue", id]).await;
    assert_eq!((ended.expect("it comes back"), written), (Exit::Done, format!("{id} is pending\n")));
    let (ended, claimed) = world.cli(&["--json", "completions", "claim", "--consumer", "ci", "--wait", "10s"]).await;
    assert_eq!(ended.expect("it is handed out"), Exit::Done);
    assert!(claimed.contains(id) && claimed.contains("\"deliveries\": 1"), "{claimed}");
    let (status, problem) = world.post_text(&format!("/v1/completions/{id}/requeue"), "").await;
    assert_eq!((status, &problem["type"]), (StatusCode::CONFLICT, &json!("urn:sawmill:problem:wrong-state")));
    assert_eq!(problem["detail"], format!("cannot requeue completion {id}: it is claimed, and only a dead one can be brought back"));
}
}

#[tokio::test]
async fn what_cannot_be_asked_of_completions_is_said() {
    let world = World::on_sqlite().await;
    let mut said = String::new();
    for body in [
        json!({"consumer": ""}),
        json!({"consumer": "ci", "limit": 0}),
        json!({"consumer": "ci", "limit": 101}),
        json!({"consumer": "ci", "lease": "10ms"}),
        json!({"consumer": "ci", "lease": "soon"}),
        json!({"limit": 1}),
        json!({"consumer": "ci", "wait": "31s"}),
    ] {
        let (status, problem) = world.post("/v1/completions/claim", body).await;
        said.push_str(&format!("{} {}\n", status.as_u16(), problem["detail"].as_str().expect("a sentence")));
    }
    let nowhere = "/v1/completions/00000000-0000-7000-8000-000000000000/ack";
    let (status, problem) = world.post(nowhere, json!({"token": "00000000-0000-4000-8000-000000000000"})).await;
    said.push_str(&format!("{} {}\n", status.as_u16(), problem["detail"].as_str().expect("a sentence")));
    insta::assert_snapshot!(said, @r#"
    422 consumer: it is empty
    422 limit: 0 is not between 1 and 100
    422 limit: 101 is not between 1 and 100
    422 lease: 10ms is not between 1s and 24h
    422 lease: "soon" is not a duration such as "90s", "15m" or "1h 30m" at line 1 column 31
    422 consumer: missing field `consumer` at line 1 column 11
    422 wait: 31s is more than 30s; ask again instead
    404 there is no completion 00000000-0000-7000-8000-000000000000; check the id against the list
    "#);
    world.close().await;
}
