//! The `[sandbox]` section of the configuration.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How commands are run and ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// How long a process may take to end after TERM before it gets KILL.
    #[serde(with = "crate::clock::human")]
    pub grace: Duration,
    /// The names of the variables that a job is given from the daemon's own environment, when they are set there.
    pub env_allow: Vec<String>,
}
