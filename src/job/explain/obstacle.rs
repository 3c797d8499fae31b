//! What about a worker keeps it from running a job: each with its sentence and with what would change it.
//!
//! The one rule: of a worker that is away only what does not change with time is said (its backends and labels), not what it
//! last measured.

use std::collections::BTreeSet;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::words::{ago, later, list, long, many};
use crate::clock::Timestamp;
use crate::ids::JobId;
use crate::job::worker_record::{OfferedBackend, Pressure, Resource, SlotContent, WorkerPhase, WorkerRecord, WorkerState};
use crate::job::{JobSpec, Label};

/// What about a worker keeps it from running a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Obstacle {
    /// It has missed its reports.
    Offline {
        /// When it last reported.
        seen_at: Timestamp,
    },
    /// It has ended in good order.
    Stopped {
        /// When.
        seen_at: Timestamp,
    },
    /// Somebody asked it to take no more jobs.
    Drained {
        /// When.
        asked_at: Timestamp,
        /// Who.
        asked_by: String,
        /// Why; it may be empty.
        reason: String,
    },
    /// A signal told it to end.
    Stopping,
    /// It does not have the job's backend.
    Backend {
        /// The backend.
        backend: String,
        /// Those that it has.
        has: Vec<String>,
    },
    /// It does not offer all that the job requires.
    Label {
        /// What it does not offer.
        missing: Vec<String>,
    },
    /// Something that the job requires is a capability of another of its backends.
    Capability {
        /// What.
        missing: Vec<String>,
        /// The backends that have some of it.
        of: Vec<String>,
    },
    /// Its host is short of something.
    Short {
        /// Of what.
        of: BTreeSet<Resource>,
        /// Since when.
        since: Timestamp,
        /// In words.
        reason: String,
        /// What was last measured, in words.
        measured: String,
    },
    /// What the job's backend draws on is paused.
    Paused {
        /// The backend.
        backend: String,
        /// What it draws on.
        credential: String,
        /// Since when.
        since: Timestamp,
        /// Until when.
        until: Timestamp,
        /// Why.
        reason: String,
        /// Whether that is when the limit is reset, and no guess.
        reset_known: bool,
    },
    /// It asks the queue for jobs, and fails.
    CannotClaim {
        /// Since when.
        since: Timestamp,
        /// How.
        reason: String,
    },
    /// The job is to run in a container there, and no engine answers it that makes any.
    NoEngine {
        /// Since when.
        since: Timestamp,
        /// Why.
        reason: String,
    },
    /// None of its slots can take a job.
    NoSlot {
        /// How many it has.
        slots: u32,
        /// The jobs in them.
        taken: Vec<Taken>,
        /// Those that cannot be used.
        broken: Vec<BrokenSlot>,
    },
}

/// A slot with a job in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Taken {
    /// The slot.
    pub slot: u32,
    /// The job.
    pub job: JobId,
    /// When it was claimed.
    pub since: Timestamp,
}

/// A slot that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BrokenSlot {
    /// The slot.
    pub slot: u32,
    /// Why.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
}

/// All that keeps `worker` from running a job that asks for `spec`.
pub(super) fn obstacles(worker: &WorkerRecord, spec: &JobSpec) -> Vec<Obstacle> {
    let report = &worker.report;
    let away = match worker.state {
        WorkerState::Offline => Some(Obstacle::Offline { seen_at: report.seen_at }),
        WorkerState::Stopped => Some(Obstacle::Stopped { seen_at: report.seen_at }),
        _ => None,
    };
    let is_away = away.is_some();
    let drain = worker.drain.as_ref().map(|drain| Obstacle::Drained {
        asked_at: drain.asked_at,
        asked_by: drain.asked_by.clone(),
        reason: drain.reason.clone(),
    });
    let stopping = (drain.is_none() && report.phase == WorkerPhase::Draining).then_some(Obstacle::Stopping);
    let now = [stopping, short(&report.pressure), cannot_claim(worker), no_engine(worker, spec), no_slot(worker)];
    // Whether its worker is there or not.
    let paused = paused(worker, spec);
    away.into_iter()
        .chain(unsuitable(worker, spec))
        .chain(paused)
        .chain(drain)
        .chain(now.into_iter().flatten().filter(|_| !is_away))
        .collect()
}

/// What no waiting changes.
fn unsuitable(worker: &WorkerRecord, spec: &JobSpec) -> Vec<Obstacle> {
    let report = &worker.report;
    let wanted = spec.backend.as_deref().unwrap_or_default();
    let Some(backend) = report.backends.iter().find(|backend| backend.name == wanted) else {
        let has = report.backends.iter().map(|backend| backend.name.clone()).collect();
        return vec![Obstacle::Backend { backend: wanted.to_owned(), has }];
    };
    let offers = |labels: &[Label], word: &str| labels.iter().any(|label| label.as_str() == word);
    let missing =
        spec.requirements().into_iter().filter(|word| !offers(&report.labels, word) && !offers(&backend.capabilities, word));
    let having = |words: &[&str]| {
        let has = |other: &&OfferedBackend| words.iter().any(|word| offers(&other.capabilities, word));
        report.backends.iter().filter(has).map(|other| other.name.clone()).collect::<Vec<String>>()
    };
    let (elsewhere, nowhere): (Vec<&str>, Vec<&str>) = missing.partition(|word| !having(&[*word]).is_empty());
    let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<String>>();
    let label = (!nowhere.is_empty()).then(|| Obstacle::Label { missing: owned(&nowhere) });
    let capability = (!elsewhere.is_empty()).then(|| Obstacle::Capability { missing: owned(&elsewhere), of: having(&elsewhere) });
    label.into_iter().chain(capability).collect()
}

fn paused(worker: &WorkerRecord, spec: &JobSpec) -> Option<Obstacle> {
    let wanted = spec.backend.as_deref().unwrap_or_default();
    let pause = worker.pause_of(worker.report.backends.iter().find(|backend| backend.name == wanted)?)?;
    Some(Obstacle::Paused {
        backend: wanted.to_owned(),
        credential: pause.credential.clone(),
        since: pause.since,
        until: pause.until,
        reason: pause.reason.clone(),
        reset_known: pause.reset_known,
    })
}

fn short(pressure: &Pressure) -> Option<Obstacle> {
    let shortage = pressure.shortage.as_ref()?;
    let size = |bytes: u64| ByteSize(bytes).to_string();
    let measured = shortage.of.iter().filter_map(|of| match of {
        Resource::Memory => pressure.memory_available_bytes.map(|bytes| format!("{} of memory", size(bytes))),
        Resource::MemoryStalls => pressure.memory_stalled_percent.map(|percent| format!("stalls {percent} % of the time")),
        Resource::Disk => pressure.disk_free_bytes.map(|bytes| format!("{} of disk", size(bytes))),
        Resource::Inodes => pressure.inodes_free.map(|count| format!("{count} inodes")),
    });
    Some(Obstacle::Short {
        of: shortage.of.clone(),
        since: shortage.since,
        reason: shortage.reason.clone(),
        measured: list(measured),
    })
}

fn cannot_claim(worker: &WorkerRecord) -> Option<Obstacle> {
    let failure = worker.report.claiming.failure.as_ref()?;
    Some(Obstacle::CannotClaim { since: failure.since, reason: failure.reason.clone() })
}

fn no_engine(worker: &WorkerRecord, spec: &JobSpec) -> Option<Obstacle> {
    let none = worker.report.claiming.no_engine.as_ref().filter(|none| none.leaves(spec))?;
    Some(Obstacle::NoEngine { since: none.since, reason: none.reason.clone() })
}

fn no_slot(worker: &WorkerRecord) -> Option<Obstacle> {
    let slots = &worker.report.slots;
    let broken: Vec<BrokenSlot> = slots
        .iter()
        .filter_map(|slot| match &slot.content {
            SlotContent::Broken { reason, since } => {
                Some(BrokenSlot { slot: slot.number, reason: reason.clone(), since: *since })
            }
            _ => None,
        })
        .collect();
    // The queue's own record of what it runs is ahead of what it last reported.
    let taken = slots.len() - broken.len() <= worker.jobs as usize;
    if worker.free_slots() > 0 && !taken {
        return None;
    }
    let taken = slots.iter().filter_map(|slot| match &slot.content {
        SlotContent::Busy { job, since, .. } => Some(Taken { slot: slot.number, job: *job, since: *since }),
        _ => None,
    });
    Some(Obstacle::NoSlot { slots: u32::try_from(slots.len()).unwrap_or(u32::MAX), taken: taken.collect(), broken })
}

impl Obstacle {
    /// Whether the worker is not there.
    pub(super) const fn is_absence(&self) -> bool {
        matches!(self, Self::Offline { .. } | Self::Stopped { .. })
    }

    /// What the job asks for and the worker does not offer, where this is about that; a backend counts as all of it.
    pub(super) fn lacks(&self) -> Option<&[String]> {
        match self {
            Self::Backend { .. } => Some(&[]),
            Self::Label { missing } | Self::Capability { missing, .. } => Some(missing),
            _ => None,
        }
    }

    /// What the worker is or has, in a few words.
    pub(super) fn brief(&self) -> String {
        match self {
            Self::Offline { .. } => "is offline".to_owned(),
            Self::Stopped { .. } => "has stopped".to_owned(),
            Self::Drained { .. } => "is drained".to_owned(),
            Self::Stopping => "is about to stop".to_owned(),
            Self::Backend { backend, .. } => format!("does not have the backend {backend:?}"),
            Self::Label { missing } | Self::Capability { missing, .. } => format!("does not offer {}", list(missing)),
            Self::Short { reason, .. } => format!("claims nothing ({reason})"),
            Self::Paused { backend, credential, until, .. } => {
                format!("starts no job of backend {backend:?} until {until} (credential {credential:?} is paused)")
            }
            Self::CannotClaim { .. } => "cannot claim jobs".to_owned(),
            Self::NoEngine { .. } => "has no container for it".to_owned(),
            Self::NoSlot { slots: 0, .. } => "has no slots".to_owned(),
            Self::NoSlot { taken, broken, .. } if taken.is_empty() && !broken.is_empty() => "has broken slots only".to_owned(),
            Self::NoSlot { .. } => "has no free slot".to_owned(),
        }
    }

    /// The sentence.
    pub(super) fn text(&self, now: Timestamp) -> String {
        match self {
            Self::Offline { seen_at } => format!("it last reported {}", ago(*seen_at, now)),
            Self::Stopped { seen_at } => format!("it ended {}", ago(*seen_at, now)),
            Self::Drained { asked_at, asked_by, reason } => {
                let reason = if reason.is_empty() { String::new() } else { format!(": {reason}") };
                format!("{asked_by} asked for its drain {}{reason}", ago(*asked_at, now))
            }
            Self::Stopping => "it was told to end, and takes no more jobs".to_owned(),
            Self::Backend { backend, has } if has.is_empty() => {
                format!("it does not have the backend {backend:?}, nor any other")
            }
            Self::Backend { backend, has } => format!("it does not have the backend {backend:?}; it has {}", list(has)),
            Self::Label { missing } => format!("it does not offer {}", list(missing)),
            Self::Capability { missing, of } => {
                let of = list(of.iter().map(|backend| format!("{backend:?}")));
                format!("it offers {} with the backend {of} only", list(missing))
            }
            Self::Short { since, reason, measured, .. } => {
                format!("it has claimed nothing for {}: {reason} (measured: {measured})", long(now.since(*since)))
            }
            Self::Paused { backend, credential, since, until, reason, reset_known } => {
                let guess = if *reset_known { "" } else { ", which is a guess" };
                format!(
                    "credential {credential:?}, which its backend {backend:?} draws on, was paused {} and is tried again {}{guess}: \
                     {reason}",
                    ago(*since, now),
                    later(*until, now)
                )
            }
            Self::CannotClaim { since, reason } => {
                format!("it has not been able to claim for {}: {reason}", long(now.since(*since)))
            }
            Self::NoEngine { since, reason } => {
                format!("the job is to run in a container, and for {} there was none: {reason}", long(now.since(*since)))
            }
            Self::NoSlot { slots: 0, .. } => "it has no slots".to_owned(),
            Self::NoSlot { slots, taken, broken } => slots_in_words(*slots, taken, broken, now),
        }
    }

    /// What would change it.
    pub(super) fn change(&self, worker: &WorkerRecord) -> String {
        let (id, host) = (&worker.report.id, &worker.report.host);
        match self {
            Self::Offline { .. } => format!("{id}, once it runs on {host} again and reaches the database"),
            Self::Stopped { .. } | Self::Stopping => format!("{id}, once it is started on {host} again"),
            Self::Drained { .. } => format!("sawmill workers resume {id}"),
            Self::Short { of, .. } => {
                let more = of.iter().map(|resource| match resource {
                    Resource::Memory => "more free memory",
                    Resource::MemoryStalls => "fewer stalls for want of memory",
                    Resource::Disk => "more room on the disk of its state directory",
                    Resource::Inodes => "more free inodes on the disk of its state directory",
                });
                format!("{} on {host}; {id} goes on by itself", list(more))
            }
            Self::Paused { credential, until, .. } => {
                format!("time, until {until}; sawmill pauses lift {credential} tries the credential at once")
            }
            Self::CannotClaim { .. } => format!("what sawmill doctor on {host} finds"),
            Self::NoEngine { .. } => format!("Docker or Podman on {host}; {id} looks for it by itself"),
            Self::NoSlot { slots: 0, .. } => format!("a higher worker.slots of {id}"),
            Self::NoSlot { taken, broken, .. } if taken.is_empty() && !broken.is_empty() => {
                format!("{id}, which tries its broken slots again every few seconds; its log says why they are")
            }
            Self::NoSlot { .. } => format!("the end of a job on {id}, a higher worker.slots there, or one more worker"),
            Self::Backend { backend, .. } => format!("[backends.{backend}] in the configuration of {id}, and its restart"),
            Self::Label { missing } => {
                format!("{} among worker.labels of {id}, where that is true, and its restart", list(missing))
            }
            Self::Capability { missing, .. } => {
                format!("{} among its backend's capabilities on {id}, where that is true, and its restart", list(missing))
            }
        }
    }
}

fn slots_in_words(slots: u32, taken: &[Taken], broken: &[BrokenSlot], now: Timestamp) -> String {
    let shown = taken.iter().take(3).map(|Taken { job, since, .. }| format!("job {job} for {}", long(now.since(*since))));
    let hidden = taken.len().saturating_sub(3) as u64;
    let others = (hidden > 0).then(|| many(hidden, "other", "others"));
    let jobs = if taken.is_empty() { String::new() } else { format!(": {}", list(shown.chain(others))) };
    let broken = broken.first().map(|first| {
        let count = many(broken.len() as u64, "is broken", "are broken");
        format!("; {count}: {}", first.reason)
    });
    let none = if slots == 1 { "its only slot is not free".to_owned() } else { format!("none of its {slots} slots is free") };
    format!("{none}{jobs}{}", broken.unwrap_or_default())
}
