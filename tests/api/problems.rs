//! What is said to a request that cannot be answered.

use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use serde_json::{Value, json};

use super::world::{World, request};

fn line(status: StatusCode, problem: &Value) -> String {
    let text = |key: &str| problem[key].as_str().unwrap_or("-").to_owned();
    assert_eq!(problem["status"], status.as_u16(), "{problem}");
    format!(
        "{} {} [{}] {}",
        status.as_u16(),
        text("type").trim_start_matches("urn:sawmill:problem:"),
        text("path"),
        text("detail")
    )
}

#[tokio::test]
async fn a_document_that_is_no_job_is_refused_with_the_path_to_the_field() {
    let world = World::on_sqlite().await;
    let mut said = Vec::new();
    for document in [
        "",
        "{",
        "[]",
        "{}",
        r#"{"task": {"comand": "true"}}"#,
        r#"{"task": {"command": 5}}"#,
        r#"{"task": {}, "timeout": "soon"}"#,
        r#"{"task": {}, "gates": [{"name": "unit"}]}"#,
        r#"{"task": {}, "priority": "high"}"#,
        r#"{"task": {}, "deliver": {"branch": "a..b"}}"#,
        r#"{"task": {"command": "true"}}"#,
        r#"{"task": {"command": " "}, "repo": "/r"}"#,
        r#"{"task": {}, "repo": "/r"}"#,
        r#"{"task": {"command": "true"}, "repo": "/r", "attempts": 0}"#,
        r#"{"task": {"command": "true"}, "project": "ap"}"#,
        r#"{"task": {"command": "true"}, "repo": "/r", "backend": "codex"}"#,
        r#"{"task": {"command": "true"}, "repo": "/r", "schema": 2}"#,
    ] {
        let (status, problem) = world.post_text("/v1/jobs", document).await;
        said.push(line(status, &problem));
    }
    insta::assert_snapshot!(said.join("\n"), @r#"
    400 malformed-json [-] the body is not JSON: EOF while parsing a value at line 1 column 0
    400 malformed-json [-] the body is not JSON: EOF while parsing an object at line 1 column 1
    422 invalid-document [-] the document must be a JSON object, not an array
    422 invalid-document [task] task: missing field `task` at line 1 column 2
    422 invalid-document [task.comand] task.comand: unknown field `comand`, expected one of `instruction`, `command`, `acceptance`, `inputs` at line 1 column 18; did you mean "command"?
    422 invalid-document [task.command] task.command: a command is a line of text, or a list of a program and its arguments at line 1 column 23
    422 invalid-document [timeout] timeout: "soon" is not a duration such as "90s", "15m" or "1h 30m" at line 1 column 30
    422 invalid-document [gates[0].command] gates[0].command: missing field `command` at line 1 column 39
    422 invalid-document [priority] priority: unknown variant `high`, expected one of `interactive`, `normal`, `background` at line 1 column 31
    422 invalid-document [deliver.branch] deliver.branch: "a..b" is not a branch name: it has ".." or "@{" at line 1 column 42
    422 invalid-document [repo] repo: a job needs a project or a repo
    422 invalid-document [task.command] task.command: the command is empty
    422 invalid-document [task] task: a job needs an instruction or a command
    422 invalid-document [attempts] attempts: 0 is not between 1 and 100
    422 unknown-project [project] project: there is no project "ap"; did you mean "app"?
    422 unknown-backend [backend] backend: there is no backend "codex"; there are: shell
    422 invalid-document [schema] schema: this build reads version 1, not 2
    "#);
    world.close().await;
}

#[tokio::test]
async fn an_address_that_means_nothing_is_refused_with_the_parameter() {
    let world = World::on_sqlite().await;
    let id = "00000000-0000-7000-8000-000000000000";
    let mut said = Vec::new();
    for path in [
        "/v1/nothing".to_owned(),
        "/v1/jobs/7".to_owned(),
        format!("/v1/jobs/{id}"),
        format!("/v1/jobs/{id}/attempts"),
        format!("/v1/jobs/{id}/logs"),
        format!("/v1/events?job={id}"),
        "/v1/jobs?state=done".to_owned(),
        "/v1/jobs?limit=501".to_owned(),
        "/v1/jobs?limit=many".to_owned(),
        "/v1/jobs?colour=red".to_owned(),
        "/v1/workers/w9".to_owned(),
    ] {
        let (status, problem) = world.get(&path).await;
        said.push(line(status, &problem));
    }
    let queued = world.enqueue("true").await;
    let (status, problem) = world.get(&format!("/v1/jobs/{queued}/logs")).await;
    said.push(line(status, &problem).replace(&queued.to_string(), "[job]"));
    world.claim().await;
    for query in ["attempt=2", "attempt=0", "max=0", "stream=stdin", "from=-1"] {
        let (status, problem) = world.get(&format!("/v1/jobs/{queued}/logs?{query}")).await;
        said.push(line(status, &problem).replace(&queued.to_string(), "[job]"));
    }
    insta::assert_snapshot!(said.join("\n"), @r#"
    404 no-such-route [-] there is nothing at /v1/nothing; /openapi.json has all that there is
    400 invalid-parameter [id] id: "7" is not a job id
    404 not-found [-] there is no job 00000000-0000-7000-8000-000000000000; check the id against the list
    404 not-found [-] there is no job 00000000-0000-7000-8000-000000000000; check the id against the list
    404 not-found [-] there is no job 00000000-0000-7000-8000-000000000000; check the id against the list
    404 not-found [-] there is no job 00000000-0000-7000-8000-000000000000; check the id against the list
    400 invalid-parameter [state] state: unknown variant `done`, expected one of `queued`, `running`, `succeeded`, `failed`, `cancelled`
    400 invalid-parameter [limit] limit: 501 is not between 1 and 500
    400 invalid-parameter [limit] limit: it is not a whole number of zero or more
    400 invalid-parameter [colour] colour: unknown field `colour`, expected one of `state`, `held`, `project`, `execution`, `before`, `limit`
    404 not-found [-] there is no worker w9; check the id against the list
    404 not-found [-] job [job] has no log: it is queued and had no attempt
    404 not-found [attempt] job [job] has no attempt 2; its attempts are 1 to 1
    404 not-found [attempt] job [job] has no attempt 0; its attempts are 1 to 1
    400 invalid-parameter [max] max: 0 is not between 1 and 8388608
    400 invalid-parameter [stream] stream: unknown variant `stdin`, expected one of `stdout`, `stderr`, `system`
    400 invalid-parameter [from] from: it is not a whole number of zero or more
    "#);
    world.close().await;
}

#[tokio::test]
async fn a_request_in_the_wrong_form_is_refused_as_a_problem_too() {
    let world = World::on_sqlite().await;
    let mut said = Vec::new();
    let plain = Request::post("/v1/jobs").header(header::HOST, "localhost").header(header::CONTENT_TYPE, "text/plain");
    let foreign = Request::post("/v1/jobs").header(header::HOST, "localhost").header(header::ORIGIN, "https://example.com");
    let rebound = Request::get("/v1/jobs").header(header::HOST, "rebound.example.com");
    for request in [
        plain.body(Body::from("{}")).expect("a request"),
        foreign.body(Body::from("{}")).expect("a request"),
        rebound.body(Body::empty()).expect("a request"),
        request("DELETE", "/v1/jobs", Body::empty()),
        request("POST", "/v1/jobs", Body::from(vec![b' '; sawmill::api::BODY_MAX + 1])),
    ] {
        let (status, headers, body) = world.send(request).await;
        assert_eq!(headers[header::CONTENT_TYPE], "application/problem+json");
        said.push(line(status, &serde_json::from_slice(&body).expect("a problem")));
    }
    insta::assert_snapshot!(said.join("\n"), @r#"
    415 unsupported-media-type [-] the body is not declared as JSON; send it with the header Content-Type: application/json
    403 foreign-origin [-] a page of https://example.com may not use this server; requests from other origins are refused
    403 foreign-origin [-] this server is for this host only, not for "rebound.example.com"; use its loopback address
    405 method-not-allowed [-] /v1/jobs does not answer to DELETE; /openapi.json says what it answers to
    413 too-large [-] the body is larger than the 2097152 bytes that are taken
    "#);
    let (status, _) = world.post("/v1/jobs", json!({"repo": "/r", "task": {"instruction": "x".repeat(200_000)}})).await;
    assert_eq!(status, StatusCode::CREATED, "a long instruction is within the limits");
    world.close().await;
}
