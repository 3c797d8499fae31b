//! What an explanation is made of: all that is known at one moment of a job and of what could keep it.

use crate::clock::Timestamp;
use crate::ids::{AttemptNo, JobId, WorkerId};
use crate::job::budget::BudgetUse;
use crate::job::worker_record::WorkerRecord;
use crate::job::{CompletionState, Job, JobState, Stage};

/// What is known at one moment.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The moment, by the clock by which leases run.
    pub now: Timestamp,
    /// The job.
    pub job: Job,
    /// It fails unless it has started by then; none once it has started.
    pub start_by: Option<Timestamp>,
    /// Why its end was asked for while it runs.
    pub cancel_reason: Option<String>,
    /// Why its return to the queue was asked for while it runs.
    pub requeue_reason: Option<String>,
    /// Until when the claim on it holds, while it runs.
    pub lease_until: Option<Timestamp>,
    /// Its latest attempt.
    pub attempt: Option<LatestAttempt>,
    /// The jobs that it waits for and that have not ended.
    pub needs: Vec<Need>,
    /// Its concurrency key.
    pub key: Option<LimitInUse>,
    /// Its project, where that has a limit.
    pub project: Option<LimitInUse>,
    /// The budgets that concern it, used up or not.
    pub budgets: Vec<BudgetUse>,
    /// The jobs that would be claimed before it, of those that ask the same of a worker; none where it cannot be claimed yet.
    pub ahead: Option<Count>,
    /// All workers that ever reported.
    pub workers: Vec<WorkerRecord>,
    /// Where what it delivered is in the queue of completions.
    pub completion: Option<CompletionPlace>,
}

/// The latest attempt at a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LatestAttempt {
    /// Its number.
    pub attempt: AttemptNo,
    /// Who ran it, or runs it.
    pub worker: WorkerId,
    /// When it was claimed.
    pub started_at: Timestamp,
    /// The stage that it is in, or ended in, and since when.
    pub stage: Option<(Stage, Timestamp)>,
    /// The length of its log so far, in bytes.
    pub log_bytes: u64,
    /// When the last piece of its log was read by the worker.
    pub logged_at: Option<Timestamp>,
}

/// A job that another waits for, and that has not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// Which.
    pub job: JobId,
    /// Whether it waits itself, or runs.
    pub state: JobState,
    /// Who runs it.
    pub worker: Option<WorkerId>,
    /// Since when it runs, or when it was enqueued.
    pub since: Timestamp,
}

/// How much of a limit is used up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitInUse {
    /// The concurrency key, or the project.
    pub name: String,
    /// So many may run.
    pub limit: u64,
    /// So many run.
    pub running: u64,
    /// Some of those that run, the oldest first.
    pub runners: Vec<Runner>,
    /// How many others the limit holds that come before the job.
    pub before: Count,
}

impl LimitInUse {
    /// Whether another job must wait.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.running >= self.limit
    }
}

/// A job that runs.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct Runner {
    /// Which.
    pub job: JobId,
    /// Who runs it.
    pub worker: WorkerId,
    /// When this attempt at it was claimed.
    pub since: Timestamp,
}

/// A number of jobs that was counted up to a bound only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct Count {
    /// How many there are, or the bound.
    pub jobs: u64,
    /// Whether there are more than these.
    pub more: bool,
}

impl Count {
    /// None at all.
    pub const NONE: Self = Self { jobs: 0, more: false };

    /// What was counted of at most `bound`, and one more where there was one.
    #[must_use]
    pub const fn bounded(counted: u64, bound: u64) -> Self {
        if counted > bound { Self { jobs: bound, more: true } } else { Self { jobs: counted, more: false } }
    }
}

/// Where what a job delivered is in the queue of completions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompletionPlace {
    /// Its state there.
    pub state: CompletionState,
    /// Who holds it, or took it.
    pub consumer: Option<String>,
    /// Until when that one holds it.
    pub lease_until: Option<Timestamp>,
    /// From when on it is handed out, while nobody has it and it is the first of its line.
    pub visible_at: Option<Timestamp>,
    /// The job whose completion is the first of its line, where that is another.
    pub behind: Option<JobId>,
    /// When it was delivered.
    pub created_at: Timestamp,
    /// Why it was last given back.
    pub last_error: Option<String>,
}
