//! The worker's row in the registry, for people to see.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::identity::{boot_id, host_name};
use crate::ids::WorkerId;
use crate::store::{Store, WorkerRecord, WorkerState};

/// How often the worker says that it lives.
const INTERVAL: Duration = Duration::from_secs(10);

/// What the worker says of itself.
#[derive(Debug, Clone)]
pub(super) struct Registry {
    store: Store,
    row: WorkerRecord,
}

impl Registry {
    pub(super) fn new(store: &Store, id: &WorkerId, version: &str, slots: u32, backends: Vec<String>) -> Self {
        let row = WorkerRecord {
            id: id.clone(),
            host: host_name(),
            version: version.to_owned(),
            pid: std::process::id(),
            boot_id: boot_id(),
            slots,
            labels: Vec::new(),
            backends,
            state: WorkerState::Running,
            started_at: store.now(),
            seen_at: store.now(),
        };
        Self { store: store.clone(), row }
    }

    /// Says what the worker is doing.
    pub(super) async fn report(&self, state: WorkerState) {
        let row = WorkerRecord { state, seen_at: self.store.now(), ..self.row.clone() };
        if let Err(error) = self.store.report_worker(&row).await {
            debug!("cannot report the worker: {error}");
        }
    }

    /// Says every now and then that it runs, or drains, until `ended`; then that it has stopped.
    pub(super) async fn report_loop(self, draining: CancellationToken, ended: CancellationToken) {
        loop {
            let state = if draining.is_cancelled() { WorkerState::Draining } else { WorkerState::Running };
            self.report(state).await;
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                () = draining.cancelled(), if state == WorkerState::Running => {}
                () = ended.cancelled() => break,
            }
        }
        self.report(WorkerState::Stopped).await;
    }
}
