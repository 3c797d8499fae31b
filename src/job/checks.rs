//! What a result must look like, whatever its gates say: a policy that is checked on the difference between base and commit.
//!
//! The one rule: sets of checks are never merged into a milder one. A job has a list of them, its project's before its own, and each
//! is applied as it stands. What finds is in the room `gates`.

use std::fmt;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A set of checks. What it does not name it does not check.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Checks {
    /// Patterns of which each changed path must match one, such as `src/**`; any path will do where there is none.
    pub allow: Vec<String>,
    /// Patterns of which no changed path may match one.
    pub forbid: Vec<String>,
    /// How many files may change; 0 for any number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<u64>,
    /// How many lines may be added and removed together; 0 for any number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lines: Option<u64>,
    /// How large a changed file may be; 0 for any size.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "1 MiB")]
    pub file_size: Option<ByteSize>,
    /// What becomes of a result with lines that a merge left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conflict_markers: Option<Response>,
    /// What becomes of a result that adds what looks like a secret, or is one that the job knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leaks: Option<Response>,
    /// What becomes of a result that removes, skips or empties tests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weakened_tests: Option<Response>,
    /// What becomes of a result whose lock file does not go with its manifest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lock_files: Option<Response>,
}

/// What becomes of a result in which a check finds something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// Nothing is looked for.
    Off,
    /// It is delivered, and the completion says what was found.
    Flag,
    /// It is rejected.
    Reject,
}

/// A rule of which a result breaks one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// A path outside of those that may change.
    PathNotAllowed,
    /// A path that may not change.
    PathForbidden,
    /// More files than may change.
    TooManyFiles,
    /// More lines than may change.
    TooManyLines,
    /// A file that is too large.
    FileTooLarge,
    /// A line that a merge left.
    ConflictMarker,
    /// What looks like a secret.
    Secret,
    /// A file that could not be looked through for markers and secrets.
    Unread,
    /// A test that is gone, skipped or asserts less.
    WeakenedTest,
    /// A lock file that does not go with its manifest.
    LockFile,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub struct Finding {
    /// The file, where it is about one.
    pub path: Option<String>,
    /// The line, where it is about one: of the new file, or of the old one where something was removed.
    pub line: Option<u32>,
    /// The rule.
    pub rule: Rule,
    /// Flagged, or a reason for rejecting.
    pub response: Response,
    /// What was found, and what to do about it.
    pub message: String,
}

impl Checks {
    /// These checks, with those of `other` where these do not say: an operator's for one project over those for all.
    #[must_use]
    pub fn over(&self, other: &Self) -> Self {
        let list = |own: &Vec<String>, other: &Vec<String>| if own.is_empty() { other.clone() } else { own.clone() };
        Self {
            allow: list(&self.allow, &other.allow),
            forbid: list(&self.forbid, &other.forbid),
            files: self.files.or(other.files),
            lines: self.lines.or(other.lines),
            file_size: self.file_size.or(other.file_size),
            conflict_markers: self.conflict_markers.or(other.conflict_markers),
            leaks: self.leaks.or(other.leaks),
            weakened_tests: self.weakened_tests.or(other.weakened_tests),
            lock_files: self.lock_files.or(other.lock_files),
        }
    }

    /// Its patterns, each by its path within this.
    pub fn patterns(&self) -> impl Iterator<Item = (String, &String)> {
        let lists = [("allow", &self.allow), ("forbid", &self.forbid)];
        lists.into_iter().flat_map(|(list, patterns)| {
            patterns.iter().enumerate().map(move |(index, pattern)| (format!("{list}[{index}]"), pattern))
        })
    }

    /// Whether it says nothing.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Whether there is nothing to check.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let responses = [self.conflict_markers, self.leaks, self.weakened_tests, self.lock_files];
        self.allow.is_empty()
            && self.forbid.is_empty()
            && [self.files, self.lines].iter().all(|limit| limit.unwrap_or(0) == 0)
            && self.file_size.is_none_or(|limit| limit.as_u64() == 0)
            && responses.iter().all(|response| response.is_none_or(|response| response == Response::Off))
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.path, self.line) {
            (Some(path), Some(line)) => write!(f, "{path}:{line}: {}", self.message),
            (Some(path), None) => write!(f, "{path}: {}", self.message),
            (None, _) => f.write_str(&self.message),
        }
    }
}
