//! `[workspace]` of the configuration.

use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use crate::clock::human;
use crate::git::Strategy;
use crate::job::BranchTemplate;
use crate::job::spec::Keep;
use crate::store::Retention;

/// How workspaces are made, named and kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// How worktrees are made.
    pub strategy: Strategy,
    /// What base checkouts may take on the disk, beside those that worktrees stand on.
    pub bases: ByteSize,
    /// The template of the branch that a job's result is delivered on.
    pub branch: BranchTemplate,
    /// When the workspace of an ended attempt is kept for a person to look at.
    pub keep: Keep,
    /// How long a kept workspace stays.
    #[serde(with = "human")]
    pub ttl: Duration,
    /// Where salvage goes.
    pub salvage: Salvage,
    /// How long the worker's mirrors keep salvage, and results that were not to be pushed, after the end of their jobs.
    pub salvage_ttl: Retention,
}

/// Where what an attempt left uncommitted goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Salvage {
    /// To the worker's mirror and to the remote, so that an attempt on another host finds it.
    Remote,
    /// To the worker's mirror only.
    Mirror,
}
