//! What is on record of an attempt.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::completion::Usage;
use super::log::LogVerdict;
use super::outcome::{Outcome, OutcomeClass};
use super::rejection::Rejection;
use super::stage::Stage;
use super::time_limit::TimeLimit;
use crate::clock::Timestamp;
use crate::ids::{AttemptNo, ObjectId, WorkerId};

/// One attempt at a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AttemptRecord {
    /// Its number.
    pub attempt: AttemptNo,
    /// Who ran it.
    pub worker: WorkerId,
    /// When it was claimed.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// When it must be over, where somebody moved that while it ran.
    pub deadline_at: Option<Timestamp>,
    /// How it ended.
    pub outcome: Option<Outcome>,
    /// The commit that it started from, once that is known.
    pub base: Option<ObjectId>,
    /// Where its commands run, once that is decided.
    pub runs_on: Option<RunsOn>,
    /// What its processes used.
    pub resources: Resources,
    /// The commit on `refs/sawmill/salvage/<job>/<attempt>` that holds what it left uncommitted.
    pub salvage: Option<ObjectId>,
    /// What its backend said that it used of a model: while it runs, what is on record so far, which is nothing where no budget concerns the
    /// job.
    pub usage: Option<Usage>,
    /// What was wrong with each of the results that it came to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rejections: Vec<Rejection>,
    /// How long it may take, where that was learnt and nobody has set it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_limit: Option<TimeLimit>,
    /// Whether its log is whole, once that is known.
    pub log_verdict: Option<LogVerdict>,
    /// The length of its log so far, in bytes.
    pub log_bytes: u64,
    /// Its stages, in order.
    pub stages: Vec<StageRecord>,
}

/// Where the commands of an attempt run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "on", rename_all = "snake_case")]
pub enum RunsOn {
    /// As processes of the worker's host.
    Host,
    /// In a container.
    Container {
        /// Its image, by the digest: whatever a tag means later, this is what it was.
        image: String,
    },
}

impl fmt::Display for RunsOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => write!(f, "host"),
            Self::Container { image } => write!(f, "container of {image}"),
        }
    }
}

/// What the processes of an attempt used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Resources {
    /// The exit status of the backend's command.
    pub exit_code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// The most memory that the whole tree had resident at once, in bytes, as sampled.
    pub peak_memory_bytes: Option<u64>,
    /// The processor time of the whole tree, in milliseconds.
    pub cpu_ms: Option<u64>,
}

impl Resources {
    /// What one run after another used: of how it ended the later one.
    #[must_use]
    pub fn and_then(self, later: Self) -> Self {
        let both = |one: Option<u64>, other: Option<u64>, of: fn(u64, u64) -> u64| match (one, other) {
            (Some(one), Some(other)) => Some(of(one, other)),
            (one, other) => one.or(other),
        };
        Self {
            peak_memory_bytes: both(self.peak_memory_bytes, later.peak_memory_bytes, u64::max),
            cpu_ms: both(self.cpu_ms, later.cpu_ms, u64::saturating_add),
            ..later
        }
    }
}

/// One stage of an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StageRecord {
    /// Its place among the attempt's stages, from 0: a stage that runs again has a further place.
    pub seq: u32,
    /// Which.
    pub stage: Stage,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// How it ended: absent while it runs.
    pub outcome: Option<OutcomeClass>,
    /// What there is to say about it.
    pub detail: Option<String>,
}
