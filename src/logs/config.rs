//! The `[logs]` section of the configuration.

use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use crate::clock::human;

/// How logs are shipped, and how much of them is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The shortest time between two appends to the database, and the longest that part of a line waits for its end.
    #[serde(with = "human")]
    pub flush: Duration,
    /// A chunk has at most about this many bytes.
    pub chunk_bytes: ByteSize,
    /// The database keeps at most about this much of an attempt's log.
    pub cap: ByteSize,
    /// That much of the cap is for the end of the log; the rest is for its beginning.
    pub tail: ByteSize,
    /// Once the spool files of an attempt take this much disk, what is shipped, or is certain to be left out, is given
    /// back to the file system.
    pub spool_cap: ByteSize,
}
