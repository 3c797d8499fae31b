//! What a planner asks for: the job document of `POST /v1/jobs`.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::artifact::ArtifactWish;
use super::branch::BranchName;
use super::budget::Budget;
use super::checks::Checks;
use super::counts::TestFormat;
use super::coverage::CoverageWish;
use super::retry::RetryFrom;
use super::schedule::{AfterFailure, Concurrency};
use crate::clock::{Timestamp, human};
use crate::ids::JobId;

/// The version of the job document that this build reads and writes.
pub const SCHEMA: u32 = 1;

/// A job document. Unknown fields are errors.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JobSpec {
    /// The version of this document: 1.
    #[serde(default = "schema")]
    pub schema: u32,
    /// A project of the configuration, which names repository and policy. Either this or `repo`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// The remote: any URL that git accepts, or an absolute path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repo: Option<String>,
    /// The branch, tag or full commit id to start from; the remote's default branch when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// The backend that does the work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// What to do.
    pub task: Task,
    /// Whether the work must, may or must not change files.
    #[serde(default)]
    pub changes: Changes,
    /// How urgent it is.
    #[serde(default)]
    pub priority: Priority,
    /// A key of the planner's: the same key with the same document is the same job, with another it is a conflict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// Not before this moment (milliseconds since the epoch).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_at: Option<Timestamp>,
    /// It fails unless it has started by this moment (milliseconds since the epoch).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_by: Option<Timestamp>,
    /// What a worker needs to run it: labels of the worker, or capabilities of its backend.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requires: Vec<String>,
    /// Jobs whose end it waits for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<JobId>,
    /// What becomes of it when one of those fails or is cancelled.
    #[serde(default, skip_serializing_if = "AfterFailure::is_default")]
    pub after_failure: AfterFailure,
    /// A job on the same remote that it waits for, and from whose commit it starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_from: Option<JobId>,
    /// A name that it shares with jobs which must not all run at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<Concurrency>,
    /// How long an attempt may take from claim to publish.
    #[serde(default, with = "human::option", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "30m")]
    pub timeout: Option<Duration>,
    /// How many attempts may fail by the job's own fault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
    /// What an attempt after the first one begins with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_from: Option<RetryFrom>,
    /// How often the backend may hear, within one attempt, what was wrong with its work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revisions: Option<u32>,
    /// How much all of its attempts together may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
    /// Where the job belongs in the planner's own scheme; names the branch.
    #[serde(default, skip_serializing_if = "Execution::is_empty")]
    pub execution: Execution,
    /// Whether it runs in a container; the worker's choice when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<ContainerMode>,
    /// The image of that container, which it then runs in or not at all; the worker's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Environment variables for the backend's command, beyond the backend's own allow-list.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Commands that judge the result, after those of the project.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gates: Vec<Gate>,
    /// What the result must look like, whatever the gates say: after the checks of the project, each as it stands.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<Checks>,
    /// Models that are asked about the commit once its gates have passed, by their names in the configuration: after those of the project.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub critics: Vec<String>,
    /// Files of the worktree that are kept, beside what is kept of every attempt.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub artifacts: Vec<ArtifactWish>,
    /// How the result is delivered.
    #[serde(default, skip_serializing_if = "Deliver::is_default")]
    pub deliver: Deliver,
    /// What becomes of the workspace.
    #[serde(default, skip_serializing_if = "WorkspacePolicy::is_default")]
    pub workspace: WorkspacePolicy,
}

const fn schema() -> u32 {
    SCHEMA
}

/// What to do.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Task {
    /// In words, for backends that read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instruction: Option<String>,
    /// As a command, for backends that run one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<Command>,
    /// When it counts as done, in words.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub acceptance: Vec<String>,
    /// Anything else that the backend's program understands.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = Object)]
    pub inputs: BTreeMap<String, serde_json::Value>,
}

/// A command: a line for `sh -c`, or a program with its arguments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged, expecting = "a command is a line of text, or a list of a program and its arguments")]
pub enum Command {
    /// A line for the shell.
    Line(String),
    /// A program and its arguments, run without a shell.
    Argv(Vec<String>),
}

impl Command {
    /// The program and arguments to start.
    #[must_use]
    pub fn argv(&self) -> Vec<String> {
        match self {
            Self::Line(line) => vec!["sh".to_owned(), "-c".to_owned(), line.clone()],
            Self::Argv(argv) => argv.clone(),
        }
    }

    /// Whether there is nothing to run.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Line(line) => line.trim().is_empty(),
            Self::Argv(argv) => argv.first().is_none_or(String::is_empty),
        }
    }
}

impl std::fmt::Display for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Line(line) => f.write_str(line),
            Self::Argv(argv) => f.write_str(&argv.join(" ")),
        }
    }
}

/// Whether the work must, may or must not change files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Changes {
    /// No change is a failure of its own class.
    #[default]
    Required,
    /// No change is a success without a commit.
    Optional,
    /// A change is a failure.
    None,
}

/// How urgent a job is. More urgent ones are claimed first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// Somebody waits for it.
    Interactive,
    /// The usual.
    #[default]
    Normal,
    /// Whenever there is room.
    Background,
}

impl Priority {
    /// All of them, most urgent first.
    pub const ALL: [Self; 3] = [Self::Interactive, Self::Normal, Self::Background];

    /// Its place in the order of claiming, from 0; the form in which it is stored.
    #[must_use]
    pub const fn rank(self) -> i16 {
        self as i16
    }

    /// The word used on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Interactive => "interactive",
            Self::Normal => "normal",
            Self::Background => "background",
        }
    }
}

impl std::str::FromStr for Priority {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|priority| priority.as_str() == text)
            .ok_or_else(|| format!("{text:?} is not a priority (interactive, normal or background)"))
    }
}

/// Whether jobs run in containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ContainerMode {
    /// Where the worker can: the engine answers and has the image. Else on the host; the job's log says why.
    Auto,
    /// In a container, or not at all.
    On,
    /// On the host.
    Off,
}

impl ContainerMode {
    /// The word used on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::On => "on",
            Self::Off => "off",
        }
    }
}

impl std::str::FromStr for ContainerMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "on" => Ok(Self::On),
            "off" => Ok(Self::Off),
            _ => Err("there are auto, on and off".to_owned()),
        }
    }
}

/// Where a job belongs in the planner's own scheme.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Execution {
    /// The plan that it is part of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The part that it plays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// A few words for a branch name; made from the instruction when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slug: Option<String>,
    /// How much all jobs of the execution together may use before this one is not started any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
}

impl Execution {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A command that judges a result: exit status 0 passes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Gate {
    /// Its name in the evidence.
    pub name: String,
    /// What to run, in a clean checkout of the commit that will be delivered, which no other gate has written to.
    pub command: Command,
    /// How it says how many tests it ran, for a gate that runs tests: one that runs none is then failed, whatever its exit status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tests: Option<TestFormat>,
    /// Patterns of the files in the form of JUnit that it writes, such as `target/**/junit.xml`, below its directory.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reports: Vec<String>,
    /// The report on what its tests cover, where it writes one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coverage: Option<CoverageWish>,
    /// How long it may take, within the attempt's deadline.
    #[serde(default, with = "human::option", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "3m")]
    pub timeout: Option<Duration>,
}

impl Gate {
    /// Its patterns of files, each by its path within this.
    pub fn patterns(&self) -> impl Iterator<Item = (String, &String)> {
        let reports = self.reports.iter().enumerate().map(|(index, pattern)| (format!("reports[{index}]"), pattern));
        reports.chain(self.coverage.iter().map(|wish| ("coverage.path".to_owned(), &wish.path)))
    }
}

/// How a result is delivered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Deliver {
    /// Whether the branch is pushed to the remote. Without it the commit stays on the worker's mirror.
    pub push: bool,
    /// The branch, instead of the one that the template yields.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub branch: Option<BranchName>,
}

impl Default for Deliver {
    fn default() -> Self {
        Self { push: true, branch: None }
    }
}

impl Deliver {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What becomes of the workspace when the attempt has ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WorkspacePolicy {
    /// Whether it is kept; the configuration's choice when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep: Option<Keep>,
}

impl WorkspacePolicy {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// When a workspace is kept for a person to look at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// Never.
    #[default]
    Never,
    /// When the attempt failed.
    OnFailure,
    /// Always.
    Always,
}

impl JobSpec {
    /// Whether it runs in a container or not at all, wherever it runs.
    #[must_use]
    pub fn needs_container(&self) -> bool {
        match self.container {
            Some(ContainerMode::On) => true,
            Some(ContainerMode::Off) => false,
            // One that names an image is not to run anywhere else.
            Some(ContainerMode::Auto) | None => self.image.is_some(),
        }
    }

    /// Whether it runs on the host, wherever it runs.
    #[must_use]
    pub fn needs_host(&self) -> bool {
        self.container == Some(ContainerMode::Off)
    }

    /// A few words that say what the job is about: the slug, the first line of the instruction, or the command.
    #[must_use]
    pub fn title(&self) -> String {
        let text = match (&self.execution.slug, &self.task.instruction, &self.task.command) {
            (Some(slug), _, _) => slug.clone(),
            (None, Some(instruction), _) => instruction.lines().next().unwrap_or_default().to_owned(),
            (None, None, Some(command)) => command.to_string().lines().next().unwrap_or_default().to_owned(),
            (None, None, None) => String::new(),
        };
        text.trim().chars().take(72).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_document_reads_back_as_it_was_written() {
        let spec = JobSpec {
            schema: SCHEMA,
            repo: Some("/srv/git/app.git".to_owned()),
            task: Task { command: Some(Command::Line("true".to_owned())), ..Task::default() },
            timeout: Some(Duration::from_secs(90)),
            execution: Execution { role: Some("fixer".to_owned()), ..Execution::default() },
            gates: vec![Gate {
                name: "unit".to_owned(),
                command: Command::Line("make".to_owned()),
                tests: Some(TestFormat::Cargo),
                reports: Vec::new(),
                coverage: None,
                timeout: None,
            }],
            ..JobSpec::default()
        };
        let json = serde_json::to_string(&spec).expect("a job document is JSON");
        assert_eq!(serde_json::from_str::<JobSpec>(&json).expect("what was written can be read"), spec);
    }
}
