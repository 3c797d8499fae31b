//! How an attempt, and with it perhaps a job, ended: a class that decides, and a sentence for people.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The class of an end. It alone decides about retry, backoff and whether an attempt is burnt (see [`super::retry`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OutcomeClass {
    /// The work was done and, where it made a change, delivered.
    Succeeded,
    /// The backend ran and changed nothing, where a change was required.
    NoChange,
    /// The backend reported failure, or gave no valid result.
    Backend,
    /// A gate rejected the result.
    Gate,
    /// The attempt met its deadline.
    Timeout,
    /// The backend showed no sign of life for longer than it may.
    Stalled,
    /// The kernel ended the work for want of memory.
    OutOfMemory,
    /// Its files took more of the disk than they may.
    OutOfDisk,
    /// The branch on the remote was moved by somebody else; it was left alone.
    Conflict,
    /// The change cannot be delivered as one commit (a nested repository, say), or the job asks for what cannot be.
    Invalid,
    /// Something of ours or of the host's failed: git, disk, network, database, the worker itself.
    Infrastructure,
    /// The worker lost its claim; what it did afterwards, if anything, counts for nothing.
    LeaseLost,
    /// The worker was told to stop and gave the job back.
    Released,
    /// Somebody asked for the end.
    Cancelled,
    /// It had not started by its `start_by`.
    Expired,
    /// A job that it waits for failed or was cancelled.
    Dependency,
    /// The backend's credential is used up for now.
    UsageLimit,
    /// A budget is used up.
    Budget,
    /// The backend asked a question that has to be answered first.
    Clarification,
}

impl OutcomeClass {
    /// All of them.
    pub const ALL: [Self; 19] = [
        Self::Succeeded,
        Self::NoChange,
        Self::Backend,
        Self::Gate,
        Self::Timeout,
        Self::Stalled,
        Self::OutOfMemory,
        Self::OutOfDisk,
        Self::Conflict,
        Self::Invalid,
        Self::Infrastructure,
        Self::LeaseLost,
        Self::Released,
        Self::Cancelled,
        Self::Expired,
        Self::Dependency,
        Self::UsageLimit,
        Self::Budget,
        Self::Clarification,
    ];

    /// The word used on the wire and in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::NoChange => "no_change",
            Self::Backend => "backend",
            Self::Gate => "gate",
            Self::Timeout => "timeout",
            Self::Stalled => "stalled",
            Self::OutOfMemory => "out_of_memory",
            Self::OutOfDisk => "out_of_disk",
            Self::Conflict => "conflict",
            Self::Invalid => "invalid",
            Self::Infrastructure => "infrastructure",
            Self::LeaseLost => "lease_lost",
            Self::Released => "released",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
            Self::Dependency => "dependency",
            Self::UsageLimit => "usage_limit",
            Self::Budget => "budget",
            Self::Clarification => "clarification",
        }
    }
}

impl fmt::Display for OutcomeClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A word that names no outcome class.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an outcome class")]
pub struct UnknownOutcome(pub String);

impl FromStr for OutcomeClass {
    type Err = UnknownOutcome;

    fn from_str(text: &str) -> Result<Self, UnknownOutcome> {
        Self::ALL.into_iter().find(|class| class.as_str() == text).ok_or_else(|| UnknownOutcome(text.to_owned()))
    }
}

/// How something ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Outcome {
    /// The class, for programs.
    pub class: OutcomeClass,
    /// One sentence, for people: what happened, to what, and what to do where something can be done.
    pub message: String,
}

impl Outcome {
    /// An outcome of `class` with its sentence.
    #[must_use]
    pub fn new(class: OutcomeClass, message: impl Into<String>) -> Self {
        Self { class, message: message.into() }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.class, self.message)
    }
}
