//! `[worker]` of the configuration.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::human;

/// How a worker daemon works.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// How many jobs it runs at once.
    pub slots: u32,
    /// Where it keeps mirrors, worktrees and spools: a directory of its own on a local disk.
    pub state_dir: PathBuf,
    /// Its name; made of the host's name and a random part, and kept in `state_dir`, when empty.
    pub name: String,
    /// How long running jobs may go on after the first request to stop.
    #[serde(with = "human")]
    pub shutdown_grace: Duration,
}
