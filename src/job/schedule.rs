//! When and where a job may run: what it asks of workers, what it waits for, and what it shares with others.

use std::collections::BTreeSet;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::check::SpecError;
use super::label::Label;
use super::spec::JobSpec;

/// The most requirements, and the most jobs to wait for, that one job may name.
const LIST_MAX: usize = 100;
/// The longest concurrency key, in bytes.
const KEY_MAX: usize = 200;
/// The highest limit of a concurrency key.
const LIMIT_MAX: u32 = 10_000;

/// A name that jobs share which must not all run at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Concurrency {
    /// The name.
    pub key: String,
    /// The job starts only while fewer than so many run under this name.
    #[serde(default = "one")]
    pub limit: u32,
}

const fn one() -> u32 {
    1
}

/// What becomes of a job when one that it waits for fails or is cancelled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AfterFailure {
    /// It is cancelled too, and so are those that wait for it.
    #[default]
    Cascade,
    /// It runs all the same: it waits for the end only.
    Ignore,
}

impl AfterFailure {
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Why a queued job cannot be claimed yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Hold {
    /// Its `run_at` is still to come.
    Scheduled,
    /// It failed, and is tried again after a while.
    Backoff,
    /// A job that it waits for has not ended.
    Dependency,
    /// As many jobs as may run under its concurrency key do.
    Key,
    /// As many jobs of its project as may run do.
    Project,
    /// Its budget, or that of its execution or project, is used up.
    Budget,
    /// It asked a question that nobody has answered.
    Answer,
}

impl Hold {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Scheduled, Self::Backoff, Self::Dependency, Self::Key, Self::Project, Self::Budget, Self::Answer];

    /// The word used on the wire and in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Backoff => "backoff",
            Self::Dependency => "dependency",
            Self::Key => "key",
            Self::Project => "project",
            Self::Budget => "budget",
            Self::Answer => "answer",
        }
    }
}

impl std::fmt::Display for Hold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// A word that names no reason for which a job is held.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is nothing that a job waits for (scheduled, backoff, dependency, key, project, budget or answer)")]
pub struct UnknownHold(pub String);

impl FromStr for Hold {
    type Err = UnknownHold;

    fn from_str(text: &str) -> Result<Self, UnknownHold> {
        Self::ALL.into_iter().find(|hold| hold.as_str() == text).ok_or_else(|| UnknownHold(text.to_owned()))
    }
}

impl JobSpec {
    /// What it asks of a worker, each once and in order.
    #[must_use]
    pub fn requirements(&self) -> BTreeSet<&str> {
        self.requires.iter().map(String::as_str).collect()
    }

    pub(super) fn validate_schedule(&self) -> Result<(), SpecError> {
        check_count("requires", self.requires.len())?;
        check_count("after", self.after.len())?;
        for (index, requirement) in self.requires.iter().enumerate() {
            if let Err(error) = requirement.parse::<Label>() {
                return Err(SpecError::Label { field: format!("requires[{index}]"), error });
            }
        }
        if let Some(Concurrency { key, limit }) = &self.concurrency {
            if key.is_empty() || key.len() > KEY_MAX || key.contains('\0') {
                let field = "concurrency.key: its length";
                return Err(SpecError::out_of_bounds(field, key.len(), 1, KEY_MAX));
            }
            if !(1..=LIMIT_MAX).contains(limit) {
                return Err(SpecError::out_of_bounds("concurrency.limit", limit, 1, LIMIT_MAX));
            }
        }
        match (self.run_at, self.start_by) {
            (Some(run_at), Some(start_by)) if start_by <= run_at => Err(SpecError::StartBy),
            _ => Ok(()),
        }
    }
}

fn check_count(field: &'static str, count: usize) -> Result<(), SpecError> {
    if count > LIST_MAX { Err(SpecError::out_of_bounds(field, format!("a list of {count}"), 0, LIST_MAX)) } else { Ok(()) }
}
