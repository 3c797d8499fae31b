//! Changing the fate of many jobs, by the routes and by command.

use axum::http::StatusCode;
use sawmill::cli::Exit;
use sawmill::ids::JobId;
use sawmill::job::OutcomeClass;
use serde_json::{Value, json};

use super::world::{World, id_of, on_both};

async fn enqueue(world: &World, execution: &str) -> JobId {
    let document = json!({"project": "app", "task": {"command": "true"}, "attempts": 1, "execution": {"id": execution}});
    let (status, job) = world.post("/v1/jobs", document).await;
    assert_eq!(status, StatusCode::CREATED, "{job}");
    id_of(&job)
}

on_both! {
async fn an_execution_is_cancelled_and_retried_as_a_whole(world: &World) {
    let first = enqueue(world, "plan-7").await;
    let claim = world.claim().await;
    let second = enqueue(world, "plan-7").await;
    let other = enqueue(world, "plan-8").await;
    let (_, would) = world.post("/v1/jobs/cancel", json!({"execution": "plan-7", "dry_run": true})).await;
    assert_eq!(would["changed"], json!([second, first]));
    let (ended, said) = world.cli(&["job", "cancel", "--execution", "plan-7", "--dry-run"]).await;
    assert_eq!((ended.expect("looked at"), said), (Exit::Done, format!("{second}\n{first}\n")));

    let (ended, said) = world.cli(&["job", "cancel", "--execution", "plan-7", "--reason", "new plan"]).await;
    assert_eq!((ended.expect("done"), said.as_str()), (Exit::Done, "2 jobs cancelled, or told to end\n"));
    world.finish(&claim, OutcomeClass::Cancelled, "cancelled by request: new plan").await;
    for id in [first, second] {
        let (_, job) = world.get(&format!("/v1/jobs/{id}")).await;
        assert_eq!((&job["state"], &job["outcome"]["message"]), (&json!("cancelled"), &json!("cancelled by request: new plan")));
    }
    assert_eq!(world.get(&format!("/v1/jobs/{other}")).await.1["state"], "queued");
    let (ended, said) = world.cli(&["job", "cancel", "--execution", "plan-7"]).await;
    assert_eq!((ended.expect("nothing is left"), said.as_str()), (Exit::Done, "0 jobs cancelled, or told to end\n"));

    let (_, retried) = world.post("/v1/jobs/retry", json!({"execution": "plan-7", "state": "cancelled"})).await;
    assert_eq!(retried, json!({"changed": [first, second], "unchanged": []}));
}
}

on_both! {
async fn a_running_job_is_given_back_by_command(world: &World) {
    let id = world.enqueue("true").await.to_string();
    let claim = world.claim().await;
    let (ended, said) = world.cli(&["job", "requeue", &id, "--reason", "that host is slow"]).await;
    assert_eq!((ended.expect("asked"), said), (Exit::Done, format!("{id} is running; its worker will give it back\n")));
    let (status, job) = world.post_text(&format!("/v1/jobs/{id}/requeue"), "").await;
    assert_eq!((status, job["requeue_requested_at"].is_i64()), (StatusCode::ACCEPTED, true));
    world.finish(&claim, OutcomeClass::Released, "given back by request: that host is slow").await;
    let (status, job) = world.post_text(&format!("/v1/jobs/{id}/requeue"), "").await;
    assert_eq!((status, &job["state"], &job["attempts_used"]), (StatusCode::OK, &json!("queued"), &json!(0)));
    let claim = world.claim().await;
    world.finish(&claim, OutcomeClass::Succeeded, "done").await;
    let (ended, _) = world.cli(&["job", "requeue", &id]).await;
    let error = ended.expect_err("it has ended");
    assert_eq!(error.exit(), Exit::Conflict);
    let sentence = error.sentence().replace(&id, "[job]");
    insta::allow_duplicates! {
        insta::assert_snapshot!(sentence, @"cannot requeue job [job]: it is succeeded, and it has ended; a failed or cancelled job can be retried");
    }
}
}

on_both! {
async fn several_jobs_that_are_named_end_with_the_worst_status(world: &World) {
    let (one, two) = (world.enqueue("true").await.to_string(), world.enqueue("true").await.to_string());
    let nobody = "018f0000-0000-7000-8000-000000000000";
    let (ended, said) = world.cli(&["job", "cancel", &one, &two]).await;
    assert_eq!((ended.expect("both wait"), said.as_str()), (Exit::Done, "2 jobs cancelled, or told to end\n"));
    assert_eq!(world.cli(&["job", "cancel", &one, &two]).await.0.expect("they are"), Exit::Done);
    assert_eq!(world.cli(&["job", "requeue", &one, &two]).await.0.expect("answered"), Exit::Conflict);
    let (ended, written) = world.cli(&["--json", "job", "retry", &one, nobody]).await;
    assert_eq!(ended.expect("answered"), Exit::NotFound);
    let changed: Value = serde_json::from_str(&written).expect("JSON");
    assert_eq!((&changed["changed"], &changed["unchanged"][0]["because"]), (&json!([one]), &json!("not_found")));
}
}

#[tokio::test]
async fn a_selection_that_cannot_be_meant_is_refused() {
    let world = World::on_sqlite().await;
    let kept = world.enqueue("true").await;
    let mut said = Vec::new();
    for (verb, body) in [
        ("cancel", json!({})),
        ("cancel", json!({"reason": "all of it"})),
        ("cancel", json!({"all": true, "project": "app"})),
        ("cancel", json!({"ids": [kept], "project": "app"})),
        ("cancel", json!({"ids": []})),
        ("cancel", json!({"state": "failed"})),
        ("retry", json!({"state": "queued"})),
        ("retry", json!({"all": true, "reason": "again"})),
        ("requeue", json!({"state": "cancelled"})),
        ("requeue", json!({"project": "app", "after": "7"})),
        ("requeue", json!({"projects": "app"})),
    ] {
        let (status, problem) = world.post(&format!("/v1/jobs/{verb}"), body).await;
        let path = problem["path"].as_str().unwrap_or("-");
        said.push(format!("{} [{path}] {}", status.as_u16(), problem["detail"].as_str().expect("a sentence")));
    }
    insta::assert_snapshot!(said.join("\n"), @r#"
    422 [all] all: without ids, project, execution or state this means every job; say "all": true if it does
    422 [all] all: without ids, project, execution or state this means every job; say "all": true if it does
    422 [all] all: it does not go with a filter
    422 [ids] ids: jobs are named, or selected by a filter, not both
    422 [ids] ids: 0 jobs are not between 1 and 1000
    422 [state] state: failed jobs cannot be cancelled; those that are queued or running can
    422 [state] state: queued jobs cannot be retried; those that are failed or cancelled can
    422 [reason] reason: a retry keeps no reason
    422 [state] state: cancelled jobs cannot be requeued; those that are running or queued can
    422 [after] after: it is not the `next` of an answer
    422 [projects] projects: unknown field `projects`, expected one of `ids`, `project`, `execution`, `state`, `all`, `dry_run`, `reason`, `after` at line 1 column 11; did you mean "project"?
    "#);
    assert_eq!(world.get(&format!("/v1/jobs/{kept}")).await.1["state"], "queued");
    let (status, all) = world.post("/v1/jobs/cancel", json!({"all": true})).await;
    assert_eq!((status, &all["changed"]), (StatusCode::OK, &json!([kept])));
    world.close().await;
}
