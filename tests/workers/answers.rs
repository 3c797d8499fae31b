//! A backend that asks, and goes on with the answer.

use sawmill::job::{Hold, OutcomeClass, Stream};
use serde_json::json;

use super::{LEASE, on_both};
use crate::delivery::host::{Host, On, until};
use crate::delivery::remote::small_remote;

on_both! {
    a_job_that_asks_goes_on_with_the_answer_and_with_what_it_had
}

async fn a_job_that_asks_goes_on_with_the_answer_and_with_what_it_had(on: On) {
    let host = Host::new(on, LEASE, 1).await;
    let remote = small_remote(host.root(), "remote.git");
    let command = "if [ \"$SAWMILL_ATTEMPT\" = 1 ]; then echo half > half; \
         printf '{\"schema\":1,\"ok\":false,\"clarification\":\"Left or right?\"}' > \"$SAWMILL_RESULT\"; \
         else cat \"$SAWMILL_SPEC\"; fi";
    let job = host.enqueue(&json!({ "repo": remote, "changes": "optional", "task": { "command": command } }));
    let worker = host.start("a").await;
    until("it asks", async || host.job(job).await.held == Some(Hold::Answer)).await;
    let told = host.sawmill(&["job", "explain", &job.to_string()]);
    assert_eq!((&told["reasons"][0]["kind"], &told["reasons"][0]["question"]), (&json!("question"), &json!("Left or right?")));
    host.sawmill(&["job", "answer", &job.to_string(), "Left"]);
    let ended = host.succeeded(job).await;
    assert_eq!(ended.attempts_used, 1, "the one that succeeded");
    let attempts = host.attempts(job).await;
    assert_eq!(attempts[0].outcome.as_ref().map(|outcome| outcome.class), Some(OutcomeClass::Clarification));
    let spec: serde_json::Value = serde_json::from_str(&host.log(job, 2, Stream::Stdout).await).expect("JSON");
    assert_eq!(spec["answers"], json!([{ "question": "Left or right?", "answer": "Left" }]));
    assert_eq!(spec["previous"]["salvage"], json!(attempts[0].salvage.as_ref().expect("what it had")));
    host.close(vec![worker]).await;
}
