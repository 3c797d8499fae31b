//! What must hold of a job document beyond its form.
//!
//! The one rule: the first thing found wrong is named by the path to its field, in words that say what would be right.

use std::time::Duration;

use super::artifact::WISHES_MAX;
use super::budget::Budget;
use super::globs::Globs;
use super::label::LabelError;
use super::spec::{Command, ContainerMode, Gate, JobSpec, SCHEMA};
use crate::clock::human;

/// What is wrong with a job document, beyond its form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// The document's version is not ours.
    #[error("schema: this build reads version {SCHEMA}, not {0}")]
    Schema(u32),
    /// Neither project nor repository.
    #[error("repo: a job needs a project or a repo")]
    NoRepo,
    /// Nothing to do.
    #[error("task: a job needs an instruction or a command")]
    NoTask,
    /// A command without a program.
    #[error("{0}: the command is empty")]
    EmptyCommand(String),
    /// A number out of its bounds.
    #[error("{field}: {value} is not between {min} and {max}")]
    OutOfBounds {
        /// The path to the field.
        field: &'static str,
        /// What it says.
        value: String,
        /// The least.
        min: String,
        /// The most.
        max: String,
    },
    /// A text that is too long.
    #[error("{field}: {length} bytes are more than the {max} allowed")]
    TooLong {
        /// The path to the field.
        field: &'static str,
        /// Its length in bytes.
        length: usize,
        /// The most, in bytes.
        max: usize,
    },
    /// A name that no environment variable may have, or one that Sawmill sets itself.
    #[error("env.{0}: not a name that a job may set")]
    EnvName(String),
    /// A text that can be no label.
    #[error("{field}: {error}")]
    Label {
        /// The path to the field.
        field: String,
        /// What is wrong with it.
        error: LabelError,
    },
    /// A budget that limits nothing.
    #[error("{0}: a budget needs tokens or cost_usd")]
    EmptyBudget(&'static str),
    /// A budget of an execution that has no name.
    #[error("execution.budget: needs execution.id, by which the execution's jobs are known")]
    NamelessBudget,
    /// A job that may not start before it must have started.
    #[error("start_by: is not after run_at")]
    StartBy,
    /// An image for a job that is to run on the host.
    #[error("image: a job that is not to run in a container has no image")]
    ImageWithoutContainer,
    /// A pattern that no path below the worktree can match.
    #[error("artifacts[{0}].path: a pattern of paths from the root of the repository, without \"..\", is needed")]
    ArtifactPath(usize),
    /// A pattern of paths that can match none.
    #[error("{field}: {why}")]
    Pattern {
        /// The path to the field.
        field: String,
        /// What is wrong with it.
        why: String,
    },
    /// A text with a NUL byte, which no argument, variable or path can hold.
    #[error("{0}: contains a NUL byte")]
    Nul(String),
}

/// The longest instruction, in bytes.
pub const INSTRUCTION_MAX: usize = 256 * 1024;
/// The longest idempotency key, in bytes.
pub const KEY_MAX: usize = 512;
/// The most attempts a job may ask for.
pub const ATTEMPTS_MAX: u32 = 100;
/// The most revisions a job may ask for.
pub const REVISIONS_MAX: u32 = 20;
/// The longest timeout a job may ask for.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

impl JobSpec {
    /// Checks what the form alone cannot say.
    ///
    /// # Errors
    /// The first thing found wrong, naming the path to the field.
    pub fn validate(&self) -> Result<(), SpecError> {
        if self.schema != SCHEMA {
            return Err(SpecError::Schema(self.schema));
        }
        if self.project.is_none() && self.repo.as_deref().is_none_or(str::is_empty) {
            return Err(SpecError::NoRepo);
        }
        self.validate_task()?;
        for (index, gate) in self.gates.iter().enumerate() {
            check_gate(&format!("gates[{index}]"), gate)?;
        }
        for (index, checks) in self.checks.iter().enumerate() {
            check_patterns(checks.patterns(), |part| format!("checks[{index}].{part}"))?;
        }
        if self.artifacts.len() > WISHES_MAX {
            return Err(SpecError::out_of_bounds("artifacts", self.artifacts.len(), 0, WISHES_MAX));
        }
        for (index, wish) in self.artifacts.iter().enumerate() {
            if wish.path.is_empty() || wish.path.starts_with('/') || wish.path.split('/').any(|part| part == "..") {
                return Err(SpecError::ArtifactPath(index));
            }
            if wish.path.contains('\0') {
                return Err(SpecError::Nul(format!("artifacts[{index}].path")));
            }
            check_patterns([("path".to_owned(), &wish.path)], |part| format!("artifacts[{index}].{part}"))?;
        }
        if let Some(attempts) = self.attempts
            && !(1..=ATTEMPTS_MAX).contains(&attempts)
        {
            return Err(SpecError::out_of_bounds("attempts", attempts, 1, ATTEMPTS_MAX));
        }
        if let Some(revisions) = self.revisions
            && revisions > REVISIONS_MAX
        {
            return Err(SpecError::out_of_bounds("revisions", revisions, 0, REVISIONS_MAX));
        }
        if let Some(timeout) = self.timeout
            && !(Duration::from_millis(100)..=TIMEOUT_MAX).contains(&timeout)
        {
            return Err(SpecError::out_of_bounds("timeout", human::format(timeout), "100ms", "168h"));
        }
        if self.container == Some(ContainerMode::Off) && self.image.is_some() {
            return Err(SpecError::ImageWithoutContainer);
        }
        for (field, budget) in [("budget", &self.budget), ("execution.budget", &self.execution.budget)] {
            if *budget == Some(Budget::default()) {
                return Err(SpecError::EmptyBudget(field));
            }
        }
        if self.execution.budget.is_some() && self.execution.id.is_none() {
            return Err(SpecError::NamelessBudget);
        }
        self.validate_schedule()?;
        check_length("idempotency_key", self.idempotency_key.as_deref(), KEY_MAX)?;
        self.env.iter().try_for_each(|(name, value)| check_variable(name, value))
    }

    fn validate_task(&self) -> Result<(), SpecError> {
        check_length("task.instruction", self.task.instruction.as_deref(), INSTRUCTION_MAX)?;
        match &self.task.command {
            Some(command) => check_command("task.command", command),
            None if self.task.instruction.as_deref().is_none_or(|text| text.trim().is_empty()) => Err(SpecError::NoTask),
            None => Ok(()),
        }
    }
}

/// Checks that a gate can be run, and that what it writes can be found.
///
/// # Errors
/// What is wrong with it, naming the field.
pub(crate) fn check_gate(field: &str, gate: &Gate) -> Result<(), SpecError> {
    check_command(&format!("{field}.command"), &gate.command)?;
    check_patterns(gate.patterns(), |part| format!("{field}.{part}"))
}

fn check_patterns<'a>(
    patterns: impl IntoIterator<Item = (String, &'a String)>,
    field: impl Fn(String) -> String,
) -> Result<(), SpecError> {
    patterns
        .into_iter()
        .try_for_each(|(part, pattern)| Globs::check(pattern).map_err(|why| SpecError::Pattern { field: field(part), why }))
}

/// Checks that something can be run.
///
/// # Errors
/// What is wrong with it, naming the field.
pub(crate) fn check_command(field: &str, command: &Command) -> Result<(), SpecError> {
    if command.is_empty() {
        return Err(SpecError::EmptyCommand(field.to_owned()));
    }
    if command.argv().iter().any(|argument| argument.contains('\0')) {
        return Err(SpecError::Nul(field.to_owned()));
    }
    Ok(())
}

fn check_length(field: &'static str, text: Option<&str>, max: usize) -> Result<(), SpecError> {
    match text {
        Some(text) if text.len() > max => Err(SpecError::TooLong { field, length: text.len(), max }),
        _ => Ok(()),
    }
}

fn check_variable(name: &str, value: &str) -> Result<(), SpecError> {
    let legal = !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if !legal || name.starts_with("SAWMILL_") {
        return Err(SpecError::EnvName(name.to_owned()));
    }
    if value.contains('\0') {
        return Err(SpecError::Nul(format!("env.{name}")));
    }
    Ok(())
}

impl SpecError {
    pub(super) fn out_of_bounds(field: &'static str, value: impl ToString, min: impl ToString, max: impl ToString) -> Self {
        Self::OutOfBounds { field, value: value.to_string(), min: min.to_string(), max: max.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::super::checks::Checks;
    use super::super::spec::Task;
    use super::super::{ArtifactWish, Concurrency, CoverageWish};
    use super::*;
    use crate::clock::Timestamp;

    fn spec(edit: impl FnOnce(&mut JobSpec)) -> JobSpec {
        let mut spec = JobSpec {
            schema: SCHEMA,
            repo: Some("/srv/git/app.git".to_owned()),
            task: Task { command: Some(Command::Line("true".to_owned())), ..Task::default() },
            ..JobSpec::default()
        };
        edit(&mut spec);
        spec
    }

    #[test]
    fn a_job_document_says_what_is_wrong_with_it() {
        let check = |edit: fn(&mut JobSpec), expected: &str| {
            let found = spec(edit).validate().map_or_else(|error| error.to_string(), |()| String::new());
            assert_eq!(found, expected);
        };
        check(|_| (), "");
        check(|s| s.schema = 2, "schema: this build reads version 1, not 2");
        check(|s| s.repo = None, "repo: a job needs a project or a repo");
        check(|s| s.task.command = None, "task: a job needs an instruction or a command");
        check(|s| s.task.command = Some(Command::Argv(vec![])), "task.command: the command is empty");
        let forbid = |pattern: &str| Checks { forbid: vec!["a".to_owned(), pattern.to_owned()], ..Checks::default() };
        let refused = spec(|s| s.checks = vec![Checks::default(), forbid("[z-a]*.pem")]).validate().expect_err("no pattern");
        assert!(refused.to_string().starts_with("checks[1].forbid[1]: \"[z-a]*.pem\" is no pattern: "), "{refused}");
        let gate = |reports: &[&str], coverage: &str| Gate {
            name: "unit".to_owned(),
            command: Command::Line("true".to_owned()),
            tests: None,
            reports: reports.iter().map(|path| (*path).to_owned()).collect(),
            coverage: Some(CoverageWish { path: coverage.to_owned(), required: false }),
            timeout: None,
        };
        let refused = |gate: Gate| spec(|s| s.gates = vec![gate]).validate().expect_err("no pattern").to_string();
        assert!(refused(gate(&["ok", "[z-a]"], "ok")).starts_with("gates[0].reports[1]: "));
        assert!(refused(gate(&["ok"], "out/../lcov.info")).starts_with("gates[0].coverage.path: "));
        let wish = ArtifactWish { path: "out/[z-a]".to_owned(), required: true };
        let refused = spec(|s| s.artifacts = vec![wish]).validate().expect_err("no pattern");
        assert!(refused.to_string().starts_with("artifacts[0].path: "), "{refused}");
        check(|s| s.attempts = Some(0), "attempts: 0 is not between 1 and 100");
        check(|s| s.revisions = Some(21), "revisions: 21 is not between 0 and 20");
        check(|s| s.timeout = Some(Duration::from_millis(5)), "timeout: 5ms is not between 100ms and 168h");
        check(
            |s| s.requires = vec!["two words".to_owned()],
            "requires[0]: \"two words\" is not a label such as \"linux\" or \"gpu=a100\": letters, digits and ._-/:, at most 100 bytes",
        );
        check(
            |s| s.concurrency = Some(Concurrency { key: "k".to_owned(), limit: 0 }),
            "concurrency.limit: 0 is not between 1 and 10000",
        );
        check(|s| (s.run_at, s.start_by) = (Some(Timestamp(9)), Some(Timestamp(9))), "start_by: is not after run_at");
        check(|s| s.idempotency_key = Some("k".repeat(513)), "idempotency_key: 513 bytes are more than the 512 allowed");
        check(
            |s| drop(s.env.insert("SAWMILL_SPEC".to_owned(), String::new())),
            "env.SAWMILL_SPEC: not a name that a job may set",
        );
        check(|s| drop(s.env.insert("A".to_owned(), "\0".to_owned())), "env.A: contains a NUL byte");
    }
}
