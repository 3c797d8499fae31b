//! The log of an attempt: one sequence of bytes, in the order in which the worker saw them, cut into chunks.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::clock::Timestamp;

/// Where a piece of log came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// The job's standard output.
    Stdout,
    /// The job's standard error.
    Stderr,
    /// What the worker has to say about the attempt.
    System,
}

impl Stream {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Stdout, Self::Stderr, Self::System];

    /// The word used on the wire and in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::System => "system",
        }
    }
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A piece of an attempt's log, redacted, as it is stored and sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogChunk {
    /// Its number within the attempt, from 0, without gaps.
    pub seq: u64,
    /// Where it came from.
    pub stream: Stream,
    /// Where it begins in the attempt's log: the sum of the lengths of all chunks before it, in bytes.
    pub offset: u64,
    /// How far its stream's spool file has been read with this chunk, in bytes of raw output. A worker that takes the
    /// attempt up again goes on from here.
    pub spool_end: u64,
    /// When the worker read it.
    pub at: Timestamp,
    /// The bytes.
    pub data: Vec<u8>,
}

/// What can be said of the completeness of an attempt's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum LogVerdict {
    /// Every byte that the job wrote is there, redaction aside.
    Complete,
    /// The cap was met: the head and the tail are there, and this many bytes between them are not.
    Truncated {
        /// Bytes left out.
        bytes: u64,
    },
    /// The bytes of this range of the spool were lost.
    Gap {
        /// The first byte lost.
        from: u64,
        /// The first byte after those lost.
        to: u64,
    },
}

impl fmt::Display for LogVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Complete => f.write_str("complete"),
            Self::Truncated { bytes } => write!(f, "truncated {bytes} bytes"),
            Self::Gap { from, to } => write!(f, "gap {from}-{to}"),
        }
    }
}
