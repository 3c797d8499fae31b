//! Why a job does not run, through the API and the command line.

use std::time::Duration;

use axum::http::StatusCode;
use regex::Regex;
use sawmill::cli::Exit;
use sawmill::ids::{JobId, WorkerId};
use sawmill::job::explain::Cause;
use sawmill::job::{Explanation, OutcomeClass};
use sawmill::store::WorkerPhase;
use serde_json::json;

use super::world::{World, id_of, on_both};

/// What is written, with names for jobs, and without what depends on how fast this machine is.
fn plain(text: &str, names: &[(&str, JobId)]) -> String {
    let named = names.iter().fold(text.to_owned(), |text, (name, job)| text.replace(&job.to_string(), name));
    Regex::new(r"\b\d+m?s\b").expect("a pattern").replace_all(&named, "0s").into_owned()
}

async fn enqueue(world: &World, document: serde_json::Value) -> JobId {
    let (status, job) = world.post("/v1/jobs", document).await;
    assert_eq!(status, StatusCode::CREATED, "{job}");
    id_of(&job)
}

on_both! {
async fn an_explanation_is_a_sentence_a_line_for_each_worker_and_what_would_change_it(world: &World) {
    let key = json!({"repo": "/srv/git/app.git", "task": {"command": "true"}, "concurrency": {"key": "deploy"}});
    world.report(|_| ()).await;
    world.report(|report| report.id = WorkerId::new("w2")).await;
    world.store.drain_worker(&WorkerId::new("w2"), "ops@desk", "new kernel").await.expect("asked");
    world.report(|report| {
        report.id = WorkerId::new("w3");
        report.backends.clear();
        report.seen_at = report.seen_at - Duration::from_secs(7_200);
    }).await;
    let runs = enqueue(world, key.clone()).await;
    world.claim().await;
    let waits = enqueue(world, key).await;
    let (ended, written) = world.cli(&["job", "explain", &waits.to_string()]).await;
    assert_eq!(ended.expect("it is explained"), Exit::Done);
    insta::allow_duplicates! {
        insta::assert_snapshot!(plain(&written, &[("RUNS", runs)]), @r#"
        waits: key "deploy" is at its limit of 1: job RUNS has run on w1 for 0s

        WORKER  STATE     SEEN  WHY NOT THERE
        w1      running   0s    it could take the job, but key "deploy" is at its limit of 1
        w2      draining  0s    ops@desk asked for its drain 0s ago: new kernel
        w3      offline   2h    it last reported 2h ago; it does not have the backend "shell", nor any other

        what would change it:
        - the end of job RUNS, which has run longest, or of any job under the key "deploy"

        what would change it on one worker:
        - sawmill workers resume w2
        - w3, once it runs on builder again and reaches the database
        - [backends.shell] in the configuration of w3, and its restart
        "#);
    }
    let (status, document) = world.get(&format!("/v1/jobs/{waits}/explain")).await;
    assert_eq!((status, &document["reasons"][0]["kind"], &document["workers"][1]["obstacles"][0]["kind"]), (StatusCode::OK, &json!("key"), &json!("drained")));
    let (_, json) = world.cli(&["--json", "job", "explain", &waits.to_string()]).await;
    let read: Explanation = serde_json::from_str(&json).expect("the document of the API");
    assert!(matches!(&read.reasons[0].cause, Cause::Key { runners, .. } if runners[0].job == runs), "{read:?}");
}
}

on_both! {
async fn a_job_is_explained_in_every_state(world: &World) {
    let nobody = "018f0000-0000-7000-8000-000000000000";
    let (ended, _) = world.cli(&["job", "explain", nobody]).await;
    assert_eq!(ended.expect_err("there is none").exit(), Exit::NotFound);
    assert_eq!(world.get(&format!("/v1/jobs/{nobody}/explain")).await.0, StatusCode::NOT_FOUND);
    let id = world.enqueue("true").await;
    let line = ["job", "explain", &id.to_string()].map(str::to_owned);
    let line: Vec<&str> = line.iter().map(String::as_str).collect();
    let mut told = Vec::new();
    told.push(world.cli(&line).await.1);
    world.report(|report| report.phase = WorkerPhase::Stopped).await;
    told.push(world.cli(&line).await.1);
    world.report(|_| ()).await;
    told.push(world.cli(&line).await.1);
    let claim = world.claim().await;
    told.push(world.cli(&line).await.1);
    world.store.cancel(id, "enough").await.expect("asked");
    told.push(world.cli(&line).await.1);
    world.finish(&claim, OutcomeClass::Cancelled, "cancelled by request: enough").await;
    told.push(world.cli(&line).await.1);
    let second = world.enqueue("true").await;
    let claim = world.claim().await;
    world.finish(&claim, OutcomeClass::Succeeded, "done").await;
    told.push(world.cli(&["job", "explain", &second.to_string()]).await.1);
    insta::allow_duplicates! {
        insta::assert_snapshot!(plain(&told.join("----\n"), &[("ID", id)]), @r#"
        waits: no worker has ever reported

        what would change it:
        - a worker: sawmill worker, or sawmill up for API and worker in one
        ----
        waits: no worker is there; the last one, w1, reported 0s ago

        WORKER  STATE    SEEN  WHY NOT THERE
        w1      stopped  0s    it ended 0s ago

        what would change it:
        - a worker: sawmill worker, or sawmill up for API and worker in one
        - w1, once it is started on builder again
        ----
        waits: nothing keeps it, and w1 has a free slot for it

        WORKER  STATE    SEEN  WHY NOT THERE
        w1      running  0s    it is about to claim the job
        ----
        runs: attempt 1 on w1 for 0s; nothing in its log yet; its lease holds for 0s
        ----
        is being ended: its end was asked for 0s ago (enough), and its worker has not ended it yet; attempt 1 on w1 for 0s; nothing in its log yet; its lease holds for 0s

        what would change it:
        - its worker, once it hears of it: within a second or with the next renewal
        ----
        was cancelled 0s ago: cancelled by request: enough

        what to do next:
        - sawmill job retry ID gives it another round of attempts
        ----
        succeeded 0s ago: done; its completion has waited for an integrator for 0s

        what to do next:
        - an integrator that takes it: sawmill completions claim --consumer NAME
        "#);
    }
}
}
