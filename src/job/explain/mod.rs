//! Why a job does not run: facts in, reasons out.
//!
//! The one rule: whoever asks gets an answer, whatever state the job is in, and for each worker what it is that keeps it from
//! running the job there; never merely that it waits. Reasons are worked out from what is true now (what runs under a key,
//! say), not from what the queue last noted about the job. The facts are gathered by the store.

pub mod cause;
pub mod facts;
pub mod obstacle;
mod queued;
mod started;
mod words;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use self::cause::Cause;
pub use self::facts::Facts;
pub use self::obstacle::Obstacle;
use crate::clock::Timestamp;
use crate::ids::{JobId, WorkerId};
use crate::job::JobState;
use crate::job::worker_record::WorkerState;

/// At most so many things that would change it are named.
const CHANGES_MAX: usize = 8;

/// Why a job does not run, or where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Explanation {
    /// The job.
    pub job: JobId,
    /// Where it is in its life.
    pub state: JobState,
    /// As of when.
    pub at: Timestamp,
    /// The answer in one sentence, for people.
    #[schema(
        example = "waits: key \"deploy\" is at its limit of 1: job 01a1fe1d-83ca-7008-b10e-057f2de26c06 has run on w1 for 3m 12s"
    )]
    pub answer: String,
    /// It fails unless it has started by then.
    pub start_by: Option<Timestamp>,
    /// What about the job itself keeps it, or where it is.
    pub reasons: Vec<Reason>,
    /// For a job that waits: each worker, those that would take it soonest first.
    pub workers: Vec<WorkerAnswer>,
    /// What would change it, for people; the most promising first. What would change it on one worker is said there.
    pub changes: Vec<String>,
}

/// What about a job itself keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Reason {
    /// What it is.
    #[serde(flatten)]
    pub cause: Cause,
    /// The same for people.
    pub text: String,
}

/// Why a job does not run on one worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WorkerAnswer {
    /// The worker.
    pub worker: WorkerId,
    /// Its host.
    pub host: String,
    /// What it is.
    pub state: WorkerState,
    /// When it last reported.
    pub seen_at: Timestamp,
    /// Whether it has the backend and offers all that the job requires.
    pub suits: bool,
    /// How many of its slots could take a job.
    pub free_slots: u32,
    /// The answer for this worker in one sentence, for people. Where nothing about the worker keeps the job, what else does.
    pub answer: String,
    /// What about this worker keeps the job; none where it could take it.
    pub obstacles: Vec<Obstacle>,
    /// What would change each of these, for people.
    #[serde(default)]
    pub changes: Vec<String>,
}

/// Why a job does not run, or where it is.
#[must_use]
pub fn explain(facts: &Facts) -> Explanation {
    let (verb, causes) = match facts.job.state {
        JobState::Queued => return queued::explain(facts),
        JobState::Running if facts.job.cancel_requested_at.is_some() => ("is being ended: ", started::running(facts)),
        JobState::Running if facts.job.requeue_requested_at.is_some() => ("is being given back: ", started::running(facts)),
        JobState::Running => ("runs: ", started::running(facts)),
        JobState::Succeeded => ("succeeded ", started::ended(facts)),
        JobState::Failed => ("failed ", started::ended(facts)),
        JobState::Cancelled => ("was cancelled ", started::ended(facts)),
    };
    let changes = causes.iter().filter_map(|cause| cause.change(facts.job.id)).collect();
    let answer = format!("{verb}{}", in_one_sentence(&causes, facts.now, "; "));
    Explanation::new(facts, answer, causes, Vec::new(), changes)
}

impl Explanation {
    fn new(facts: &Facts, answer: String, causes: Vec<Cause>, workers: Vec<WorkerAnswer>, mut changes: Vec<String>) -> Self {
        let mut seen = BTreeSet::new();
        changes.retain(|change| seen.insert(change.clone()));
        changes.truncate(CHANGES_MAX);
        Self {
            job: facts.job.id,
            state: facts.job.state,
            at: facts.now,
            answer,
            start_by: facts.start_by.filter(|_| facts.job.state == JobState::Queued),
            reasons: causes.into_iter().map(|cause| Reason { text: cause.text(facts.now), cause }).collect(),
            workers,
            changes,
        }
    }
}

/// The first cause of each sort, with the number of the others.
fn in_one_sentence(causes: &[Cause], now: Timestamp, between: &str) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut sorts = Vec::new();
    for cause in causes {
        if sorts.contains(&cause.sort()) {
            continue;
        }
        sorts.push(cause.sort());
        let more = causes.iter().filter(|other| other.sort() == cause.sort()).count() - 1;
        let more =
            if more == 0 { String::new() } else { format!(" (and {})", words::many(more as u64, "more job", "more jobs")) };
        parts.push(format!("{}{more}", cause.text(now)));
    }
    parts.join(between)
}
