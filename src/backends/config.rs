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
    /// When it is taken for hung, and ended.
    #[serde(default, skip_serializing_if = "Stall::is_unset")]
    pub stall: Stall,
    /// How often it may hear within one attempt what was wrong with its work, when the job does not say; `attempt.revisions` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revisions: Option<u32>,
    /// For `kind = "command"`: whether the program can be started again with what was wrong, and goes on from there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub revises: bool,
    /// For agents: whether it may ask where it cannot go on; its job then waits for an answer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub questions: bool,
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
    /// What a worker runs once, in the background, so that the files that the backend's program loads at each start are in memory before
    /// its first job; nothing where it is empty, and what suits the kind when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warmup: Option<Vec<String>>,
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
            stall: Stall::NEVER,
            revisions: None,
            revises: false,
            questions: false,
            env: Vec::new(),
            capabilities: Vec::new(),
            credential: None,
            model: None,
            endpoint: None,
            prompt: None,
            version: None,
            warmup: None,
            extra_args: Vec::new(),
        }
    }
}

/// When a backend is taken for hung. What is absent is as it suits the kind; 0 is never.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Stall {
    /// How long it may take until it says a first word.
    #[serde(with = "human::option", skip_serializing_if = "Option::is_none")]
    pub start: Option<Duration>,
    /// How long it may neither say, nor compute, nor write anything.
    #[serde(with = "human::option", skip_serializing_if = "Option::is_none")]
    pub silence: Option<Duration>,
    /// How long it may go without changing a file of its worktree, whatever else it does.
    #[serde(with = "human::option", skip_serializing_if = "Option::is_none")]
    pub no_edit: Option<Duration>,
}

impl Stall {
    /// Of what may do nothing for as long as it wants.
    pub const NEVER: Self = Self { start: None, silence: None, no_edit: None };

    /// Whether nothing is said of it.
    #[must_use]
    pub fn is_unset(&self) -> bool {
        *self == Self::NEVER
    }

    /// What is set here, and where nothing is, what is set there. What is never is absent.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        let of = |own: Option<Duration>, other: Option<Duration>| own.or(other).filter(|time| !time.is_zero());
        Self {
            start: of(self.start, other.start),
            silence: of(self.silence, other.silence),
            no_edit: of(self.no_edit, other.no_edit),
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
