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
    /// The program and its first arguments. For `kind = "command"` it speaks the executor protocol; for agents it is where theirs is
    /// when it is not the usual name in the `PATH`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Where its result is read from; what suits the kind when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<ResultFrom>,
    /// How long an attempt may take when the job does not say; `attempt.timeout` when absent.
    #[serde(default, with = "human::option", skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// How often it may hear within one attempt what was wrong with its work, when the job does not say; `attempt.revisions` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revisions: Option<u32>,
    /// For `kind = "command"`: whether the program can be started again with what was wrong, and goes on from there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub revises: bool,
    /// Names of variables of the daemon's environment that it gets, beyond `sandbox.env_allow`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// What it offers to its jobs, beside the labels of the worker.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<Label>,
    /// The name of what it draws on, which is paused when its usage limit is met; the backend's own name when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
    /// For agents: the model, by the name that the agent gives it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// For agents: the base URL of the model's server; the agent's own choice when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// For agents: the template of what they are told, instead of the kind's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// For agents: the version that is expected; `sawmill doctor` says when another is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// For agents: further arguments of their program.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extra_args: Vec<String>,
}

impl BackendConfig {
    /// One of that kind with nothing else set.
    #[must_use]
    pub const fn of(kind: Kind) -> Self {
        Self {
            kind,
            command: Vec::new(),
            result: None,
            timeout: None,
            revisions: None,
            revises: false,
            env: Vec::new(),
            capabilities: Vec::new(),
            credential: None,
            model: None,
            endpoint: None,
            prompt: None,
            version: None,
            extra_args: Vec::new(),
        }
    }
}

/// How a backend is started and understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Runs the job's own command.
    Shell,
    /// Runs the operator's program, which reads the job from the file that `SAWMILL_SPEC` names.
    Command,
    /// Mini-SWE-agent.
    #[serde(rename = "miniswe")]
    MiniSwe,
    /// OpenHands, by its SDK.
    #[serde(rename = "openhands")]
    OpenHands,
    /// Codex, by `codex exec`.
    #[serde(rename = "openai_codex")]
    Codex,
    /// Claude Code, by `claude -p`.
    #[serde(rename = "claude_code")]
    Claude,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.serialize(f)
    }
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
