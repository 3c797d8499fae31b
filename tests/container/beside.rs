//! A job that waits beside another one which comes to harm.

use std::path::PathBuf;

use sawmill::ids::JobId;
use serde_json::json;

use super::LONG;
use crate::delivery::daemon::Daemon;
use crate::delivery::host::{Host, Lodging, On};
use crate::delivery::remote::{Latch, small_remote};

/// A worker with two slots, of which one has a job that waits while another one comes to harm.
pub(super) struct Beside {
    pub(super) host: Host,
    pub(super) remote: PathBuf,
    pub(super) worker: Daemon,
    latch: Latch,
    waiting: JobId,
}

impl Beside {
    /// With a setting of the worker's.
    pub(super) async fn with(name: &'static str, value: &str) -> Self {
        let mut host = Host::new(On::Sqlite, LONG, 2).await.lodge(Lodging::InContainers).await;
        host.set(name, value);
        let remote = small_remote(host.root(), "remote.git");
        let latch = host.job_latch("other");
        latch.close();
        let worker = host.start("a").await;
        let command = format!("{}; echo more > more", latch.here());
        let waiting = host.enqueue(&json!({ "repo": remote, "task": { "command": command } }));
        latch.reached().await;
        Self { host, remote, worker, latch, waiting }
    }

    /// Lets the job that waits go on, which is to be delivered.
    pub(super) async fn goes_on(&self) {
        self.latch.release().await;
        self.host.succeeded(self.waiting).await;
    }
}
