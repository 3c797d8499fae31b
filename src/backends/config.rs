//! `[backends.X]` of the configuration.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::human;
use crate::job::Label;

/// One executor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackendConfig {
    /// How it is started and understood.
    pub kind: Kind,
    /// For `kind = "command"`: the program and its arguments. It speaks the executor protocol.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Where its result is read from; what suits the kind when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<ResultFrom>,
    /// How long an attempt may take when the job does not say; `attempt.timeout` when absent.
    #[serde(default, with = "human::option", skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// Names of variables of the daemon's environment that it gets, beyond `sandbox.env_allow`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// What it offers to its jobs, beside the labels of the worker.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<Label>,
    /// The name of what it draws on, which is paused when its usage limit is met; the backend's own name when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
}

/// How a backend is started and understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Runs the job's own command.
    Shell,
    /// Runs the operator's program, which reads the job from the file that `SAWMILL_SPEC` names.
    Command,
}

/// Where a backend's result is read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResultFrom {
    /// The exit status decides; a result file, where there is one, only adds to it.
    ExitCode,
    /// The result file decides; none, or a malformed one, is a failure whatever the exit status.
    File,
}
