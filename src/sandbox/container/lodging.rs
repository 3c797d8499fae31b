//! What a job asks for when it wants a container, and what it is given.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::inside::WORKSPACE;
use super::workshop::Container;
use crate::clock::Timestamp;
use crate::sandbox::{CommandSpec, ExitReport, SandboxError};

/// What a job needs of a container.
#[derive(Debug, Clone)]
pub struct Wish {
    /// Its slot.
    pub slot: u32,
    /// What it sees of the slot.
    pub job_dir: PathBuf,
    /// Its worktree, which is in that, and may be a mount.
    pub tree: PathBuf,
    /// Its image; the configured one when absent.
    pub image: Option<String>,
    /// Directories of git objects that its view borrows.
    pub objects: Vec<PathBuf>,
}

/// A container for a job.
#[derive(Debug)]
pub struct Lodging {
    /// The container.
    pub container: Container,
    /// What the image sets in the environment of its programs.
    pub env: Vec<(String, String)>,
    /// Whether it was ready.
    pub start: Start,
}

impl Lodging {
    /// Runs a command of no job in it, where a job's would run, for at most `within`; what it prints is appended to `out` and `err`.
    /// `purpose` is a word for its id.
    ///
    /// # Errors
    /// Its supervisor is gone, or refuses.
    pub async fn run(
        &self,
        purpose: &str,
        argv: &[String],
        (out, err): (&Path, &Path),
        within: Duration,
    ) -> Result<ExitReport, SandboxError> {
        let mut env: BTreeMap<String, String> = self.env.iter().cloned().collect();
        env.insert("HOME".to_owned(), WORKSPACE.to_owned());
        let command = CommandSpec {
            id: format!("{purpose}-{}", uuid::Uuid::new_v4().simple()),
            argv: argv.to_vec(),
            env,
            cwd: WORKSPACE.into(),
            stdin: None,
            stdout: out.to_owned(),
            stderr: err.to_owned(),
            grace: Duration::ZERO,
            deadline: Some(Timestamp::now() + within),
            will: None,
        };
        let supervisor = self.container.supervisor();
        supervisor.start(&command).await?;
        let report = supervisor.wait(&command.id).await?;
        supervisor.collect(&command.id).await?;
        Ok(report)
    }
}

/// Whether a container was there before its job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// It was.
    Warm,
    /// It was made for the job.
    Cold,
}

/// What became of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// No process is left in it.
    Clean,
    /// It is not known what is in it.
    Spoilt,
}
