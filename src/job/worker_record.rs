//! A worker on record: what it says of itself, what is asked of it, and what follows from both.
//!
//! The one rule: what a worker says is stored as it says it, and what it *is* (offline, say) is computed when somebody looks,
//! so that a worker that says nothing any more is not shown as what it said last.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::label::Label;
use super::pause::Pause;
use super::spec::JobSpec;
use super::stage::Stage;
use crate::clock::Timestamp;
use crate::ids::{AttemptNo, JobId, WorkerId};

/// A worker that has missed so many of its own reports is offline.
const MISSED_REPORTS: i64 = 3;

/// What a worker says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WorkerReport {
    /// Its name.
    pub id: WorkerId,
    /// The host that it runs on.
    pub host: String,
    /// The build that it runs.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// The boot of the host that the process belongs to.
    pub boot_id: String,
    /// What it offers to any job.
    pub labels: Vec<Label>,
    /// Its backends.
    pub backends: Vec<OfferedBackend>,
    /// Its slots, and what is in them.
    pub slots: Vec<SlotRecord>,
    /// What it measured of its host.
    pub pressure: Pressure,
    /// How it fares with claiming.
    pub claiming: Claiming,
    /// What it is doing.
    pub phase: WorkerPhase,
    /// How often it reports, in milliseconds.
    pub report_ms: i64,
    /// When it started.
    pub started_at: Timestamp,
    /// When it last said so.
    pub seen_at: Timestamp,
}

impl WorkerReport {
    /// How long it may be silent until it counts as offline.
    #[must_use]
    pub fn patience(&self) -> Duration {
        Duration::from_millis(u64::try_from(self.report_ms.saturating_mul(MISSED_REPORTS)).unwrap_or(0))
    }
}

/// How a worker fares with claiming jobs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Claiming {
    /// When it last looked at the queue, with a slot in hand.
    pub asked_at: Option<Timestamp>,
    /// When it last claimed a job.
    pub claimed_at: Option<Timestamp>,
    /// Why it cannot, where the last try failed.
    pub failure: Option<ClaimFailure>,
    /// Why it leaves the jobs that need a container, where no engine answers that could make one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_engine: Option<NoEngine>,
}

/// Why a worker has no containers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NoEngine {
    /// What was found.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
    /// Whether it leaves the jobs that do not say where they run, too: its `container.mode` is `on`.
    pub leaves_all: bool,
}

impl NoEngine {
    /// Whether it leaves a job because of that.
    #[must_use]
    pub fn leaves(&self, spec: &JobSpec) -> bool {
        spec.needs_container() || (self.leaves_all && !spec.needs_host())
    }
}

/// Why a worker cannot claim jobs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ClaimFailure {
    /// What went wrong last.
    pub reason: String,
    /// When it first failed, of the tries that failed since the last one that did not.
    pub since: Timestamp,
}

/// A backend of a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OfferedBackend {
    /// Its name.
    pub name: String,
    /// What it draws on.
    pub credential: String,
    /// What it offers to its jobs, beside what the worker does.
    pub capabilities: Vec<Label>,
}

/// A slot of a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SlotRecord {
    /// Its number, from 0.
    pub number: u32,
    /// What is in it.
    #[serde(flatten)]
    pub content: SlotContent,
}

/// What is in a slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum SlotContent {
    /// Nothing.
    Free,
    /// An attempt at a job.
    Busy {
        /// The job.
        job: JobId,
        /// The attempt.
        attempt: AttemptNo,
        /// The stage that it is in, once it is in one.
        stage: Option<Stage>,
        /// When it was claimed.
        since: Timestamp,
    },
    /// It cannot take a job until the worker has mended it, which it tries again and again.
    Broken {
        /// Why.
        reason: String,
        /// Since when.
        since: Timestamp,
    },
}

/// What a worker measured of its host; absent where the system does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Pressure {
    /// Memory that can be had without swapping: the host's, or what the worker's control group leaves where that is less.
    pub memory_available_bytes: Option<u64>,
    /// The share of the last ten seconds in which everything stood still for want of memory, in percent.
    pub memory_stalled_percent: Option<u8>,
    /// Room on the disk of the state directory.
    pub disk_free_bytes: Option<u64>,
    /// Files that can still be made there; absent where the file system does not count them.
    pub inodes_free: Option<u64>,
    /// Beyond what it claims no job.
    pub limits: PressureLimits,
    /// Why it claims no job now, where it is short of something.
    pub shortage: Option<Shortage>,
}

/// Beyond what a worker claims no job; 0 where that does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PressureLimits {
    /// The least memory.
    pub memory_available_bytes: u64,
    /// The highest share of time without memory, in percent.
    pub memory_stalled_percent: u8,
    /// The least room on the disk.
    pub disk_free_bytes: u64,
    /// What a further job is expected to take of the disk beside that, by what jobs of the same repositories took.
    pub disk_job_bytes: u64,
    /// What the jobs that run are expected to take there yet, each as much as a further one.
    #[serde(default)]
    pub disk_running_bytes: u64,
    /// The fewest files that can still be made.
    pub inodes_free: u64,
    /// How many a further job is expected to make beside that.
    #[serde(default)]
    pub inodes_job: u64,
    /// How many the jobs that run are expected to make yet.
    #[serde(default)]
    pub inodes_running: u64,
}

impl PressureLimits {
    /// The least room on the disk with which a further job fits.
    #[must_use]
    pub const fn disk_needed_bytes(&self) -> u64 {
        needed(self.disk_free_bytes, self.disk_running_bytes, self.disk_job_bytes)
    }

    /// The fewest files that can still be made with which a further job fits.
    #[must_use]
    pub const fn inodes_needed(&self) -> u64 {
        needed(self.inodes_free, self.inodes_running, self.inodes_job)
    }
}

const fn needed(free: u64, running: u64, job: u64) -> u64 {
    // Who wants nothing to stay free does not want to be held up either.
    if free == 0 { 0 } else { free.saturating_add(running).saturating_add(job) }
}

/// Something that a host can be short of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    /// Memory that can be had without swapping.
    Memory,
    /// Time in which tasks do not stand still for want of memory.
    MemoryStalls,
    /// Room on the disk of the state directory.
    Disk,
    /// Files that can still be made there.
    Inodes,
}

/// Why a worker claims no job by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Shortage {
    /// What its host is short of.
    pub of: BTreeSet<Resource>,
    /// In words.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
}

/// A request to drain a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Drain {
    /// When it was asked for.
    pub asked_at: Timestamp,
    /// By whom, as they call themselves.
    pub asked_by: String,
    /// Why; it may be empty.
    pub reason: String,
}

/// What a worker is doing, by its own account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WorkerPhase {
    /// It takes jobs, unless it is short of something.
    Running,
    /// It takes no more jobs, and none is being claimed.
    Draining,
    /// It has ended in good order.
    Stopped,
}

impl WorkerPhase {
    /// The word used on the wire and in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Draining => "draining",
            Self::Stopped => "stopped",
        }
    }
}

/// What a worker is, seen from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WorkerState {
    /// It takes jobs.
    Running,
    /// It takes no jobs because its host is short of something, and will by itself.
    Paused,
    /// It was told to take no more jobs.
    Draining,
    /// It has ended in good order.
    Stopped,
    /// It has missed its reports: it was killed, its host is gone, or it cannot reach the database.
    Offline,
}

impl WorkerState {
    /// The word used on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Draining => "draining",
            Self::Stopped => "stopped",
            Self::Offline => "offline",
        }
    }
}

impl std::fmt::Display for WorkerState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// A worker on record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WorkerRecord {
    /// What it says of itself.
    #[serde(flatten)]
    pub report: WorkerReport,
    /// Who asked for its drain, if somebody did.
    pub drain: Option<Drain>,
    /// The credentials of its backends that are paused.
    pub pauses: Vec<Pause>,
    /// How many jobs it runs, by the jobs' own record.
    pub jobs: u32,
    /// What it is, as of now.
    pub state: WorkerState,
}

impl WorkerRecord {
    /// What follows from a report, a request and the pauses on record, as of `now`.
    #[must_use]
    pub fn new(report: WorkerReport, drain: Option<Drain>, pauses: &[Pause], jobs: u32, now: Timestamp) -> Self {
        let concerns = |pause: &&Pause| pause.is_on(now) && report.backends.iter().any(|has| has.credential == pause.credential);
        let pauses = pauses.iter().filter(concerns).cloned().collect();
        let patience = report.patience();
        let state = match report.phase {
            WorkerPhase::Stopped => WorkerState::Stopped,
            _ if now.since(report.seen_at) > patience => WorkerState::Offline,
            WorkerPhase::Draining => WorkerState::Draining,
            WorkerPhase::Running if drain.is_some() => WorkerState::Draining,
            WorkerPhase::Running if report.pressure.shortage.is_some() => WorkerState::Paused,
            WorkerPhase::Running => WorkerState::Running,
        };
        Self { report, drain, pauses, jobs, state }
    }

    /// The pause of what a backend draws on, if it is paused.
    #[must_use]
    pub fn pause_of(&self, backend: &OfferedBackend) -> Option<&Pause> {
        self.pauses.iter().find(|pause| pause.credential == backend.credential)
    }

    /// How many of its slots could take a job.
    #[must_use]
    pub fn free_slots(&self) -> usize {
        self.report.slots.iter().filter(|slot| slot.content == SlotContent::Free).count()
    }

    /// Whether it has heard of a drain, claims nothing any more and runs nothing any more.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.jobs == 0 && (self.report.phase != WorkerPhase::Running || self.state == WorkerState::Offline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_what_it_says_and_what_is_asked_of_it_until_it_falls_silent() {
        let drain = || Drain { asked_at: Timestamp(1), asked_by: "op".to_owned(), reason: String::new() };
        let check = |phase, short: bool, drained: bool, silence_ms: i64, expected: WorkerState| {
            let shortage =
                short.then(|| Shortage { of: [Resource::Memory].into(), reason: "memory".to_owned(), since: Timestamp(0) });
            let report = WorkerReport {
                id: WorkerId::new("w"),
                host: String::new(),
                version: String::new(),
                pid: 1,
                boot_id: String::new(),
                labels: Vec::new(),
                backends: Vec::new(),
                slots: Vec::new(),
                pressure: Pressure { shortage, ..Pressure::default() },
                claiming: Claiming::default(),
                phase,
                report_ms: 1_000,
                started_at: Timestamp(0),
                seen_at: Timestamp(10_000),
            };
            let record = WorkerRecord::new(report, drained.then(drain), &[], 0, Timestamp(10_000 + silence_ms));
            assert_eq!(record.state, expected, "{phase:?} {short} {drained} {silence_ms}");
        };
        check(WorkerPhase::Running, false, false, 3_000, WorkerState::Running);
        check(WorkerPhase::Running, false, false, 3_001, WorkerState::Offline);
        check(WorkerPhase::Running, true, false, 0, WorkerState::Paused);
        check(WorkerPhase::Running, true, true, 0, WorkerState::Draining);
        check(WorkerPhase::Draining, false, false, 0, WorkerState::Draining);
        check(WorkerPhase::Draining, false, true, 9_000, WorkerState::Offline);
        check(WorkerPhase::Stopped, true, true, 9_000, WorkerState::Stopped);
    }
}
