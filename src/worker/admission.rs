//! Admission: whether the host has room for another job, looked at on a clock of its own and never on a job's path.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::config::{AdmissionConfig, Config};
use super::costs::Costs;
use super::gate::Gate;
use super::janitor::Janitor;
use super::pressure::{Gauge, in_words, judge};
use crate::clock::Timestamp;
use crate::store::{Pressure, PressureLimits, Resource, Shortage, Store};
use crate::workspace::StateDir;

/// Looks at the host, and closes the gate while it is short of something.
#[derive(Debug, Clone)]
pub(super) struct Admission {
    config: AdmissionConfig,
    gauge: Gauge,
    costs: Costs,
    janitor: Janitor,
    store: Store,
    gate: Gate,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    pressure: Pressure,
    short: BTreeSet<Resource>,
}

impl Admission {
    pub(super) fn new(
        config: AdmissionConfig,
        (state, costs): (&StateDir, Costs),
        janitor: Janitor,
        store: &Store,
        gate: Gate,
    ) -> Self {
        let gauge = Gauge::new(state.root());
        Self { config, gauge, costs, janitor, store: store.clone(), gate, seen: Arc::default() }
    }

    /// What was seen last.
    pub(super) fn pressure(&self) -> Pressure {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).pressure.clone()
    }

    /// Runs [`Admission::look_once`] until the token is cancelled.
    pub(super) async fn look_loop(self, ended: CancellationToken) {
        while ended.run_until_cancelled(tokio::time::sleep(self.config.every)).await.is_some() {
            self.look_once().await;
        }
    }

    /// One look. A disk that is short of room is first rid of what is to be deleted anyway.
    pub(super) async fn look_once(&self) {
        let before = self.seen.lock().unwrap_or_else(PoisonError::into_inner).short.clone();
        let Some((mut pressure, mut short)) = self.read(&before).await else { return };
        if short.contains(&Resource::Disk) || short.contains(&Resource::Inodes) {
            self.janitor.sweep_once().await;
            let Some(again) = self.read(&before).await else { return };
            (pressure, short) = again;
        }
        if short.contains(&Resource::Disk) {
            // Up to where the gate opens again, so that this is not for nothing.
            let target = pressure.limits.disk_needed_bytes();
            let target = target.saturating_add(target / 4);
            if self.janitor.evict_once(target.saturating_sub(pressure.disk_free_bytes.unwrap_or(target))).await {
                let Some(again) = self.read(&before).await else { return };
                (pressure, short) = again;
            }
        }
        let since = self.gate.shortage().map_or_else(|| self.store.now(), |shortage| shortage.since);
        let shortage =
            (!short.is_empty()).then(|| Shortage { of: short.clone(), reason: in_words(&short, &pressure.limits), since });
        pressure.shortage.clone_from(&shortage);
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Seen { pressure, short };
        self.gate.set_shortage(shortage);
    }

    async fn read(&self, before: &BTreeSet<Resource>) -> Option<(Pressure, BTreeSet<Resource>)> {
        let (gauge, mut limits) = (self.gauge.clone(), PressureLimits::from(&self.config));
        limits.disk_job_bytes = self.costs.expected_bytes(Timestamp::now());
        match tokio::task::spawn_blocking(move || gauge.read(&limits)).await {
            Ok(pressure) => {
                let short = judge(&pressure, before);
                Some((pressure, short))
            }
            Err(error) => {
                warn!("looking at the host panicked: {error}; please report it as a defect");
                None
            }
        }
    }
}

/// What the host has to offer now, and what a worker of this configuration would be short of. Blocks.
#[must_use]
pub fn pressure_now(config: &Config) -> Pressure {
    let mut limits = PressureLimits::from(&config.admission);
    limits.disk_job_bytes = Costs::open(&config.state_dir, config.admission.disk_job).expected_bytes(Timestamp::now());
    let mut pressure = Gauge::new(&config.state_dir).read(&limits);
    let short = judge(&pressure, &BTreeSet::new());
    if !short.is_empty() {
        let reason = in_words(&short, &pressure.limits);
        pressure.shortage = Some(Shortage { of: short, reason, since: Timestamp::now() });
    }
    pressure
}

impl From<&AdmissionConfig> for PressureLimits {
    fn from(config: &AdmissionConfig) -> Self {
        Self {
            memory_available_bytes: config.memory_available.as_u64(),
            memory_stalled_percent: config.memory_stalled_percent,
            disk_free_bytes: config.disk_free.as_u64(),
            disk_job_bytes: config.disk_job.as_u64(),
            inodes_free: config.inodes_free,
        }
    }
}
