//! The worker's row in the registry: what it says of itself, and how it hears of a drain without a job to renew.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::admission::Admission;
use super::board::Board;
use super::config::Config;
use super::gate::Gate;
use crate::backends;
use crate::clock::millis;
use crate::ids::WorkerId;
use crate::janitor::{boot_id, host_name};
use crate::store::{Claiming, OfferedBackend, Pressure, Store, WorkerPhase, WorkerReport};

/// How soon the worker says that something is in a slot, or no longer. Short jobs then cost a report now and then, not one each.
const SOON: Duration = Duration::from_secs(2);

/// The shortest time between two regular reports.
const REPORT_LEAST: Duration = Duration::from_millis(100);

/// What the worker says of itself.
#[derive(Debug, Clone)]
pub(super) struct Registry {
    pub(super) store: Store,
    pub(super) board: Board,
    pub(super) gate: Gate,
    pub(super) admission: Admission,
    pub(super) every: Duration,
    pub(super) slots: u32,
    /// What stays the same for as long as the daemon lives.
    pub(super) row: WorkerReport,
}

/// What stays the same for as long as the daemon lives.
pub(super) fn row(store: &Store, id: &WorkerId, version: &str, config: &Config, backends: &backends::Registry) -> WorkerReport {
    let mut labels = config.labels.clone();
    labels.sort();
    labels.dedup();
    let offered = backends.all().map(|backend| OfferedBackend {
        name: backend.name().to_owned(),
        credential: backend.credential().to_owned(),
        capabilities: backend.capabilities().to_vec(),
    });
    WorkerReport {
        id: id.clone(),
        host: host_name(),
        version: version.to_owned(),
        pid: std::process::id(),
        boot_id: boot_id().unwrap_or_default(),
        labels,
        backends: offered.collect(),
        slots: Vec::new(),
        pressure: Pressure::default(),
        claiming: Claiming::default(),
        phase: WorkerPhase::Running,
        report_ms: millis(config.report.max(REPORT_LEAST)),
        started_at: store.now(),
        seen_at: store.now(),
    }
}

impl Registry {
    /// Says for the first time that the worker is there: before it claims, so that whoever sees its jobs finds it.
    pub(super) async fn introduce(&self) -> Option<WorkerReport> {
        self.say(self.report(WorkerPhase::Running)).await
    }

    /// Says regularly, and soon after something has changed from what was `said`, what the worker is doing, until `ended`; then
    /// that it has stopped.
    pub(super) async fn report_loop(self, mut said: Option<WorkerReport>, draining: CancellationToken, ended: CancellationToken) {
        let mut changes = self.gate.changes();
        let mut due = Instant::now() + self.every.max(REPORT_LEAST);
        loop {
            let report = self.report(if draining.is_cancelled() || self.gate.rests_drained() {
                WorkerPhase::Draining
            } else {
                WorkerPhase::Running
            });
            if Instant::now() >= due || said.as_ref().is_none_or(|said| is_news(said, &report)) {
                due = Instant::now() + self.every.max(REPORT_LEAST);
                said = self.say(report).await;
            }
            tokio::select! {
                () = tokio::time::sleep_until(due.min(Instant::now() + SOON)) => {}
                () = changes.next() => {}
                () = draining.cancelled(), if said.as_ref().is_some_and(|said| said.phase == WorkerPhase::Running) => {}
                () = ended.cancelled() => break,
            }
        }
        self.say(self.report(WorkerPhase::Stopped)).await;
    }

    fn report(&self, phase: WorkerPhase) -> WorkerReport {
        WorkerReport {
            slots: self.board.records(self.slots),
            pressure: self.admission.pressure(),
            claiming: self.board.claiming(),
            phase,
            seen_at: self.store.now(),
            ..self.row.clone()
        }
    }

    /// Writes a report, which is then what was said; none where the database could not be written.
    async fn say(&self, report: WorkerReport) -> Option<WorkerReport> {
        match self.store.report_worker(&report).await {
            Ok(drain) => {
                self.gate.doubt_drain(drain.as_ref());
                Some(report)
            }
            Err(error) => {
                debug!("cannot report the worker: {error}");
                None
            }
        }
    }
}

/// Whether people should hear of it before the next regular report. Figures that move all the time are not news.
fn is_news(said: &WorkerReport, report: &WorkerReport) -> bool {
    let of = |report: &WorkerReport| {
        let failed = report.claiming.failure.as_ref().map(|failure| failure.since);
        let no_engine = report.claiming.no_engine.as_ref().map(|failure| failure.since);
        let shortage = report.pressure.shortage.as_ref().map(|shortage| (shortage.of.clone(), shortage.since));
        (report.slots.clone(), report.phase, shortage, failed, no_engine)
    };
    of(said) != of(report)
}
