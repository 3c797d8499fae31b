//! The `[queue]` section of the configuration.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::human;
use crate::job::RetryPolicy;

/// Where the queue is, and how patient it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The database: `sqlite:PATH` (a path relative to the current directory, or absolute; created on first use) or
    /// `postgres://USER@HOST/DATABASE`.
    pub url: String,
    /// How long a claim holds without being renewed.
    #[serde(with = "human")]
    pub lease: Duration,
    /// How often the queue is looked at when no hint arrives.
    #[serde(with = "human")]
    pub poll: Duration,
    /// How long a job waits before it is counted as waiting too long, and gets some of the turns of more urgent ones.
    #[serde(with = "human")]
    pub ageing: Duration,
    /// How often and how soon jobs are tried again.
    pub retry: RetryPolicy,
    /// How long an integrator holds a completion without renewing it, unless it asks for another time.
    #[serde(with = "human")]
    pub completion_lease: Duration,
    /// How often a completion is handed out before it is set aside as dead.
    pub completion_deliveries: u32,
}
