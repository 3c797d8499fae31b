//! Admission: whether the host has room for another job, looked at on a clock of its own and never on a job's path.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::config::{AdmissionConfig, Config};
use super::costs::Costs;
use super::gate::Gate;
use super::janitor::Janitor;
use super::leases::Leases;
use super::pressure::{Gauge, in_words, judge, lacking};
use crate::clock::Timestamp;
use crate::janitor::Space;
use crate::job::Claim;
use crate::store::{Pressure, PressureLimits, Resource, Shortage, Store};
use crate::workspace::StateDir;

/// Looks at the host, and closes the gate while it is short of something.
#[derive(Debug, Clone)]
pub(super) struct Admission {
    config: AdmissionConfig,
    gauge: Gauge,
    costs: Costs,
    leases: Leases,
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
        (state, costs, leases): (&StateDir, Costs, &Leases),
        janitor: Janitor,
        store: &Store,
        gate: Gate,
    ) -> Self {
        let gauge = Gauge::new(state.root());
        Self { config, gauge, costs, leases: leases.clone(), janitor, store: store.clone(), gate, seen: Arc::default() }
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
        // Up to where the gate opens again, so that this is not for nothing.
        let wanted = lacking(&pressure, &short);
        if !wanted.is_none() && self.janitor.evict_once(wanted).await {
            let Some(again) = self.read(&before).await else { return };
            (pressure, short) = again;
        }
        let since = self.gate.shortage().map_or_else(|| self.store.now(), |shortage| shortage.since);
        let shortage =
            (!short.is_empty()).then(|| Shortage { of: short.clone(), reason: in_words(&short, &pressure.limits), since });
        pressure.shortage.clone_from(&shortage);
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Seen { pressure, short };
        self.gate.set_shortage(shortage);
    }

    /// How many further jobs fit on the disk as it is now. One look at the host is for one job, and a claim may be for many: those that
    /// it takes, and what those before it have not taken yet, must fit together.
    pub(super) fn fitting(&self) -> usize {
        usize::try_from(self.gauge.disk().jobs(&self.limits())).unwrap_or(usize::MAX)
    }

    fn limits(&self) -> PressureLimits {
        limits(&self.config, &self.costs, &self.leases.claims())
    }

    async fn read(&self, before: &BTreeSet<Resource>) -> Option<(Pressure, BTreeSet<Resource>)> {
        let (gauge, limits) = (self.gauge.clone(), self.limits());
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

/// What the disk of the state directory lacks, of room and of inodes, until a worker is certain to claim again.
#[must_use]
pub fn space_lacking(pressure: &Pressure) -> Space {
    lacking(pressure, &[Resource::Disk, Resource::Inodes].into())
}

/// What the host has to offer now, and what a worker of this configuration would be short of. Blocks.
#[must_use]
pub fn pressure_now(config: &Config) -> Pressure {
    let costs = Costs::open(&config.state_dir, config.admission.disk_job);
    let limits = limits(&config.admission, &costs, &[]);
    let mut pressure = Gauge::new(&config.state_dir).read(&limits);
    let short = judge(&pressure, &BTreeSet::new());
    if !short.is_empty() {
        let reason = in_words(&short, &pressure.limits);
        pressure.shortage = Some(Shortage { of: short, reason, since: Timestamp::now() });
    }
    pressure
}

/// Beyond what no further job is claimed while attempts run under these claims.
fn limits(config: &AdmissionConfig, costs: &Costs, claims: &[Claim]) -> PressureLimits {
    let job = costs.expected(Timestamp::now());
    let running = costs.outstanding(claims, job);
    PressureLimits {
        memory_available_bytes: config.memory_available.as_u64(),
        memory_stalled_percent: config.memory_stalled_percent,
        disk_free_bytes: config.disk_free.as_u64(),
        disk_job_bytes: job.bytes,
        disk_running_bytes: running.bytes,
        inodes_free: config.inodes_free,
        inodes_job: job.inodes,
        inodes_running: running.inodes,
    }
}
