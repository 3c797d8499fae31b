//! The documents of the API that are not records of `job`: requests, pages, pieces of log. The CLI reads and writes the same.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::clock::{Timestamp, human};
use crate::ids::{AttemptNo, ClaimToken, JobId, ObjectId};
use crate::job::attempt::RunsOn;
use crate::job::time_limit::TimeLimit;
use crate::job::{
    CompletionEntry, CompletionState, Coverage, DiffSummary, Forecast, Job, JobState, LogChunk, LogVerdict, Outcome, Stream,
};
pub use crate::store::Because;

/// Some of a longer list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    /// The entries.
    pub items: Vec<T>,
    /// What to send as `before` for the entries that follow; absent at the end of the list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A job with what is to be expected of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JobAnswer {
    /// The job.
    #[serde(flatten)]
    pub job: Job,
    /// Where it stands and when it may start: for a job that waits, when asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forecast: Option<Forecast>,
    /// Where the commands of its latest attempt run, or ran: for one job that is shown, once it is decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runs_on: Option<RunsOn>,
    /// How long its latest attempt may take, or might, where that was learnt: for one job that is shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_limit: Option<TimeLimit>,
    /// How much of the code the tests covered in what it delivered, by gate: for one job that is shown.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub coverage: BTreeMap<String, Coverage>,
}

impl JobAnswer {
    /// A job with its forecast, where it has one, and nothing of what is for one job that is shown.
    #[must_use]
    pub const fn of(job: Job, forecast: Option<Forecast>) -> Self {
        Self { job, forecast, runs_on: None, time_limit: None, coverage: BTreeMap::new() }
    }
}

/// Why a job is cancelled, or put back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ReasonRequest {
    /// For people; it becomes part of the outcome.
    pub reason: Option<String>,
}

/// When the running attempt at a job must be over: one of the two.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DeadlineRequest {
    /// So long from now.
    #[serde(rename = "in", with = "human::option", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "30m")]
    pub within: Option<Duration>,
    /// At this moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
}

/// The answer to the question that a job waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AnswerRequest {
    /// The answer, which goes to the backend as it is.
    pub text: String,
    /// Who answers, as people know them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// Who wants a worker drained, and why.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DrainRequest {
    /// Who asks, as people know them.
    pub by: Option<String>,
    /// Why, for people.
    pub reason: Option<String>,
}

/// Which jobs to cancel, retry or requeue: those named, or those that can be changed so and that a filter lets through.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ChangeJobs {
    /// These jobs, at most 1000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ids: Option<Vec<JobId>>,
    /// Only those of this project.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// Only those of this execution.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub execution: Option<String>,
    /// Only those in this state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<JobState>,
    /// Whether every job is meant; it goes with nothing above.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
    /// Whether to say only what would become of them.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// For people; not for a retry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// `next` of the answer before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// What became of jobs that were to be changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobsChanged {
    /// Those that were changed, or whose worker was asked; in a dry run those that would be.
    pub changed: Vec<JobId>,
    /// Those that were not.
    pub unchanged: Vec<Unchanged>,
    /// What to send as `after` for those that follow; absent when that was all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A job that was left as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Unchanged {
    /// The job.
    pub id: JobId,
    /// Its state; absent where there is no such job.
    pub state: Option<JobState>,
    /// Why, for programs.
    pub because: Because,
    /// Why, for people.
    pub detail: String,
}

/// What a job changed, from its completion record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JobDiff {
    /// The job.
    pub job: JobId,
    /// The attempt that delivered.
    pub attempt: AttemptNo,
    /// The commit that the work started from.
    pub base: ObjectId,
    /// The commit delivered; absent where there was no change.
    pub commit: Option<ObjectId>,
    /// The branch that holds it.
    pub branch: Option<String>,
    /// What changed.
    pub diff: DiffSummary,
}

/// How a piece of log is written in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// As it is: the bytes are UTF-8.
    Utf8,
    /// In base64 with padding (RFC 4648, section 4): the bytes are not UTF-8, perhaps only because a character was cut.
    Base64,
}

/// A piece of an attempt's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogPiece {
    /// Where it came from.
    pub stream: Stream,
    /// Where it begins in the attempt's log, in bytes.
    pub offset: u64,
    /// When the worker read it.
    pub at: Timestamp,
    /// How `data` is written.
    pub encoding: Encoding,
    /// The bytes.
    pub data: String,
}

impl LogPiece {
    /// The bytes.
    ///
    /// # Errors
    /// Data that is not the base64 it claims to be.
    pub fn bytes(self) -> Result<Vec<u8>, base64::DecodeError> {
        match self.encoding {
            Encoding::Utf8 => Ok(self.data.into_bytes()),
            Encoding::Base64 => STANDARD.decode(self.data),
        }
    }
}

impl From<LogChunk> for LogPiece {
    fn from(chunk: LogChunk) -> Self {
        let LogChunk { stream, offset, at, data, .. } = chunk;
        match String::from_utf8(data) {
            Ok(data) => Self { stream, offset, at, encoding: Encoding::Utf8, data },
            Err(error) => Self { stream, offset, at, encoding: Encoding::Base64, data: STANDARD.encode(error.as_bytes()) },
        }
    }
}

/// Some of an attempt's log, from an offset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogSlice {
    /// The job.
    pub job: JobId,
    /// The attempt.
    pub attempt: AttemptNo,
    /// The pieces, in order.
    pub chunks: Vec<LogPiece>,
    /// What to send as `from` for what follows.
    pub next: u64,
    /// The length of the log so far, in bytes.
    pub total: u64,
    /// Whether the log is whole; absent while the attempt runs.
    pub log: Option<LogVerdict>,
}

/// The last event of a followed log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogEnd {
    /// The job.
    pub job: JobId,
    /// Where the job is in its life: a job that is queued again will have a further attempt.
    pub state: JobState,
    /// The attempt; absent where the job ended without one.
    pub attempt: Option<AttemptNo>,
    /// How the attempt ended, or the job where there was no attempt.
    pub outcome: Option<Outcome>,
    /// Whether the log is whole.
    pub log: Option<LogVerdict>,
    /// The length of the log, in bytes.
    pub total: u64,
}

/// How many there are of what; every state is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CountsAnswer {
    /// Jobs on record by state.
    pub jobs: BTreeMap<JobState, u64>,
    /// Completions on record by state.
    pub completions: BTreeMap<CompletionState, u64>,
}

/// Asks for completions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ClaimCompletions {
    /// Who asks: a name that tells integrators apart.
    pub consumer: String,
    /// How many at most.
    #[serde(default = "one")]
    #[schema(minimum = 1, maximum = 100)]
    pub limit: u32,
    /// For how long; the configuration's choice when absent.
    #[serde(default, with = "human::option", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "5m")]
    pub lease: Option<Duration>,
    /// Only those of this project.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// Only those of this remote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repo: Option<String>,
    /// How long to wait for one where there is none, at most 30s; not at all when absent.
    #[serde(default, with = "human::option", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "30s")]
    pub wait: Option<Duration>,
}

const fn one() -> u32 {
    1
}

/// A completion that the asker holds now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HeldCompletion {
    /// The completion.
    #[serde(flatten)]
    pub entry: CompletionEntry,
    /// What to name in ack, nack and renew.
    pub token: ClaimToken,
}

/// Says that a completion is done with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AckCompletion {
    /// The token of the claim.
    pub token: ClaimToken,
}

/// Gives a completion back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NackCompletion {
    /// The token of the claim.
    pub token: ClaimToken,
    /// Why.
    pub reason: String,
    /// Not again before this long; at once when absent.
    #[serde(default, with = "human::option", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "30s")]
    pub retry_after: Option<Duration>,
    /// Whether it is refused for good.
    #[serde(default)]
    pub dead: bool,
}

/// Holds a completion for longer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RenewCompletion {
    /// The token of the claim.
    pub token: ClaimToken,
    /// For how long from now; the configuration's choice when absent.
    #[serde(default, with = "human::option", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "5m")]
    pub lease: Option<Duration>,
}

/// One key of the effective configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Setting {
    /// The key with its sections, joined by dots.
    #[schema(example = "queue.lease")]
    pub key: String,
    /// Its value; a secret is replaced by a text that says so.
    #[schema(value_type = Object)]
    pub value: serde_json::Value,
    /// The layer that it came from.
    #[schema(example = "built-in")]
    pub origin: String,
}

/// The effective configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Configuration {
    /// The version of the server.
    pub version: String,
    /// All keys, in order.
    pub settings: Vec<Setting>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_piece_of_log_keeps_its_bytes_whatever_they_are(data in proptest::collection::vec(any::<u8>(), 0..200)) {
            let chunk = LogChunk { seq: 0, stream: Stream::Stdout, offset: 7, spool_end: 0, at: Timestamp(1), data: data.clone() };
            let json = serde_json::to_string(&LogPiece::from(chunk)).expect("a piece of log is JSON");
            prop_assert!(!json.contains('\n'), "one line, so that it is one field of an event");
            let read: LogPiece = serde_json::from_str(&json).expect("what was written can be read");
            prop_assert_eq!(read.bytes().expect("its own base64"), data);
        }
    }
}
