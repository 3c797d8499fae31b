//! A server without a worker: what is over ends all the same.

use std::time::Duration;

use sawmill::job::CompletionState;
use sawmill::store::CompletionAsk;
use serde_json::json;

use super::{LEASE, on_both};
use crate::delivery::daemon::Seat;
use crate::delivery::host::{Host, On, until};
use crate::delivery::remote::small_remote;

on_both! {
    a_server_alone_ends_the_lease_of_an_integrator_that_says_no_more
}

async fn a_server_alone_ends_the_lease_of_an_integrator_that_says_no_more(on: On) {
    let mut host = Host::new(on, LEASE, 1).await;
    host.set("SAWMILL_SERVER__LISTEN", "127.0.0.1:0");
    let remote = small_remote(host.root(), "remote.git");
    let job = host.enqueue(&json!({ "repo": remote, "task": { "command": "echo more > more" } }));
    let worker = host.start("a").await;
    host.succeeded(job).await;
    host.end(vec![worker]).await;
    let ask =
        CompletionAsk { consumer: "i".to_owned(), limit: 1, lease: Some(Duration::from_millis(100)), project: None, repo: None };
    assert_eq!(host.store.claim_completions(&ask).await.expect("answered").len(), 1);
    let server = host.spawn_at(&Seat::of("server"), &["serve"]);
    until("it is handed out again", async || host.completions(Some(job)).await[0].state == CompletionState::Pending).await;
    host.close(vec![server]).await;
}
