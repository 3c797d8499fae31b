//! `[worker]` of the configuration.

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use crate::clock::human;
use crate::janitor::Space;
use crate::job::Label;

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
    /// What it offers to any job.
    pub labels: Vec<Label>,
    /// How often it says that it lives; one that has missed three of these is offline.
    #[serde(with = "human")]
    pub report: Duration,
    /// How often it looks for what an earlier daemon left and nobody needs.
    #[serde(with = "human")]
    pub reconcile: Duration,
    /// When it claims nothing because its host is short of something.
    pub admission: AdmissionConfig,
}

/// `[worker.admission]`: below what a worker claims nothing; 0 where that does not matter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdmissionConfig {
    /// How often it looks.
    #[serde(with = "human")]
    pub every: Duration,
    /// The least memory that can be had without swapping.
    pub memory_available: ByteSize,
    /// The highest share of time in which everything stands still for want of memory, in percent.
    pub memory_stalled_percent: u8,
    /// The least room on the disk of the state directory, when a further job has taken its part.
    pub disk_free: ByteSize,
    /// What a further job is expected to take there, where jobs that ran did not take more.
    pub disk_job: ByteSize,
    /// The fewest files that can still be made there.
    pub inodes_free: u64,
}

impl AdmissionConfig {
    /// What is to stay free on the disk of the state directory.
    pub(super) const fn reserve(&self) -> Space {
        Space { bytes: self.disk_free.as_u64(), inodes: self.inodes_free }
    }
}
