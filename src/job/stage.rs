//! The stages of an attempt, in order.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A stage of the pipeline. Each is a span in the traces and a row in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The mirror has the base commit, and the worktree stands at it.
    Prepare,
    /// The backend runs.
    Execute,
    /// The tree becomes a commit.
    Commit,
    /// The gates run.
    Judge,
    /// The commit reaches the remote.
    Publish,
    /// Processes are ended, and what is uncommitted is salvaged.
    Cleanup,
    /// The end and the completion are written.
    Complete,
}

impl Stage {
    /// All of them, in order.
    pub const ALL: [Self; 7] =
        [Self::Prepare, Self::Execute, Self::Commit, Self::Judge, Self::Publish, Self::Cleanup, Self::Complete];

    /// The word used on the wire and in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Execute => "execute",
            Self::Judge => "judge",
            Self::Commit => "commit",
            Self::Publish => "publish",
            Self::Complete => "complete",
            Self::Cleanup => "cleanup",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
