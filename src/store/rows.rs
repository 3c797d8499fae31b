//! Rows as both databases yield them, and what they become.
//!
//! The one rule: what does not become one of our types is [`StoreError::Corrupt`], never a default.

use std::str::FromStr;

use sqlx::FromRow;
use uuid::Uuid;

use super::error::StoreError;
use crate::clock::Timestamp;
use crate::ids::{AttemptNo, ClaimToken, JobId, ObjectId, WorkerId};
use crate::job::attempt::Resources;
use crate::job::budget::MicroUsd;
use crate::job::completion::Usage;
use crate::job::{AttemptRecord, Claim, ClaimedJob, Job, Outcome, PreviousAttempt, StageRecord};

/// The condition of `jobs_held`, by which a statement goes that says it: those jobs `j` that are held until a moment.
macro_rules! held_until {
    () => {
        "j.held IN ('scheduled', 'backoff', 'budget', 'answer')"
    };
}
pub(super) use held_until;

/// The columns of a [`JobRow`], from `jobs j` and `job_specs s`; or from the table and the expression that are said.
macro_rules! job_columns {
    () => {
        $crate::store::rows::job_columns!("j", "s.document")
    };
    ($jobs:literal, $document:literal) => {
        $crate::store::rows::job_columns!(
            $jobs, $document: id repo base branch state held ready_at attempt attempts_used attempts_max resets worker
            cancel_requested_at requeue_requested_at outcome_class outcome_message commit_id created_at started_at finished_at
        )
    };
    ($jobs:literal, $document:literal: $($column:ident)*) => {
        concat!($($jobs, ".", stringify!($column), ", ",)* $document)
    };
}
pub(super) use job_columns;

#[derive(FromRow)]
pub(super) struct JobRow {
    id: Uuid,
    repo: String,
    base: String,
    branch: String,
    state: String,
    held: Option<String>,
    ready_at: i64,
    attempt: i64,
    attempts_used: i64,
    attempts_max: i64,
    resets: i64,
    worker: Option<String>,
    cancel_requested_at: Option<i64>,
    requeue_requested_at: Option<i64>,
    outcome_class: Option<String>,
    outcome_message: Option<String>,
    commit_id: Option<String>,
    created_at: i64,
    started_at: Option<i64>,
    finished_at: Option<i64>,
    document: String,
}

impl TryFrom<JobRow> for Job {
    type Error = StoreError;

    fn try_from(row: JobRow) -> Result<Self, StoreError> {
        let what = || format!("job {}", row.id);
        Ok(Self {
            id: JobId::from_uuid(row.id),
            spec: serde_json::from_str(&row.document).map_err(|error| StoreError::corrupt(what(), error))?,
            branch: parse(&row.branch, what)?,
            state: parse(&row.state, what)?,
            held: row.held.as_deref().map(|hold| word(hold, what)).transpose()?,
            ready_at: Timestamp(row.ready_at),
            attempt: Some(number(row.attempt, what)?).filter(|attempt| *attempt > 0).map(AttemptNo),
            attempts_used: number(row.attempts_used, what)?,
            attempts_max: number(row.attempts_max, what)?,
            resets: number(row.resets, what)?,
            cancel_requested_at: row.cancel_requested_at.map(Timestamp),
            requeue_requested_at: row.requeue_requested_at.map(Timestamp),
            outcome: outcome(row.outcome_class.as_deref(), row.outcome_message.as_deref(), what)?,
            commit: object(row.commit_id.as_deref(), what)?,
            created_at: Timestamp(row.created_at),
            started_at: row.started_at.map(Timestamp),
            finished_at: row.finished_at.map(Timestamp),
            worker: row.worker.map(WorkerId::new),
            repo: row.repo,
            base: row.base,
        })
    }
}

/// A running job with its claim and the attempt before it.
#[derive(FromRow)]
pub(super) struct ClaimedRow {
    #[sqlx(flatten)]
    job: JobRow,
    token: Uuid,
    lease_until: i64,
    claimed_at: i64,
    previous_attempt: Option<i64>,
    previous_class: Option<String>,
    previous_message: Option<String>,
    previous_salvage: Option<String>,
}

impl ClaimedRow {
    /// That of the job.
    pub(super) fn id(&self) -> Uuid {
        self.job.id
    }
}

impl TryFrom<ClaimedRow> for ClaimedJob {
    type Error = StoreError;

    fn try_from(row: ClaimedRow) -> Result<Self, StoreError> {
        let job = Job::try_from(row.job)?;
        let what = || format!("job {}", job.id);
        let (Some(attempt), Some(worker)) = (job.attempt, job.worker.clone()) else {
            return Err(StoreError::corrupt(what(), "it is claimed and has no attempt"));
        };
        let previous = match row.previous_attempt {
            None => None,
            Some(attempt) => Some(PreviousAttempt {
                attempt: AttemptNo(number(attempt, what)?),
                outcome: outcome(row.previous_class.as_deref(), row.previous_message.as_deref(), what)?,
                salvage: object(row.previous_salvage.as_deref(), what)?,
                taken_over: false,
                rejections: Vec::new(),
            }),
        };
        Ok(Self {
            claim: Claim { job: job.id, attempt, token: ClaimToken::from_uuid(row.token), worker },
            claimed_at: Timestamp(row.claimed_at),
            lease_until: Timestamp(row.lease_until),
            previous,
            job,
        })
    }
}

/// The columns of an [`AttemptRow`].
pub(super) const ATTEMPT_COLUMNS: &str = "attempt, worker, started_at, ended_at, deadline_at, outcome_class, outcome_message, base, \
    runs_on, exit_code, signal, peak_memory_bytes, cpu_ms, salvage, prompt_tokens, completion_tokens, cost_micro_usd, model, rejections, time_limit, \
    log_verdict, log_bytes";

#[derive(FromRow)]
pub(super) struct AttemptRow {
    attempt: i64,
    worker: String,
    started_at: i64,
    ended_at: Option<i64>,
    deadline_at: Option<i64>,
    outcome_class: Option<String>,
    outcome_message: Option<String>,
    base: Option<String>,
    runs_on: Option<String>,
    exit_code: Option<i64>,
    signal: Option<i64>,
    peak_memory_bytes: Option<i64>,
    cpu_ms: Option<i64>,
    salvage: Option<String>,
    prompt_tokens: Option<i64>,
    completion_tokens: Option<i64>,
    cost_micro_usd: Option<i64>,
    model: Option<String>,
    rejections: Option<String>,
    time_limit: Option<String>,
    log_verdict: Option<String>,
    log_bytes: i64,
}

impl AttemptRow {
    /// The record of this attempt at `job`, with those of `stages` that are its own.
    pub(super) fn record(self, job: JobId, stages: &[StageRow]) -> Result<AttemptRecord, StoreError> {
        let what = || format!("attempt {} of job {job}", self.attempt);
        let own = stages.iter().filter(|stage| stage.attempt == self.attempt);
        Ok(AttemptRecord {
            attempt: AttemptNo(number(self.attempt, what)?),
            worker: WorkerId::new(self.worker.clone()),
            started_at: Timestamp(self.started_at),
            ended_at: self.ended_at.map(Timestamp),
            deadline_at: self.deadline_at.map(Timestamp),
            outcome: outcome(self.outcome_class.as_deref(), self.outcome_message.as_deref(), what)?,
            base: object(self.base.as_deref(), what)?,
            runs_on: self.runs_on.as_deref().map(|text| json(text, what)).transpose()?,
            resources: Resources {
                exit_code: self.exit_code.map(|value| number(value, what)).transpose()?,
                signal: self.signal.map(|value| number(value, what)).transpose()?,
                peak_memory_bytes: self.peak_memory_bytes.map(|value| number(value, what)).transpose()?,
                cpu_ms: self.cpu_ms.map(|value| number(value, what)).transpose()?,
            },
            salvage: object(self.salvage.as_deref(), what)?,
            usage: self.usage(what)?,
            rejections: self.rejections.as_deref().map(|text| json(text, what)).transpose()?.unwrap_or_default(),
            time_limit: self.time_limit.as_deref().map(|text| json(text, what)).transpose()?,
            log_verdict: self.log_verdict.as_deref().map(|text| json(text, what)).transpose()?,
            log_bytes: number(self.log_bytes, what)?,
            stages: own.map(|stage| stage.record(what)).collect::<Result<_, _>>()?,
        })
    }
}

impl AttemptRow {
    fn usage(&self, what: impl Fn() -> String + Copy) -> Result<Option<Usage>, StoreError> {
        let (Some(prompt), Some(completion)) = (self.prompt_tokens, self.completion_tokens) else { return Ok(None) };
        Ok(Some(Usage {
            prompt_tokens: number(prompt, what)?,
            completion_tokens: number(completion, what)?,
            cost_usd: self.cost_micro_usd.map(|cost| number(cost, what)).transpose()?.map(|cost| MicroUsd(cost).dollars()),
            model: self.model.clone(),
        }))
    }
}

#[derive(FromRow)]
pub(super) struct StageRow {
    attempt: i64,
    seq: i64,
    stage: String,
    started_at: i64,
    ended_at: Option<i64>,
    outcome: Option<String>,
    detail: Option<String>,
}

impl StageRow {
    fn record(&self, what: impl Fn() -> String + Copy) -> Result<StageRecord, StoreError> {
        Ok(StageRecord {
            seq: number(self.seq, what)?,
            stage: word(&self.stage, what)?,
            started_at: Timestamp(self.started_at),
            ended_at: self.ended_at.map(Timestamp),
            outcome: self.outcome.as_deref().map(|class| parse(class, what)).transpose()?,
            detail: self.detail.clone(),
        })
    }
}

pub(super) fn number<T: TryFrom<i64>>(value: i64, what: impl Fn() -> String) -> Result<T, StoreError> {
    T::try_from(value).map_err(|_| StoreError::corrupt(what(), format!("{value} is out of range")))
}

pub(super) fn parse<T: FromStr<Err: ToString>>(text: &str, what: impl Fn() -> String) -> Result<T, StoreError> {
    text.parse().map_err(|error: T::Err| StoreError::corrupt(what(), error))
}

pub(super) fn json<T: serde::de::DeserializeOwned>(text: &str, what: impl Fn() -> String) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::corrupt(what(), error))
}

/// Reads a word by the name that serde gives it, for enums that have no parser of their own.
pub(super) fn word<T: serde::de::DeserializeOwned>(text: &str, what: impl Fn() -> String) -> Result<T, StoreError> {
    serde_json::from_value(serde_json::Value::String(text.to_owned())).map_err(|error| StoreError::corrupt(what(), error))
}

fn object(text: Option<&str>, what: impl Fn() -> String) -> Result<Option<ObjectId>, StoreError> {
    text.map(|text| parse(text, what)).transpose()
}

fn outcome(class: Option<&str>, message: Option<&str>, what: impl Fn() -> String) -> Result<Option<Outcome>, StoreError> {
    match (class, message) {
        (Some(class), Some(message)) => Ok(Some(Outcome::new(parse(class, what)?, message))),
        _ => Ok(None),
    }
}
