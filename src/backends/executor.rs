//! Backends by name: the command that one starts for a job, and its verdict on what came back.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::config::{BackendConfig, Kind, ResultFrom};
use super::protocol::{self, ResultDocument, ResultError};
use crate::clock::Timestamp;
use crate::job::completion::Usage;
use crate::job::spec::Task;
use crate::job::{Label, OutcomeClass};

/// The backends of this worker, by name.
#[derive(Debug, Clone)]
pub struct Registry {
    backends: BTreeMap<String, Backend>,
}

impl Registry {
    /// A registry of what is configured.
    ///
    /// # Errors
    /// A backend whose configuration cannot work.
    pub fn new(configured: &BTreeMap<String, BackendConfig>) -> Result<Self, BackendError> {
        let mut backends = BTreeMap::new();
        for (name, config) in configured {
            if config.kind == Kind::Command && config.command.first().is_none_or(String::is_empty) {
                return Err(BackendError::NoProgram(name.clone()));
            }
            backends.insert(name.clone(), Backend { name: name.clone(), config: config.clone() });
        }
        Ok(Self { backends })
    }

    /// The names, sorted.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.backends.keys().cloned().collect()
    }

    /// All of them, by name.
    pub fn all(&self) -> impl Iterator<Item = &Backend> {
        self.backends.values()
    }

    /// The backend of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Backend> {
        self.backends.get(name)
    }
}

/// One backend.
#[derive(Debug, Clone)]
pub struct Backend {
    name: String,
    config: BackendConfig,
}

/// What a backend's end says of the work.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// The work is done.
    Done {
        /// What was done, in words.
        summary: Option<String>,
        /// The use of a model.
        usage: Option<Usage>,
    },
    /// The work failed.
    Failed {
        /// The class, for the retry policy.
        class: OutcomeClass,
        /// One sentence.
        message: String,
    },
    /// The backend's credential is used up for now.
    UsageLimit {
        /// One sentence.
        message: String,
        /// When the limit is reset, where that is known.
        retry_at: Option<Timestamp>,
    },
    /// Something has to be answered before the work can be done.
    Clarification {
        /// What is asked.
        question: String,
    },
}

/// Why a backend cannot take a job.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackendError {
    /// The configuration names no program.
    #[error("backends.{0}: kind \"command\" needs command = [\"program\", …]")]
    NoProgram(String),
    /// The job names no command.
    #[error("backend {0} runs the job's own command, and the job has none: set task.command")]
    NoCommand(String),
}

impl Backend {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How long an attempt may take, where the backend has its own idea of that.
    #[must_use]
    pub const fn timeout(&self) -> Option<Duration> {
        self.config.timeout
    }

    /// Names of variables of the daemon's environment that it gets beyond those that every job gets.
    #[must_use]
    pub fn env(&self) -> &[String] {
        &self.config.env
    }

    /// The name of what it draws on: what is paused when its usage limit is met.
    #[must_use]
    pub fn credential(&self) -> &str {
        self.config.credential.as_deref().unwrap_or(&self.name)
    }

    /// What it offers to its jobs, beside the labels of the worker.
    #[must_use]
    pub fn capabilities(&self) -> &[Label] {
        &self.config.capabilities
    }

    /// The program and arguments to start for `task`.
    ///
    /// # Errors
    /// The task lacks what this backend needs.
    pub fn argv(&self, task: &Task) -> Result<Vec<String>, BackendError> {
        match self.config.kind {
            Kind::Shell => Ok(task.command.as_ref().ok_or_else(|| BackendError::NoCommand(self.name.clone()))?.argv()),
            Kind::Command => Ok(self.config.command.clone()),
        }
    }

    /// Judges an end with `exit` (the status, or what else ended it as a sentence) and the result file at `result`.
    #[must_use]
    pub fn judge(&self, exit: Result<i32, String>, result: &Path) -> Verdict {
        let document = protocol::read_result(result);
        match (self.result_from(), exit) {
            (_, Err(how)) => failed(format!("{} {how}", self.name)),
            (ResultFrom::ExitCode, Ok(0)) => match document {
                Ok(document) => said(&self.name, document),
                Err(ResultError::Missing) => Verdict::Done { summary: None, usage: None },
                Err(error) => failed(format!("{} exited with status 0, but {error}", self.name)),
            },
            (ResultFrom::ExitCode, Ok(127)) if self.config.kind == Kind::Shell => failed(format!(
                "{} exited with status 127: a command that it names was not found, and the log says which",
                self.name
            )),
            (ResultFrom::ExitCode, Ok(status)) => failed(format!("{} exited with status {status}", self.name)),
            (ResultFrom::File, Ok(status)) => match document {
                Ok(document) if status == 0 || !document.ok => said(&self.name, document),
                Ok(_) => failed(format!("{} said that it was done but exited with status {status}", self.name)),
                Err(error) => failed(format!("{} exited with status {status}, and {error}", self.name)),
            },
        }
    }

    /// What it says that it used of a model, however it ended, in the result file at `result`.
    #[must_use]
    pub fn usage(&self, result: &Path) -> Option<Usage> {
        protocol::read_result(result).ok()?.usage
    }

    fn result_from(&self) -> ResultFrom {
        self.config.result.unwrap_or(match self.config.kind {
            Kind::Shell => ResultFrom::ExitCode,
            Kind::Command => ResultFrom::File,
        })
    }
}

fn said(name: &str, document: ResultDocument) -> Verdict {
    let summary = Some(document.summary.trim().to_owned()).filter(|text| !text.is_empty());
    let reported = |what: &str| summary.as_ref().map_or_else(|| format!("{name} {what}"), |why| format!("{name} {what}: {why}"));
    match document {
        ResultDocument { ok: true, usage, .. } => Verdict::Done { summary, usage },
        ResultDocument { retry_at: Some(at), .. } => {
            Verdict::UsageLimit { message: reported("met a usage limit"), retry_at: Some(at).filter(|at| at.0 > 0) }
        }
        ResultDocument { clarification: Some(question), .. } if !question.is_empty() => Verdict::Clarification { question },
        _ => failed(reported("reported failure")),
    }
}

fn failed(message: String) -> Verdict {
    Verdict::Failed { class: OutcomeClass::Backend, message }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::spec::Command;

    fn backend(kind: Kind) -> Backend {
        let config = BackendConfig {
            kind,
            command: vec!["agent".to_owned()],
            result: None,
            timeout: None,
            env: vec![],
            capabilities: vec![],
            credential: None,
        };
        Backend { name: "b".to_owned(), config }
    }

    fn check(kind: Kind, exit: Result<i32, String>, result: Option<&str>, expected: &str) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("result.json");
        if let Some(text) = result {
            std::fs::write(&path, text).expect("written");
        }
        let found = match backend(kind).judge(exit, &path) {
            Verdict::Done { summary, .. } => format!("done: {}", summary.unwrap_or_default()),
            Verdict::Failed { message, .. } => message,
            Verdict::Clarification { question } => format!("asks: {question}"),
            Verdict::UsageLimit { message, retry_at } => format!("{message}; {:?}", retry_at.map(|at| at.0)),
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn success_is_proven_and_not_claimed() {
        let ok = Some(r#"{"schema":1,"ok":true,"summary":"did it"}"#);
        let not_ok = Some(r#"{"schema":1,"ok":false,"summary":"no idea"}"#);
        check(Kind::Shell, Ok(0), None, "done: ");
        check(Kind::Shell, Ok(0), ok, "done: did it");
        check(Kind::Shell, Ok(0), not_ok, "b reported failure: no idea");
        check(Kind::Shell, Ok(3), ok, "b exited with status 3");
        check(Kind::Shell, Err("was ended by signal 9".to_owned()), ok, "b was ended by signal 9");
        check(Kind::Command, Ok(0), ok, "done: did it");
        check(Kind::Command, Ok(0), None, "b exited with status 0, and no result file");
        check(Kind::Command, Ok(1), ok, "b said that it was done but exited with status 1");
        check(Kind::Command, Ok(1), not_ok, "b reported failure: no idea");
    }

    #[test]
    fn who_asks_has_not_failed() {
        let asks = |question: &str| format!(r#"{{"schema":1,"ok":false,"summary":"unclear","clarification":"{question}"}}"#);
        check(Kind::Command, Ok(0), Some(&asks(" Which one? ")), "asks: Which one?");
        check(Kind::Command, Ok(0), Some(&asks(" ")), "b reported failure: unclear");
        let done = Some(r#"{"schema":1,"ok":true,"summary":"did it","clarification":"Was that right?"}"#);
        check(Kind::Command, Ok(0), done, "done: did it");
    }

    #[test]
    fn a_usage_limit_is_told_by_when_to_try_again() {
        let at = |at: &str| format!(r#"{{"schema":1,"ok":false,"summary":"5-hour limit","retry_at":{at}}}"#);
        check(Kind::Command, Ok(1), Some(&at("7")), "b met a usage limit: 5-hour limit; Some(7)");
        check(Kind::Shell, Ok(0), Some(&at("0")), "b met a usage limit: 5-hour limit; None");
        check(Kind::Command, Ok(0), Some(&at("null")), "b reported failure: 5-hour limit");
        let done = Some(r#"{"schema":1,"ok":true,"summary":"did it","retry_at":7}"#);
        check(Kind::Command, Ok(0), done, "done: did it");
    }

    #[test]
    fn the_shell_runs_the_jobs_own_command_and_says_when_there_is_none() {
        let with = Task { command: Some(Command::Line("make".to_owned())), ..Task::default() };
        assert_eq!(backend(Kind::Shell).argv(&with), Ok(vec!["sh".to_owned(), "-c".to_owned(), "make".to_owned()]));
        assert_eq!(backend(Kind::Shell).argv(&Task::default()), Err(BackendError::NoCommand("b".to_owned())));
    }
}
