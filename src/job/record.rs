//! A job as it is on record.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::branch::BranchName;
use super::outcome::Outcome;
use super::schedule::Hold;
use super::spec::JobSpec;
use super::state::JobState;
use crate::clock::Timestamp;
use crate::ids::{AttemptNo, JobId, ObjectId, WorkerId};

/// A job: what was asked, and what became of it so far.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Job {
    /// Its id.
    pub id: JobId,
    /// What was asked, with project and defaults filled in.
    pub spec: JobSpec,
    /// The remote: a URL or a path that git accepts.
    pub repo: String,
    /// The branch, tag or commit to start from.
    pub base: String,
    /// The branch that the result is delivered on; no other job has it on this remote.
    pub branch: BranchName,
    /// Where it is in its life.
    pub state: JobState,
    /// Why a queued job cannot be claimed yet; absent when it can.
    pub held: Option<Hold>,
    /// When it may be claimed, where that is later than now: its `run_at`, or the end of a backoff. While it waits for
    /// an answer: when it fails for want of one.
    pub ready_at: Timestamp,
    /// The latest attempt, once there is one.
    pub attempt: Option<AttemptNo>,
    /// Attempts burnt since it was enqueued, or last retried.
    pub attempts_used: u32,
    /// Attempts it may burn.
    pub attempts_max: u32,
    /// Attempts that infrastructure failed since then.
    pub resets: u32,
    /// Who runs it.
    pub worker: Option<WorkerId>,
    /// When somebody asked for its end while it ran.
    pub cancel_requested_at: Option<Timestamp>,
    /// When somebody asked for its return to the queue while it ran; gone with the attempt.
    pub requeue_requested_at: Option<Timestamp>,
    /// How it ended; while it waits for a retry, how the last attempt ended.
    pub outcome: Option<Outcome>,
    /// The commit that it delivered.
    pub commit: Option<ObjectId>,
    /// When it was enqueued.
    pub created_at: Timestamp,
    /// When its first attempt began.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
}
