//! What goes into the store and what comes out of it, beyond the records of the `job` room.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::clock::Timestamp;
use crate::ids::{AttemptNo, ClaimToken, CompletionId, JobId, ObjectId, WorkerId};
use crate::job::attempt::{Resources, StageRecord};
use crate::job::completion::Usage;
use crate::job::worker_record::NoEngine;
use crate::job::{
    BranchName, Completion, CompletionEntry, CompletionState, Hold, Job, JobSpec, JobState, LogChunk, LogVerdict, Outcome,
};

/// A job to enqueue, with everything filled in that the planner left out.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// Its id. Enqueuing the same id with the same digest again is answered with the job that is there.
    pub id: JobId,
    /// The effective document; it names a backend. Its `run_at` counts where that is to come, by the clock that leases run by.
    pub spec: JobSpec,
    /// The remote.
    pub repo: String,
    /// The branch, tag or commit to start from.
    pub base: String,
    /// The branch to deliver on. Explicit where `spec.deliver.branch` is there: then a taken one is an error. Otherwise a
    /// taken one is told apart by the job's id.
    pub branch: BranchName,
    /// Attempts it may burn.
    pub attempts_max: u32,
    /// How often it is its project's turn, against other projects' 1.
    pub weight: u32,
    /// How many jobs of its project may wait.
    pub waiting_max: Option<u32>,
    /// A digest of the document as it was sent, by which a repeated idempotency key is judged.
    pub digest: String,
}

/// What became of a job that was to be enqueued.
#[derive(Debug, Clone)]
pub enum Enqueued {
    /// It is new.
    Created(Job),
    /// It was there already, under the same idempotency key (or id) and with the same digest.
    Existing(Job),
}

impl Enqueued {
    /// The job, new or not.
    #[must_use]
    pub fn into_job(self) -> Job {
        match self {
            Self::Created(job) | Self::Existing(job) => job,
        }
    }
}

/// Which jobs to list.
#[derive(Debug, Clone, Default)]
pub struct JobFilter {
    /// Only those in this state.
    pub state: Option<JobState>,
    /// Only those that are held for this reason.
    pub held: Option<Hold>,
    /// Only those of this project.
    pub project: Option<String>,
    /// Only those of this execution.
    pub execution: Option<String>,
    /// Only those enqueued before this one: the last of the page before.
    pub before: Option<JobId>,
    /// At most so many.
    pub limit: u32,
}

/// Which completions to list.
#[derive(Debug, Clone, Default)]
pub struct CompletionFilter {
    /// Only those in this state.
    pub state: Option<CompletionState>,
    /// Only those of this job.
    pub job: Option<JobId>,
    /// Only those written before this one: the last of the page before.
    pub before: Option<CompletionId>,
    /// At most so many.
    pub limit: u32,
}

/// A page of a list, newest first.
#[derive(Debug, Clone)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// Whether there are more after the last one, whose id is the cursor for them.
    pub more: bool,
}

/// What became of a request to cancel.
#[derive(Debug, Clone)]
pub enum Cancel {
    /// The job waited, and is cancelled.
    Done(Job),
    /// The job runs; its worker learns of the request when it renews its claim.
    Requested(Job),
    /// The job had ended before.
    AlreadyEnded(Job),
}

/// What became of a request to put a job back.
#[derive(Debug, Clone)]
pub enum Requeue {
    /// The job is queued, and ready.
    Ready(Job),
    /// The job runs; its worker gives it back when it learns of the request.
    Requested(Job),
}

/// A change of fate that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The job is to end.
    Cancel {
        /// Why, for people.
        reason: String,
    },
    /// The ended job is to have another round of attempts.
    Retry,
    /// The job is to be queued and ready, at no charge.
    Requeue {
        /// Why, for people.
        reason: String,
    },
}

/// Which jobs a change is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// These.
    Ids(Vec<JobId>),
    /// All that can be changed so and that the filter lets through.
    Filter {
        /// Only those of this project.
        project: Option<String>,
        /// Only those of this execution.
        execution: Option<String>,
        /// Only those in this state.
        state: Option<JobState>,
        /// Only those after this place: where an earlier change ended.
        after: Option<SelectionCursor>,
    },
}

/// A place in the order in which a filter goes through jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SelectionCursor {
    /// The state that it has come to.
    pub state: JobState,
    /// The last job in that state.
    pub id: JobId,
}

/// Whether anything is to be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Run {
    /// Yes.
    Real,
    /// No: only looked at.
    Dry,
}

/// What became of the jobs selected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangedJobs {
    /// Those that were changed, or would be.
    pub changed: Vec<JobId>,
    /// Those that were not, and why.
    pub unchanged: Vec<UnchangedJob>,
    /// Where to go on, when there are more.
    pub next: Option<SelectionCursor>,
}

/// A job that was left as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnchangedJob {
    /// The job.
    pub id: JobId,
    /// Its state; none where there is no such job.
    pub state: Option<JobState>,
    /// Why, for programs.
    pub because: Because,
    /// Why, for people.
    pub why: String,
}

/// Why a job was left as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Because {
    /// It is as is wanted, or its worker has been asked.
    Already,
    /// It is not in a state for that.
    WrongState,
    /// There is no such job.
    NotFound,
}

/// What somebody asks of the worker that runs a job, in a sentence for the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopRequest {
    /// To end it for good.
    Cancel(String),
    /// To give it back to the queue.
    Requeue(String),
}

/// Where a worker can run jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rooms {
    /// In containers and on the host.
    All,
    /// On the host, also the jobs that do not say where they run.
    Host,
    /// On the host, and only the jobs that say so: all others are to run in containers, of which it has none.
    HostWhereAsked,
}

impl Rooms {
    /// What is left of them without an engine.
    #[must_use]
    pub fn without(engine: Option<&NoEngine>) -> Self {
        match engine {
            None => Self::All,
            Some(NoEngine { leaves_all: false, .. }) => Self::Host,
            Some(NoEngine { leaves_all: true, .. }) => Self::HostWhereAsked,
        }
    }
}

/// What a worker asks for.
#[derive(Debug, Clone)]
pub struct ClaimRequest {
    /// Who asks.
    pub worker: WorkerId,
    /// The backends that it has, with their capabilities. A job for another is never handed to it.
    pub backends: BTreeMap<String, BTreeSet<String>>,
    /// Its labels. A job that requires something which is neither one of these nor a capability is never handed to it.
    pub labels: BTreeSet<String>,
    /// Where it can run jobs. One that runs elsewhere is never handed to it.
    pub rooms: Rooms,
    /// At most so many jobs: its free slots.
    pub limit: u32,
    /// How long the claims hold without being renewed.
    pub lease: Duration,
}

/// What became of a claim that was to be renewed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Renewal {
    /// It holds.
    Held {
        /// Until when.
        lease_until: Timestamp,
        /// What somebody asks for, if somebody does.
        stop: Option<StopRequest>,
        /// When the attempt must be over, where somebody moved that while it runs.
        deadline: Option<Timestamp>,
    },
    /// It is no longer the worker's.
    Lost,
}

/// How an attempt ended, with everything that is to be on record about it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finish {
    /// How.
    pub outcome: Outcome,
    /// What its processes used.
    pub resources: Resources,
    /// All of its stages, as they are now; those already on record under the same number are replaced.
    pub stages: Vec<StageRecord>,
    /// Whether its log is whole. The log is sealed with this.
    pub log: LogVerdict,
    /// The commit that holds what it left uncommitted.
    pub salvage: Option<ObjectId>,
    /// What it delivered. Written in the same transaction, so that there is never one without the other.
    pub completion: Option<Completion>,
    /// Where the job is tried again: not before this moment.
    pub not_before: Option<Timestamp>,
    /// What its backend used of a model, also where it failed.
    pub usage: Option<Usage>,
    /// What it says of its backend's credential.
    pub credential: Option<CredentialNews>,
}

/// What an attempt's end says of the credential that its backend draws on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "news", rename_all = "snake_case")]
pub enum CredentialNews {
    /// Its usage limit was met: it is paused, and the job waits for the end of that.
    Limited {
        /// The credential.
        credential: String,
        /// When the limit is reset, where that is known.
        retry_at: Option<Timestamp>,
    },
    /// It works: a pause that was over before the attempt began is forgotten.
    Works {
        /// The credential.
        credential: String,
    },
}

impl CredentialNews {
    /// The credential.
    #[must_use]
    pub fn credential(&self) -> &str {
        match self {
            Self::Limited { credential, .. } | Self::Works { credential } => credential,
        }
    }
}

/// Something whose lease had run out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expired {
    /// A job's claim.
    Claim {
        /// The job.
        job: JobId,
        /// The attempt, closed as `lease_lost`.
        attempt: AttemptNo,
        /// Who held it.
        worker: WorkerId,
        /// What the job is now: queued again, failed as a poison pill, or cancelled where that had been asked for.
        state: JobState,
    },
    /// The time in which a job's question was to be answered.
    Question {
        /// The job, which has failed.
        job: JobId,
    },
    /// A job's time to start.
    Start {
        /// The job, which has failed.
        job: JobId,
    },
    /// A completion.
    Completion {
        /// Which.
        id: CompletionId,
        /// Who held it.
        consumer: String,
        /// What it is now: pending again, or dead.
        state: CompletionState,
    },
}

/// How far an attempt's log is in the store, and the spool files with it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogPosition {
    /// The number of the next chunk.
    pub next_seq: u64,
    /// Where the next chunk begins.
    pub offset: u64,
    /// How far each stream's spool file has been read, in the order of [`crate::job::Stream::ALL`].
    pub spool_end: [u64; 3],
}

/// A piece of an attempt's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPage {
    /// The chunks, in order. The first one is cut so that it begins at the offset asked for.
    pub chunks: Vec<LogChunk>,
    /// The verdict, once the attempt has ended: the log is read to its end when this is there and `total` is reached.
    pub end: Option<LogVerdict>,
    /// The length of the log so far, in bytes.
    pub total: u64,
}

impl LogPage {
    /// The offset to ask for next.
    #[must_use]
    pub fn next_offset(&self, from: u64) -> u64 {
        self.chunks.last().map_or(from, |chunk| chunk.offset + chunk.data.len() as u64)
    }
}

/// What a consumer asks for.
#[derive(Debug, Clone, Default)]
pub struct CompletionAsk {
    /// Who asks.
    pub consumer: String,
    /// At most so many.
    pub limit: u32,
    /// For how long they are held without being renewed, where not for the configured time.
    pub lease: Option<Duration>,
    /// Only those of this project.
    pub project: Option<String>,
    /// Only those of this remote.
    pub repo: Option<String>,
}

/// A completion that a consumer holds.
#[derive(Debug, Clone)]
pub struct HeldCompletion {
    /// The completion, with its lease.
    pub entry: CompletionEntry,
    /// The secret by which it is renewed, acknowledged and given back.
    pub token: ClaimToken,
}

/// What is to become of a completion that a consumer gives back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It is handed out again after this time, unless it has been handed out as often as is allowed.
    Retry {
        /// How long it waits.
        after: Duration,
    },
    /// It is set aside for good.
    Dead,
}
