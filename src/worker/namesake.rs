//! Whether a worker's name is somebody else's, who would lose its jobs to it: claims are held, and taken up, by name.
//!
//! The one rule: a daemon that is started again on its own state directory is never kept waiting.

use std::time::Duration;

use super::daemon::WorkerError;
use super::identity::Identity;
use crate::clock::human;
use crate::janitor::{boot_id, has_ended, host_name};
use crate::job::worker_record::{WorkerReport, WorkerState};
use crate::store::{Store, StoreError};

/// Refuses a name under which another daemon has reported lately, unless that one is known to be gone.
pub(super) async fn refuse(store: &Store, identity: &Identity) -> Result<(), WorkerError> {
    let record = match store.worker(identity.id()).await {
        Err(StoreError::NotFound { .. }) => return Ok(()),
        answered => answered?,
    };
    let report = &record.report;
    if matches!(record.state, WorkerState::Stopped | WorkerState::Offline) || is_own(identity, report) || has_gone(report) {
        return Ok(());
    }
    let silence = store.now().since(report.seen_at);
    Err(WorkerError::NameInUse {
        name: identity.id().clone(),
        host: report.host.clone(),
        pid: report.pid,
        silence: in_seconds(silence),
        left: in_seconds(report.patience().saturating_sub(silence) + Duration::from_secs(1)),
    })
}

fn in_seconds(duration: Duration) -> String {
    human::format(Duration::from_secs(duration.as_secs()))
}

/// Whether it was the last daemon of this very state directory, or is this one.
fn is_own(identity: &Identity, report: &WorkerReport) -> bool {
    let is = |host: &str, boot: &str, pid: u32| report.host == host && report.boot_id == boot && report.pid == pid;
    let before = identity.before().is_some_and(|before| is(&before.host, &before.boot, before.pid.cast_unsigned()));
    before || is(&host_name(), &boot_id().unwrap_or_default(), std::process::id())
}

/// Whether it was a process of this host that has ended.
fn has_gone(report: &WorkerReport) -> bool {
    report.host == host_name() && boot_id().is_ok_and(|boot| boot == report.boot_id) && has_ended(report.pid)
}
