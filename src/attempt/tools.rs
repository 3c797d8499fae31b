//! What every attempt of a worker shares.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::pauses::KnownPauses;
use crate::artifacts::Artifacts;
use crate::backends::Registry;
use crate::caches::{ProjectCaches, Shelf};
use crate::clock::human;
use crate::critic::Critics;
use crate::git::{self, Git, Provisioner};
use crate::job::RetryFrom;
use crate::job::time_limit::LimitRule;
use crate::sandbox::container::Containers;
use crate::store::Store;
use crate::workspace::StateDir;
use crate::{logs, sandbox, workspace};

/// `[attempt]` of the configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// How long an attempt may take from claim to publish when neither job nor backend says, and nothing is learnt.
    #[serde(with = "human")]
    pub timeout: Duration,
    /// How that follows from how long other attempts took, where neither job, project nor backend says.
    pub adaptive: LimitRule,
    /// How much of that is kept for committing and publishing; never more than a tenth.
    #[serde(with = "human")]
    pub publish_reserve: Duration,
    /// How often a backend that can revise hears, within one attempt, what was wrong with its work, when neither job nor backend says.
    pub revisions: u32,
    /// What an attempt after the first one begins with, when its job does not say.
    pub retry_from: RetryFrom,
    /// How long the closing of an attempt may take: salvage, and shipping the rest of the log.
    #[serde(with = "human")]
    pub close_timeout: Duration,
}

/// What every attempt of a worker shares.
#[derive(Clone)]
pub struct Tools {
    /// Where jobs are on record.
    pub store: Store,
    /// Git, with the worker's mirrors.
    pub git: Git,
    /// What makes worktrees.
    pub provisioner: Provisioner,
    /// How git is run, for the process that salvages when the daemon is gone.
    pub git_config: git::Config,
    /// The backends.
    pub backends: Registry,
    /// The models that may be asked about commits.
    pub critics: Critics,
    /// What is known of paused credentials.
    pub pauses: KnownPauses,
    /// Where artifacts are kept.
    pub artifacts: Artifacts,
    /// The worker's files.
    pub state: StateDir,
    /// `[attempt]`.
    pub config: Config,
    /// `[workspace]`.
    pub workspace: workspace::Config,
    /// `[sandbox]`.
    pub sandbox: sandbox::Config,
    /// The worker's containers.
    pub containers: Containers,
    /// The caches that jobs have saved.
    pub caches: Shelf,
    /// What caches projects have, by their names.
    pub project_caches: BTreeMap<String, ProjectCaches>,
    /// `[logs]`.
    pub logs: logs::Config,
    /// The daemon's own environment, of which jobs get what the allow-lists name.
    pub environment: BTreeMap<String, String>,
    /// This executable, for the process that salvages when the daemon is gone.
    pub executable: PathBuf,
}
