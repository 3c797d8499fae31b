//! Listing artifacts and reading them.

use std::fs;

use axum::body::Body;
use axum::http::{StatusCode, header};
use sawmill::artifacts::Artifacts;
use sawmill::cli::Exit;
use sawmill::job::{Artifact, ArtifactKind, ArtifactState, KeptObject};
use serde_json::json;

use super::world::{World, on_both, request};

on_both! {
async fn an_artifact_is_read_as_a_whole_or_in_part_and_never_run_by_a_browser(world: &World) {
    let id = world.enqueue("true").await;
    let claim = world.claim().await;
    let place = world.artifacts.place().expect("a directory can be made");
    world.store.open_artifacts(&claim, &place.id).await.expect("held");
    let key = Artifacts::key(id, claim.attempt, 0, "dir/a.html");
    let scratch = tempfile::tempdir().expect("a directory");
    fs::write(scratch.path().join("x"), "0123456789").expect("written");
    world.artifacts.put(&key, &scratch.path().join("x")).await.expect("kept");
    let object = |place: &str, key: &str| KeptObject {
        bytes: 10,
        sha256: "ab".to_owned(),
        content_type: "text/plain; charset=utf-8".to_owned(),
        redacted: false,
        place: place.to_owned(),
        at: "/x on builder".to_owned(),
        key: key.to_owned(),
    };
    let artifact = |name: &str, kept: Option<KeptObject>| Artifact {
        attempt: claim.attempt,
        name: name.to_owned(),
        kind: ArtifactKind::Declared,
        state: if kept.is_some() { ArtifactState::Kept } else { ArtifactState::Missing },
        required: false,
        reason: kept.is_none().then(|| "there is no such file".to_owned()),
        kept,
    };
    let all = [
        artifact("dir/a.html", Some(object(&place.id, &key))),
        artifact("there", Some(object("other", &key))),
        artifact("lost", Some(object(&place.id, "nowhere"))),
        artifact("missing", None),
    ];
    world.store.record_artifacts(&claim, &all).await.expect("held");

    let (status, page) = world.get(&format!("/v1/jobs/{id}/artifacts")).await;
    assert_eq!((status, &page["items"][0]["name"], &page["items"][3]["state"]), (StatusCode::OK, &json!("dir/a.html"), &json!("missing")));
    assert_eq!(world.get(&format!("/v1/jobs/{id}/artifacts?attempt=2")).await.1["items"], json!([]));

    let path = format!("/v1/jobs/{id}/artifacts/dir%2Fa.html");
    let (status, headers, body) = world.send(request("GET", &path, Body::empty())).await;
    assert_eq!((status, body.as_slice()), (StatusCode::OK, b"0123456789".as_slice()));
    assert_eq!(headers[header::CONTENT_TYPE], "text/plain; charset=utf-8");
    assert_eq!(headers[header::CONTENT_DISPOSITION], "attachment; filename=\"a.html\"");
    assert_eq!(headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
    assert_eq!(headers[header::ETAG], "\"sha256:ab\"");
    let part = async |range: &str| {
        let mut asked = request("GET", &path, Body::empty());
        asked.headers_mut().insert(header::RANGE, range.parse().expect("text"));
        let (status, headers, body) = world.send(asked).await;
        (status.as_u16(), headers[header::CONTENT_RANGE].to_str().expect("text").to_owned(), String::from_utf8(body).expect("text"))
    };
    assert_eq!(part("bytes=2-4").await, (206, "bytes 2-4/10".to_owned(), "234".to_owned()));
    assert_eq!(part("bytes=-1").await, (206, "bytes 9-9/10".to_owned(), "9".to_owned()));
    assert_eq!(part("bytes=10-").await, (416, "bytes */10".to_owned(), String::new()));

    let problem = async |name: &str| {
        let (status, problem) = world.get(&format!("/v1/jobs/{id}/artifacts/{name}")).await;
        (status.as_u16(), problem["type"].as_str().expect("a type").to_owned())
    };
    assert_eq!(problem("none").await, (404, "urn:sawmill:problem:not-found".to_owned()));
    assert_eq!(problem("missing").await, (404, "urn:sawmill:problem:not-found".to_owned()));
    assert_eq!(problem("lost").await, (404, "urn:sawmill:problem:not-found".to_owned()));
    assert_eq!(problem("there").await, (409, "urn:sawmill:problem:elsewhere".to_owned()));

    let (ended, said) = world.cli(&["job", "artifacts", &id.to_string()]).await;
    assert_eq!(ended.expect("listed"), Exit::Done);
    assert!(said.starts_with("ATTEMPT") && said.contains("there is no such file"), "{said}");
    let file = scratch.path().join("got");
    let line = ["job", "artifacts", &id.to_string(), "dir/a.html", "-o", file.to_str().expect("UTF-8")];
    assert_eq!(world.cli(&line).await.0.expect("written"), Exit::Done);
    assert_eq!(fs::read(&file).expect("written"), b"0123456789");
}
}
