//! Labels and capabilities: a job that requires something runs where that is offered, and nowhere else.

use sawmill::job::JobState;
use serde_json::json;

use super::{LEASE, on_both};
use crate::delivery::host::{Host, On, until};
use crate::delivery::remote::small_remote;

on_both! {
    what_jobs_require_sends_them_to_the_worker_that_offers_it
}

async fn what_jobs_require_sends_them_to_the_worker_that_offers_it(on: On) {
    let mut host = Host::new(on, LEASE, 2).await;
    let remote = small_remote(host.root(), "remote.git");
    let plain = host.start("plain").await;
    let require = |words: &[&str]| {
        host.enqueue(&json!({ "repo": remote, "changes": "none", "requires": words, "task": { "command": "true" } }))
    };
    let jobs = [&["gpu=a100"][..], &["vision"], &["vision", "gpu=a100"]].map(require);
    // The other worker has slots free and looks: it has run a later one that requires nothing.
    host.succeeded(require(&[])).await;
    for job in jobs {
        assert_eq!(host.job(job).await.state, JobState::Queued);
        let explain = || host.sawmill(&["job", "explain", &job.to_string()]);
        // What the worker wrote while that one ran may come after it.
        until("its slots are known to be free", async || explain()["workers"][0]["free_slots"] == 2).await;
        let told = explain();
        let reason = &told["reasons"][0];
        assert_eq!((&reason["kind"], &reason["nearest"]), (&json!("no_label"), &json!("plain")), "{told}");
        assert_eq!((&told["workers"][0]["suits"], &told["workers"][0]["free_slots"]), (&json!(false), &json!(2)), "{told}");
    }

    host.set("SAWMILL_WORKER__LABELS", "[\"gpu=a100\"]");
    host.set("SAWMILL_BACKENDS__SHELL__CAPABILITIES", "[\"vision\"]");
    let offering = host.start("offering").await;
    for job in jobs {
        host.succeeded(job).await;
        let workers: Vec<String> = host.attempts(job).await.iter().map(|attempt| attempt.worker.to_string()).collect();
        assert_eq!(workers, ["offering"]);
    }
    host.close(vec![plain, offering]).await;
}
