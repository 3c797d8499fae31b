//! What a critic, a model that is asked about a commit, said of it; or why it was not asked, or said nothing that counts.
//!
//! The one rule: that nobody judged is on record as that, with the reason, and never reads as a verdict.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::completion::Usage;
use crate::ids::ObjectId;

/// What came of asking a critic.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Critique {
    /// The critic's name in the configuration.
    pub critic: String,
    /// Its model.
    pub model: String,
    /// The tree of the commit that it was asked about.
    pub tree: ObjectId,
    /// What follows.
    pub verdict: CritiqueVerdict,
    /// Why it was rejected, or why nothing was judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How good it is, from 0 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<u8>,
    /// The least that passes, where one is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_score: Option<u8>,
    /// What the critic said of the whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
    /// What it found.
    pub findings: Vec<Remark>,
    /// Whether it was shown less than all of the change: only its beginning, or a large text only by name.
    pub partial: bool,
    /// What asking it used, however that ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// How long it took, in milliseconds.
    pub duration_ms: i64,
}

/// What follows from a critique.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CritiqueVerdict {
    /// The commit may be delivered.
    Passed,
    /// It may not, as it is.
    Rejected,
    /// Nothing: the critic did not judge it.
    Skipped,
}

/// Something that a critic found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Remark {
    /// The file, where it is about one.
    pub path: Option<String>,
    /// The line, where it is about one.
    pub line: Option<u32>,
    /// How much it matters.
    pub severity: Severity,
    /// Whether the commit must not be delivered with it.
    pub must_fix: bool,
    /// What is wrong, and what to do about it.
    pub message: String,
}

/// How much a finding matters, as its critic sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// A blemish.
    Minor,
    /// A defect.
    Major,
    /// A defect that does harm.
    Critical,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Info => "info",
            Self::Minor => "minor",
            Self::Major => "major",
            Self::Critical => "critical",
        })
    }
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.path, self.line) {
            (Some(path), Some(line)) => write!(f, "{path}:{line}: {}", self.message),
            (Some(path), None) => write!(f, "{path}: {}", self.message),
            (None, _) => f.write_str(&self.message),
        }
    }
}
