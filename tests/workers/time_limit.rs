//! Limits that workers learn: from what a project's jobs took, and not the same short one after it was met.

use std::time::Duration;

use sawmill::job::{OutcomeClass, Stream};
use serde_json::json;

use super::{LEASE, on_both};
use crate::delivery::host::{Host, On};
use crate::delivery::remote::small_remote;

on_both! {
    a_learnt_limit_ends_an_attempt_and_the_next_one_has_longer
}

async fn a_learnt_limit_ends_an_attempt_and_the_next_one_has_longer(on: On) {
    let mut host = Host::new(on, LEASE, 1).await;
    let remote = small_remote(host.root(), "remote.git");
    host.set("SAWMILL_PROJECTS__APP__REPO", remote.to_str().expect("UTF-8"));
    host.set("SAWMILL_ATTEMPT__ADAPTIVE__MODE", "on");
    host.set("SAWMILL_ATTEMPT__ADAPTIVE__SAMPLES", "2");
    host.set("SAWMILL_ATTEMPT__ADAPTIVE__PERCENT", "50");
    host.set("SAWMILL_ATTEMPT__ADAPTIVE__FACTOR", "1.0");
    host.set("SAWMILL_ATTEMPT__ADAPTIVE__FLOOR", "3s");
    let worker = host.start("a").await;
    let spec = |command: &str, timeout: Option<&str>| json!({ "project": "app", "changes": "optional", "attempts": 2, "timeout": timeout, "task": { "command": command } });
    for _ in 0..2 {
        host.succeeded(host.enqueue(&spec("true", None))).await;
    }
    let set = host.succeeded(host.enqueue(&spec("true", Some("20m")))).await;
    assert_eq!(host.attempts(set.id).await[0].time_limit, None, "somebody has set it");

    let slow = host.enqueue(&spec("if [ \"$SAWMILL_ATTEMPT\" = 1 ]; then sleep 600; fi", None));
    host.succeeded(slow).await;
    let attempts = host.attempts(slow).await;
    let [first, second] = attempts.as_slice() else { panic!("{attempts:?}") };
    assert_eq!(first.outcome.as_ref().map(|outcome| outcome.class), Some(OutcomeClass::Timeout));
    let (before, after) = (first.time_limit.as_ref().expect("learnt"), second.time_limit.as_ref().expect("learnt"));
    // What samples a busy machine has, it learns of them.
    assert!(before.samples >= 2 && before.limit() >= Duration::from_secs(3), "{before}");
    let took = first.ended_at.expect("ended").since(first.started_at);
    assert!(took >= before.limit().mul_f64(0.8) && took < Duration::from_secs(600), "{took:?} of {before}");
    assert!(after.limit() >= took * 2 - Duration::from_millis(1), "{after} after {took:?}");
    let log = host.log(slow, 1, Stream::System).await;
    assert!(log.contains(&format!("it may take {before}")), "{log}");

    let shown = host.sawmill(&["job", "show", &slow.to_string()]);
    assert_eq!(shown["time_limit"]["limit_ms"], json!(after.limit_ms), "{shown}");
    assert_eq!(shown["time_limit"]["timed_out_ms"], json!(after.timed_out_ms.expect("it was met")));
    host.close(vec![worker]).await;
}
