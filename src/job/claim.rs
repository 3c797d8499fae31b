//! The right to act for one attempt of a job.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::outcome::Outcome;
use super::record::Job;
use super::rejection::Rejection;
use crate::clock::Timestamp;
use crate::ids::{AttemptNo, ClaimToken, JobId, ObjectId, WorkerId};

/// A claim: every write made for a running job names it, and touches exactly one row or reports that the lease is lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The job.
    pub job: JobId,
    /// The attempt, new with this claim.
    pub attempt: AttemptNo,
    /// The secret that no other claim shares.
    pub token: ClaimToken,
    /// Who holds it.
    pub worker: WorkerId,
}

/// A job with the claim under which it may be run.
#[derive(Debug, Clone)]
pub struct ClaimedJob {
    /// The claim.
    pub claim: Claim,
    /// The job as it was when claimed.
    pub job: Job,
    /// When the claim was made, by the database's clock.
    pub claimed_at: Timestamp,
    /// When the claim expires unless renewed, by the database's clock.
    pub lease_until: Timestamp,
    /// The last attempt before this one, if there was one.
    pub previous: Option<PreviousAttempt>,
}

/// A question that an attempt asked, and what was answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Answer {
    /// The question.
    pub question: String,
    /// The answer.
    pub answer: String,
}

/// What an attempt is told of the one before it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PreviousAttempt {
    /// Its number.
    pub attempt: AttemptNo,
    /// How it ended, if that was recorded.
    pub outcome: Option<Outcome>,
    /// The commit that holds what it left uncommitted, if anything.
    pub salvage: Option<ObjectId>,
    /// Whether that is in the worktree from the beginning.
    pub taken_over: bool,
    /// What was wrong with each of the results that it came to.
    pub rejections: Vec<Rejection>,
}
