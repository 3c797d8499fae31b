//! Usage limits, with real workers: what is paused, who goes on meanwhile, and who goes on afterwards.

use sawmill::clock::Timestamp;
use sawmill::ids::JobId;
use sawmill::job::{JobState, OutcomeClass};
use serde_json::json;

use super::{LEASE, on_both};
use crate::delivery::host::{Host, On, until};
use crate::delivery::remote::small_remote;

on_both! {
    nothing_of_a_paused_credential_starts_and_all_else_goes_on
    when_a_pause_is_over_its_job_goes_on_by_itself
}

/// A host whose backends `paid` and `twin` draw on the same credential.
async fn host(on: On) -> Host {
    let mut host = Host::new(on, LEASE, 2).await;
    for backend in ["SAWMILL_BACKENDS__PAID__KIND", "SAWMILL_BACKENDS__TWIN__KIND"] {
        host.set(backend, "shell");
    }
    for backend in ["SAWMILL_BACKENDS__PAID__CREDENTIAL", "SAWMILL_BACKENDS__TWIN__CREDENTIAL"] {
        host.set(backend, "team");
    }
    host
}

async fn is_limited(host: &Host, job: JobId) -> bool {
    let job = host.job(job).await;
    job.state == JobState::Queued && job.outcome.is_some_and(|outcome| outcome.class == OutcomeClass::UsageLimit)
}

async fn nothing_of_a_paused_credential_starts_and_all_else_goes_on(on: On) {
    let host = host(on).await;
    let remote = small_remote(host.root(), "remote.git");
    let reset = Timestamp(Timestamp::now().0 + 3_600_000);
    let limit = format!(r#"{{"schema":1,"ok":false,"summary":"5-hour limit","retry_at":{}}}"#, reset.0);
    let meets_it = format!("if [ \"$SAWMILL_ATTEMPT\" = 1 ]; then echo '{limit}' > \"$SAWMILL_RESULT\"; fi");
    let enqueue = |backend: &str, command: &str| {
        host.enqueue(&json!({ "repo": remote, "backend": backend, "changes": "none", "task": { "command": command } }))
    };
    let first = enqueue("paid", &meets_it);
    let (a, b) = (host.start("a").await, host.start("b").await);
    until("the limit is met", async || is_limited(&host, first).await).await;
    for worker in [&a, &b] {
        until("a worker has heard", async || worker.log().contains("credential team is paused until")).await;
    }
    let waits = host.job(first).await;
    assert_eq!((waits.attempts_used, waits.resets, waits.ready_at), (0, 0, reset));

    let second = enqueue("twin", "true");
    let free = host.enqueue(&json!({ "repo": remote, "changes": "none", "task": { "command": "true" } }));
    host.succeeded(free).await;
    assert_eq!(host.job(second).await.attempt, None, "older than the one that has ended");
    let told = host.sawmill(&["job", "explain", &second.to_string()]);
    for worker in 0..2 {
        assert_eq!(told["workers"][worker]["obstacles"][0]["kind"], json!("paused"), "{told}");
    }
    assert_eq!(host.sawmill(&["workers", "show", "a"])["pauses"][0]["credential"], json!("team"));
    let listed = host.sawmill(&["pauses"]);
    assert_eq!((&listed["items"][0]["until"], &listed["items"][0]["times"]), (&json!(reset), &json!(1)), "{listed}");

    host.sawmill(&["pauses", "lift", "team"]);
    host.succeeded(second).await;
    assert_eq!(host.succeeded(first).await.attempt.map(|attempt| attempt.0), Some(2));
    assert_eq!(host.sawmill(&["pauses", "list"])["items"], json!([]));
    host.close(vec![a, b]).await;
}

async fn when_a_pause_is_over_its_job_goes_on_by_itself(on: On) {
    let host = host(on).await;
    let remote = small_remote(host.root(), "remote.git");
    let command = "if [ \"$SAWMILL_ATTEMPT\" = 1 ]; then \
        printf '{\"schema\":1,\"ok\":false,\"retry_at\":%s}' $(($(date +%s) * 1000 + 2500)) > \"$SAWMILL_RESULT\"; fi";
    let job = host.enqueue(&json!({ "repo": remote, "backend": "paid", "changes": "none", "task": { "command": command } }));
    let worker = host.start("a").await;
    until("the limit is met", async || is_limited(&host, job).await || host.job(job).await.state.is_final()).await;
    let pauses = host.store.pauses().await.expect("answered");
    let ended = host.succeeded(job).await;
    assert_eq!(ended.attempts_used, 1, "the one that succeeded");
    let attempts = host.attempts(job).await;
    assert_eq!(attempts[0].outcome.as_ref().map(|outcome| outcome.class), Some(OutcomeClass::UsageLimit));
    if let [pause] = pauses.as_slice() {
        assert!(attempts[1].started_at >= pause.until, "{} {pause:?}", attempts[1].started_at);
    }
    assert_eq!(host.store.pauses().await.expect("answered"), [], "it works again");
    host.close(vec![worker]).await;
}
