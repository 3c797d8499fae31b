//! The sections of the configuration, composed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::backends::BackendConfig;
use crate::job::RetryFrom;
use crate::job::budget::ProjectBudget;
use crate::job::checks::Checks;
use crate::job::spec::Gate;
use crate::{api, artifacts, attempt, caches, clock, critic, git, logs, sandbox, store, worker, workspace};

/// The whole configuration.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The database, leases and retries.
    pub queue: store::Config,
    /// The worker daemon.
    pub worker: worker::Config,
    /// Deadlines of attempts.
    pub attempt: attempt::Config,
    /// Making, names and keeping of workspaces.
    pub workspace: workspace::Config,
    /// What is kept from job to job.
    pub caches: caches::Config,
    /// How commands run.
    pub sandbox: sandbox::Config,
    /// Which jobs run in containers, and what one may take.
    pub container: sandbox::container::Config,
    /// How git runs.
    pub git: git::Config,
    /// Shipping and bounding of logs.
    pub logs: logs::Config,
    /// Files that are kept beyond the workspace.
    pub artifacts: artifacts::Config,
    /// The API.
    pub server: api::Config,
    /// The executors, by name.
    pub backends: BTreeMap<String, BackendConfig>,
    /// The backend of jobs that name none.
    pub default_backend: String,
    /// What every result must look like, unless its project says otherwise.
    pub checks: Checks,
    /// Models that can be asked about commits, by name.
    pub critics: BTreeMap<String, critic::CriticConfig>,
    /// Those that are asked about every commit, unless its project says otherwise.
    pub default_critics: Vec<String>,
    /// Repositories with their policy, by name.
    pub projects: BTreeMap<String, ProjectConfig>,
}

/// A named repository with its policy.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProjectConfig {
    /// The remote.
    pub repo: String,
    /// What jobs start from when they do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// What does jobs that name no backend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// How long an attempt may take when the job does not say.
    #[serde(default, with = "clock::human::option", skip_serializing_if = "Option::is_none")]
    pub timeout: Option<std::time::Duration>,
    /// How many attempts a job may fail by its own fault when it does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
    /// What a further attempt begins with when the job does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_from: Option<RetryFrom>,
    /// How often a backend may revise within an attempt when the job does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revisions: Option<u32>,
    /// What judges every result, before the job's own gates.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gates: Vec<Gate>,
    /// The critics that are asked about every commit whose gates have passed, instead of `default_critics`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub critics: Option<Vec<String>>,
    /// What every result must look like: what this does not say is as for all projects.
    #[serde(default, skip_serializing_if = "Checks::is_default")]
    pub checks: Checks,
    /// What its jobs may take of the queue.
    #[serde(default, skip_serializing_if = "store::ProjectLimits::are_none")]
    pub limits: store::ProjectLimits,
    /// What its jobs find as an earlier one left it.
    #[serde(default, deserialize_with = "caches::entries", skip_serializing_if = "Vec::is_empty")]
    pub caches: Vec<caches::CacheConfig>,
    /// How much its jobs may use of models.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<ProjectBudget>,
}
