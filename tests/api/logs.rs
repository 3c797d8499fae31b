//! Logs: from an offset as JSON, and followed as events.

use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use futures_util::StreamExt as _;
use sawmill::ids::JobId;
use sawmill::job::{OutcomeClass, Stream};
use serde_json::{Value, json};
use sse_stream::{Sse, SseStream};
use tower::ServiceExt as _;

use super::world::{World, chunk, on_both};

/// Follows until the stream ends, or `most` events have come.
async fn follow(world: &World, id: JobId, query: &str, last: Option<&str>, most: usize) -> Vec<Sse> {
    let mut request = Request::get(format!("/v1/jobs/{id}/logs{query}"))
        .header(header::HOST, "localhost")
        .header(header::ACCEPT, "text/event-stream");
    if let Some(last) = last {
        request = request.header("Last-Event-ID", last);
    }
    let response = world.router.clone().oneshot(request.body(Body::empty()).expect("a request")).await.expect("an answer");
    assert_eq!(response.status(), StatusCode::OK);
    let events = SseStream::new(response.into_body()).map(|event| event.expect("an event"));
    events.filter(|event| std::future::ready(event.data.is_some())).take(most).collect().await
}

fn data(event: &Sse) -> Value {
    serde_json::from_str(event.data.as_deref().expect("data")).expect("JSON")
}

fn texts(events: &[Sse]) -> String {
    let pieces = events.iter().filter(|event| event.event.as_deref() == Some("log"));
    pieces.map(|event| data(event)["data"].as_str().expect("text").to_owned()).collect()
}

on_both! {
async fn a_log_is_read_from_any_offset_as_json(world: &World) {
    let id = world.enqueue("true").await;
    let claim = world.claim().await;
    let chunks = [chunk(0, 0, Stream::Stdout, b"hello "), chunk(1, 6, Stream::Stderr, b"\xff\xfe"), chunk(2, 8, Stream::Stdout, b"world")];
    world.store.append_log(&claim, &chunks).await.expect("the log grows");
    let (status, slice) = world.get(&format!("/v1/jobs/{id}/logs?from=3")).await;
    assert_eq!(status, StatusCode::OK);
    let at = 1_700_000_000_000_i64;
    assert_eq!(slice, json!({
        "job": id.to_string(), "attempt": 1, "next": 13, "total": 13, "log": null,
        "chunks": [
            {"stream": "stdout", "offset": 3, "at": at, "encoding": "utf8", "data": "lo "},
            {"stream": "stderr", "offset": 6, "at": at, "encoding": "base64", "data": "//4="},
            {"stream": "stdout", "offset": 8, "at": at, "encoding": "utf8", "data": "world"},
        ],
    }));
    let (_, errors) = world.get(&format!("/v1/jobs/{id}/logs?stream=stderr&attempt=1")).await;
    assert_eq!((errors["chunks"].as_array().map(Vec::len), &errors["next"]), (Some(1), &json!(13)));
    let (_, beyond) = world.get(&format!("/v1/jobs/{id}/logs?from=99")).await;
    assert_eq!((&beyond["chunks"], &beyond["next"]), (&json!([]), &json!(99)));
    world.finish(&claim, OutcomeClass::Succeeded, "done").await;
    let (_, sealed) = world.get(&format!("/v1/jobs/{id}/logs?from=13")).await;
    assert_eq!(sealed["log"], json!({"verdict": "complete"}));
}
}

on_both! {
async fn a_followed_log_waits_for_the_first_attempt_and_ends_with_its_outcome(world: &World) {
    let id = world.enqueue("true").await;
    let (events, ()) = tokio::join!(follow(world, id, "", None, 100), async {
        let claim = world.claim().await;
        for seq in 0..3 {
            world.store.append_log(&claim, &[chunk(seq, seq * 5, Stream::Stdout, format!("tick{seq}").as_bytes())]).await.expect("the log grows");
        }
        world.finish(&claim, OutcomeClass::Backend, "exit status 3").await;
    });
    assert_eq!(texts(&events), "tick0tick1tick2");
    let ids: Vec<&str> = events.iter().filter_map(|event| event.id.as_deref()).collect();
    assert_eq!(ids, ["1:5", "1:10", "1:15", "1:15"]);
    let end = events.last().expect("an end");
    assert_eq!(end.event.as_deref(), Some("end"));
    let end = data(end);
    assert_eq!((&end["attempt"], &end["total"], &end["log"]), (&json!(1), &json!(15), &json!({"verdict": "complete"})));
    assert_eq!((&end["outcome"]["class"], &end["state"]), (&json!("backend"), &json!("queued")));
}
}

on_both! {
async fn the_last_event_that_was_received_says_where_a_log_goes_on(world: &World) {
    let id = world.enqueue("true").await;
    let claim = world.claim().await;
    for seq in 0..4 {
        world.store.append_log(&claim, &[chunk(seq, seq * 5, Stream::Stdout, format!("tick{seq}").as_bytes())]).await.expect("the log grows");
    }
    world.finish(&claim, OutcomeClass::Backend, "exit status 3").await;
    // A second attempt has begun meanwhile; whoever read the first reads on in the first.
    let second = world.claim().await;
    world.store.append_log(&second, &[chunk(0, 0, Stream::Stdout, b"second")]).await.expect("the log grows");

    let first = follow(world, id, "?attempt=1", None, 2).await;
    let last = first.last().and_then(|event| event.id.clone()).expect("an id");
    let rest = follow(world, id, "", Some(&last), 100).await;
    assert_eq!(texts(&first) + texts(&rest).as_str(), "tick0tick1tick2tick3");
    assert_eq!(texts(&follow(world, id, "?attempt=1&from=7", None, 100).await), "ck1tick2tick3");
    // An offset in the middle of a piece is as good as any.
    assert_eq!(texts(&follow(world, id, "?attempt=1", Some("17"), 100).await), "ck3");
    assert_eq!(texts(&follow(world, id, "", None, 1).await), "second");
}
}

on_both! {
async fn a_log_that_will_never_come_ends_with_the_job(world: &World) {
    let id = world.enqueue("true").await;
    let cancel = format!("/v1/jobs/{id}/cancel");
    let (events, _) = tokio::join!(follow(world, id, "", None, 100), world.post_text(&cancel, ""));
    assert_eq!(events.len(), 1);
    let end = data(&events[0]);
    assert_eq!((&end["attempt"], &end["state"], &end["outcome"]["class"]), (&json!(null), &json!("cancelled"), &json!("cancelled")));
}
}

on_both! {
async fn streams_end_when_the_server_stops(world: &World) {
    let id = world.enqueue("true").await;
    let (events, ()) = tokio::join!(follow(world, id, "", None, 100), async { world.shutdown.cancel() });
    assert!(events.is_empty(), "{events:?}");
}
}

on_both! {
async fn events_tell_of_every_change_of_a_job(world: &World) {
    let ended = world.enqueue("true").await;
    world.post_text(&format!("/v1/jobs/{ended}/cancel"), "").await;
    let id = world.enqueue("true").await;
    let request = Request::get("/v1/events").header(header::HOST, "localhost").body(Body::empty()).expect("a request");
    let response = world.router.clone().oneshot(request).await.expect("an answer");
    let mut events = SseStream::new(response.into_body()).map(|event| data(&event.expect("an event")));
    let told = events.next().await.expect("what is true now");
    assert_eq!((&told["id"], &told["state"]), (&json!(id), &json!("queued")), "one that had ended before is no news");
    let claim = world.claim().await;
    assert_eq!(events.next().await.expect("a change")["state"], "running");
    world.finish(&claim, OutcomeClass::Succeeded, "done").await;
    let told = events.next().await.expect("a change");
    assert_eq!((&told["id"], &told["state"]), (&json!(id), &json!("succeeded")));
}
}
