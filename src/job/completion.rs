//! The record of a delivered result, which integrators take from a queue.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::artifact::DeliveredArtifact;
use super::attempt::RunsOn;
use super::checks::Finding;
use super::counts::TestCounts;
use super::coverage::Coverage;
use super::critique::Critique;
use super::outcome::Outcome;
use super::rejection::Rejection;
use crate::clock::Timestamp;
use crate::ids::{AttemptNo, CompletionId, JobId, ObjectId};

/// Where a completion is in its own queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CompletionState {
    /// Nobody has taken it, or the one who did gave it back or let its lease run out.
    Pending,
    /// An integrator holds it.
    Claimed,
    /// An integrator is done with it.
    Acked,
    /// It was refused for good, or as often as is allowed.
    Dead,
}

impl CompletionState {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Pending, Self::Claimed, Self::Acked, Self::Dead];

    /// The word used on the wire and in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Claimed => "claimed",
            Self::Acked => "acked",
            Self::Dead => "dead",
        }
    }
}

impl fmt::Display for CompletionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What an attempt delivered: enough for an integrator to take it without asking for more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Completion {
    /// Its own id.
    pub id: CompletionId,
    /// The job.
    pub job: JobId,
    /// The attempt that delivered.
    pub attempt: AttemptNo,
    /// The project, where the job named one.
    pub project: Option<String>,
    /// The remote.
    pub repo: String,
    /// The commit that the work started from.
    pub base: ObjectId,
    /// The commit delivered. Absent where the job delivered no change and none was required.
    pub commit: Option<ObjectId>,
    /// The tree of that commit.
    pub tree: Option<ObjectId>,
    /// The branch on the remote that holds the commit.
    pub branch: Option<String>,
    /// What changed between base and commit.
    pub diff: DiffSummary,
    /// Where the work was done and judged: on a host, or in a container of which image. Absent in records of earlier versions.
    pub runs_on: Option<RunsOn>,
    /// What the gates saw.
    pub gates: Vec<GateEvidence>,
    /// What the checks flagged.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<Finding>,
    /// What came of asking critics, in order: also where one could not be asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub critiques: Vec<Critique>,
    /// The artifacts that are kept of the attempt.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub artifacts: Vec<DeliveredArtifact>,
    /// What was wrong with the results before this one, which the same attempt came to and then revised.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rejections: Vec<Rejection>,
    /// The backend's own summary of its work.
    pub summary: Option<String>,
    /// What the backend reported of its use of a model.
    pub usage: Option<Usage>,
    /// How the attempt ended.
    pub outcome: Outcome,
    /// When it was written.
    pub created_at: Timestamp,
}

/// A completion with its place in the queue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CompletionEntry {
    /// What was delivered.
    #[serde(flatten)]
    pub completion: Completion,
    /// Where it is in the queue.
    pub state: CompletionState,
    /// Since when it may be handed out, or when it may be again. Absent where it may not: it is not pending, or it waits until
    /// an earlier one of its line is done with.
    pub ready_at: Option<Timestamp>,
    /// Who holds it, while somebody does.
    pub consumer: Option<String>,
    /// Until when, unless renewed.
    pub lease_until: Option<Timestamp>,
    /// How often it was handed out, since it was written or last brought back.
    pub deliveries: u32,
    /// Why it was last given back.
    pub last_error: Option<String>,
}

/// What changed between two commits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DiffSummary {
    /// Files changed.
    pub files: u64,
    /// Lines added; binary files count none.
    pub insertions: u64,
    /// Lines removed; binary files count none.
    pub deletions: u64,
    /// The files one by one, at most [`DiffSummary::PER_FILE_MAX`] of them.
    pub per_file: Vec<FileChange>,
}

impl DiffSummary {
    /// How many files are listed one by one.
    pub const PER_FILE_MAX: usize = 500;
}

impl Usage {
    /// What both together used, where either says so. The model is that of `other`, which came later.
    #[must_use]
    pub fn sum(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        let (one, other) = match (one, other) {
            (Some(one), Some(other)) => (one, other),
            (one, other) => return one.or(other),
        };
        Some(Self {
            prompt_tokens: one.prompt_tokens.saturating_add(other.prompt_tokens),
            completion_tokens: one.completion_tokens.saturating_add(other.completion_tokens),
            cost_usd: match (one.cost_usd, other.cost_usd) {
                (Some(one), Some(other)) => Some(one + other),
                (one, other) => one.or(other),
            },
            model: other.model.or(one.model),
        })
    }

    /// What is left of it without `earlier`, which it has in it.
    #[must_use]
    pub fn without(self, earlier: &Self) -> Self {
        Self {
            prompt_tokens: self.prompt_tokens.saturating_sub(earlier.prompt_tokens),
            completion_tokens: self.completion_tokens.saturating_sub(earlier.completion_tokens),
            cost_usd: self.cost_usd.map(|cost| (cost - earlier.cost_usd.unwrap_or(0.0)).max(0.0)),
            model: self.model,
        }
    }
}

impl fmt::Display for DiffSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { files, insertions, deletions, .. } = self;
        write!(f, "+{insertions} -{deletions} in {files} {}", if *files == 1 { "file" } else { "files" })
    }
}

/// What changed in one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileChange {
    /// Its path; bytes that are not UTF-8 are replaced.
    pub path: String,
    /// Lines added.
    pub insertions: u64,
    /// Lines removed.
    pub deletions: u64,
    /// Whether git takes it for binary; then no lines are counted.
    pub binary: bool,
}

/// What a gate saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GateEvidence {
    /// The gate's name.
    pub name: String,
    /// What was run.
    pub argv: Vec<String>,
    /// The tree that it judged, in a clean checkout: that of the commit delivered, or of the base where nothing changed.
    pub tree: ObjectId,
    /// The exit status; absent where a signal ended it.
    pub exit: Option<i32>,
    /// Whether it passed.
    pub passed: bool,
    /// How many tests it ran, where it is one that runs tests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tests: Option<TestCounts>,
    /// How much of the code they covered, where its report is to say that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coverage: Option<Coverage>,
    /// How long it took, in milliseconds.
    pub duration_ms: i64,
    /// Where its output begins in the attempt's log.
    pub log_from: u64,
    /// Where its output ends in the attempt's log.
    pub log_to: u64,
}

/// What a backend reported of its use of a model.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Usage {
    /// Tokens read.
    pub prompt_tokens: u64,
    /// Tokens written.
    pub completion_tokens: u64,
    /// Cost in US dollars.
    pub cost_usd: Option<f64>,
    /// The model.
    pub model: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(prompt_tokens: u64, cost_usd: Option<f64>) -> Usage {
        Usage { prompt_tokens, completion_tokens: 1, cost_usd, model: None }
    }

    #[test]
    fn what_rounds_used_adds_up_and_what_was_counted_before_is_taken_off() {
        let both = Usage::sum(Some(usage(100, Some(0.5))), Some(usage(20, None))).expect("usage");
        assert_eq!((both.prompt_tokens, both.completion_tokens, both.cost_usd), (120, 2, Some(0.5)));
        assert_eq!(Usage::sum(None, Some(usage(20, None))), Some(usage(20, None)));
        assert_eq!(Usage::sum(None, None), None);
        let left = usage(120, Some(2.0)).without(&usage(100, Some(0.5)));
        assert_eq!((left.prompt_tokens, left.completion_tokens, left.cost_usd), (20, 0, Some(1.5)));
        assert_eq!(usage(1, None).without(&usage(2, None)).prompt_tokens, 0);
    }
}
