//! A usage limit whose reset is known, of a real agent: what waits until then, and what goes on.

use std::time::Duration;

use sawmill::clock::Timestamp;
use sawmill::job::{JobState, OutcomeClass};
use serde_json::json;

use super::server::Turn;
use super::site::{CLAUDE, CODEX, LOOKS, Site, WORKS, Which, last};
use crate::delivery::host::until;

/// When limits are reset: far enough that no test sees it.
fn in_two_hours() -> Timestamp {
    Timestamp::now() + Duration::from_secs(2 * 3600)
}

/// Checks what becomes of an agent that meets the limit in its first attempt, does the work in its second one, and says that the limit is
/// over at `until`.
async fn check_pause(which: Which, limited: Turn, reset: Timestamp) {
    let turns = [LOOKS, limited, LOOKS, WORKS, last(which)];
    let site = Site::open_with(which, turns, &[("SAWMILL_BACKENDS__AGENT__CREDENTIAL", "team")]).await;
    let host = &site.host;
    let first = site.enqueue();
    until("the limit is met", async || {
        let job = host.job(first).await;
        assert!(!job.state.is_final(), "{job:?}");
        job.state == JobState::Queued && job.outcome.is_some_and(|outcome| outcome.class == OutcomeClass::UsageLimit)
    })
    .await;
    let waits = host.job(first).await;
    assert_eq!((waits.attempts_used, waits.resets), (0, 0), "nobody is charged for it");
    assert_eq!(waits.ready_at, reset, "{:?}", waits.outcome);

    let second = site.enqueue();
    let free = host.enqueue(&json!({
        "repo": site.remote, "backend": "shell", "changes": "none", "task": { "command": "true" },
    }));
    host.succeeded(free).await;
    assert_eq!(host.job(second).await.attempt, None, "older than the one that has ended");
    let told = host.sawmill(&["job", "explain", &second.to_string()]);
    let obstacle = &told["workers"][0]["obstacles"][0];
    assert_eq!((&obstacle["kind"], &obstacle["credential"]), (&json!("paused"), &json!("team")), "{told}");
    assert_eq!((&obstacle["until"], &obstacle["reset_known"]), (&json!(reset), &json!(true)), "{told}");
    let shown = host.sawmill(&["workers", "show", "a"]);
    assert_eq!((&shown["pauses"][0]["credential"], &shown["pauses"][0]["until"]), (&json!("team"), &json!(reset)), "{shown}");
    assert_eq!(site.server.left(), 3, "the model is asked nothing more");

    host.sawmill(&["job", "cancel", &second.to_string()]);
    host.sawmill(&["pauses", "lift", "team"]);
    let done = host.succeeded(first).await;
    assert_eq!((done.attempts_used, done.attempt.map(|attempt| attempt.0)), (1, Some(2)));
    site.check_delivered(&done, 3).await;
    site.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn codex_at_the_limit_of_its_plan_waits_for_the_reset_and_goes_on_then() {
    let reset = in_two_hours();
    let seconds = reset.0 / 1000;
    let error = json!({ "type": "usage_limit_reached", "message": "The usage limit has been reached", "plan_type": "pro",
        "resets_at": seconds, "resets_in_seconds": 7200 });
    // It tells the minute, which is over when the next one begins.
    let minute = Timestamp((seconds / 60 + 1) * 60_000);
    check_pause(CODEX, Turn::Limited(json!({ "error": error }), Vec::new()), minute).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claude_code_at_the_limit_of_its_plan_waits_for_the_reset_and_goes_on_then() {
    let seconds = in_two_hours().0 / 1000;
    let error = json!({ "type": "rate_limit_error", "message": "This request would exceed your account's rate limit." });
    let told = [
        ("anthropic-ratelimit-unified-status", "rejected".to_owned()),
        ("anthropic-ratelimit-unified-representative-claim", "five_hour".to_owned()),
        ("anthropic-ratelimit-unified-reset", seconds.to_string()),
        ("anthropic-ratelimit-unified-5h-reset", seconds.to_string()),
        ("anthropic-ratelimit-unified-5h-status", "rejected".to_owned()),
        ("x-should-retry", "false".to_owned()),
    ];
    let limited = Turn::Limited(json!({ "type": "error", "error": error }), told.into());
    // A plan's key, and not one that is paid by use.
    check_pause(Which { key: "CLAUDE_CODE_OAUTH_TOKEN", ..CLAUDE }, limited, Timestamp(seconds * 1000)).await;
}
