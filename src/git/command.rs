//! Running git: one command with arguments, an environment made from nothing, a limit of time and of output.
//!
//! The one rule: nothing that a user or a job left on this host configures git. Settings that must hold are given through
//! git's own environment (`GIT_CONFIG_COUNT`), which has the last word over every file, and which git itself takes away
//! from the far end of a local remote, so that the remote's own hooks still run there.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::process::{Child, Command};

use super::diagnose;
use super::error::GitError;
use super::running::{Finished, Group, Purpose, Running};
use super::tether::{Side, TETHER_SUBCOMMAND};
use super::{Git, Remote};

/// The oldest git that has everything used here (`GIT_CONFIG_GLOBAL` and `checkout.workers` came with 2.32).
const VERSION_NEEDED: &str = "2.32";
/// How much of what git prints is kept: answers of known size need no more.
const STDOUT_MAX: usize = 16 * 1024 * 1024;

/// Variables that are about one repository: git takes them from whoever serves another.
const OF_ONE_REPOSITORY: [&str; 15] = [
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_CONFIG",
    "GIT_CONFIG_COUNT",
    "GIT_CONFIG_PARAMETERS",
    "GIT_DIR",
    "GIT_GRAFT_FILE",
    "GIT_IMPLICIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_NO_REPLACE_OBJECTS",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_REPLACE_REF_BASE",
    "GIT_SHALLOW_FILE",
    "GIT_WORK_TREE",
];

/// Settings that hold for every command.
const SETTINGS: [(&str, &str); 22] = [
    ("core.hooksPath", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("core.untrackedCache", "false"),
    ("core.splitIndex", "false"),
    ("core.attributesFile", "/dev/null"),
    ("core.excludesFile", "/dev/null"),
    ("core.autocrlf", "false"),
    ("core.safecrlf", "false"),
    ("core.fileMode", "true"),
    ("core.symlinks", "true"),
    ("core.ignoreCase", "false"),
    ("core.quotePath", "false"),
    ("core.askPass", ""),
    ("core.bigFileThreshold", "32m"),
    ("credential.helper", ""),
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    ("advice.addEmbeddedRepo", "false"),
    ("commit.gpgSign", "false"),
    ("index.skipHash", "true"),
    ("submodule.recurse", "false"),
    ("fetch.recurseSubmodules", "false"),
];

/// The file that takes the place of the user's configuration.
pub(super) fn global_configuration(safe_directories: &[String]) -> String {
    let mut text = "# Written by sawmill: what git reads here instead of a user's configuration.\n[safe]\n".to_owned();
    for directory in safe_directories {
        let quoted = directory.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "");
        text.push_str(&format!("\tdirectory = \"{quoted}\"\n"));
    }
    text
}

/// The absolute path of `name`, which need not be looked up when it has a slash.
pub(super) fn find_program(name: &Path, search_path: &str) -> Result<PathBuf, GitError> {
    let missing = || {
        let why = format!("it is nowhere in the search path {search_path}");
        GitError::Program { program: name.to_owned(), source: io::Error::new(io::ErrorKind::NotFound, why) }
    };
    if name.components().count() > 1 {
        return std::path::absolute(name).map_err(|source| GitError::Program { program: name.to_owned(), source });
    }
    search_path
        .split(':')
        .filter(|directory| directory.starts_with('/'))
        .map(|directory| Path::new(directory).join(name))
        .find(|path| path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0))
        .ok_or_else(missing)
}

/// Asks the program for its version; at most five seconds.
pub(super) fn check_version(program: &Path) -> Result<String, GitError> {
    let failed = |source| GitError::Program { program: program.to_owned(), source };
    let mut child = std::process::Command::new(program)
        .arg("--version")
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    let until = Instant::now() + Duration::from_secs(5);
    while child.try_wait().map_err(failed)?.is_none() {
        if Instant::now() > until {
            child.kill().map_err(failed)?;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let output = child.wait_with_output().map_err(failed)?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let version = text.strip_prefix("git version ").and_then(|rest| rest.split_whitespace().next()).unwrap_or_default();
    let number = |text: &str| -> Vec<u32> { text.split('.').take(2).map_while(|part| part.parse().ok()).collect() };
    if number(version) < number(VERSION_NEEDED) {
        return Err(GitError::Version { program: program.to_owned(), found: text, needed: VERSION_NEEDED });
    }
    Ok(version.to_owned())
}

/// How far a command reaches, which says how long it may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Local files only.
    Local,
    /// A remote.
    Network,
}

/// One git command, about to be run.
pub(super) struct Invocation<'a> {
    git: &'a Git,
    action: String,
    args: Vec<OsString>,
    env: Vec<(&'static str, OsString)>,
    settings: Vec<(String, String)>,
    side: Side,
    cwd: PathBuf,
    stdin: Option<Vec<u8>>,
    reach: Reach,
    priority: Priority,
    remote: Option<Remote>,
    stdout_max: usize,
}

/// Who goes first where processors are short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Priority {
    /// As the daemon.
    Usual,
    /// Everybody else.
    Lowest,
}

impl Git {
    /// A command that is attempted in order to do `action`.
    pub(super) fn command(&self, action: impl Into<String>, git_dir: &Path) -> Invocation<'_> {
        Invocation {
            git: self,
            action: action.into(),
            args: Vec::new(),
            env: vec![("GIT_DIR", git_dir.into())],
            settings: Vec::new(),
            side: Side::Near,
            cwd: git_dir.to_owned(),
            stdin: None,
            reach: Reach::Local,
            priority: Priority::Usual,
            remote: None,
            stdout_max: STDOUT_MAX,
        }
    }

    /// What serves a remote on this host, named by its path in the arguments, in order to do `action`.
    pub(super) fn far_end(&self, action: impl Into<String>, remote: &Remote) -> Invocation<'_> {
        let command = self.command(action, Path::new("/"));
        Invocation { env: Vec::new(), side: Side::Far, remote: Some(remote.clone()), ..command }.patient()
    }
}

impl<'a> Invocation<'a> {
    pub(super) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    pub(super) fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    pub(super) fn env(mut self, name: &'static str, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name, value.as_ref().to_owned()));
        self
    }

    pub(super) fn setting(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }

    pub(super) fn work_tree(mut self, tree: &Path) -> Self {
        self.env.push(("GIT_WORK_TREE", tree.into()));
        self.cwd = tree.to_owned();
        self
    }

    pub(super) fn stdin(mut self, bytes: Vec<u8>) -> Self {
        self.stdin = Some(bytes);
        self
    }

    /// Has everything that the command writes on the disk before it ends, at the price of some ten milliseconds.
    pub(super) fn durable(self) -> Self {
        self.setting("core.fsync", "committed,loose-object,reference").setting("core.fsyncMethod", "batch")
    }

    /// Gives as much time as a remote gets.
    pub(super) fn patient(mut self) -> Self {
        self.reach = Reach::Network;
        self
    }

    /// Lets everybody else go first, where the host has `nice`.
    pub(super) fn idle(mut self) -> Self {
        self.priority = Priority::Lowest;
        self
    }

    pub(super) fn stdout_max(mut self, bytes: usize) -> Self {
        self.stdout_max = bytes;
        self
    }

    /// Makes `remote` known as `origin`, without its address in the arguments.
    pub(super) fn origin(mut self, remote: &Remote) -> Self {
        self.settings.push(("remote.origin.url".to_owned(), remote.secret_url().to_owned()));
        self.remote = Some(remote.clone());
        self.patient()
    }

    /// Runs the command to its end. Dropping the future kills the command and everything that it started; where that talks to a
    /// remote, it has a few seconds to remove its locks there.
    ///
    /// # Errors
    /// It cannot be started, takes too long, or answers more than is allowed. A failure that the command itself reports is
    /// in [`Finished`].
    pub(super) async fn finish(mut self) -> Result<Finished, GitError> {
        let stdin = self.stdin.take();
        let input = if stdin.is_some() { Stdio::piped() } else { Stdio::null() };
        self.start(input)?.finish(stdin.unwrap_or_default()).await
    }

    /// Starts the command, which is told later what to do.
    ///
    /// # Errors
    /// It cannot be started.
    pub(super) fn converse(self) -> Result<Running, GitError> {
        self.start(Stdio::piped())
    }

    fn start(self, input: Stdio) -> Result<Running, GitError> {
        let config = &self.git.host.config;
        let limit = match self.reach {
            Reach::Local => config.local_timeout,
            Reach::Network => config.network_timeout,
        };
        let group = Group::new(self.spawn(input)?, self.reach);
        tracing::debug!(action = %self.action, args = ?self.args, "git runs");
        let program = self.git.host.program.clone();
        Ok(Running::new(group, Purpose { action: self.action, program, remote: self.remote, stdout_max: self.stdout_max, limit }))
    }

    /// Runs the command, which must succeed.
    pub(super) async fn run(self) -> Result<Finished, GitError> {
        let remote = self.remote.clone();
        let finished = self.finish().await?;
        match remote {
            Some(remote) if finished.code != Some(0) => Err(diagnose::network(&remote, &finished.action, &finished.stderr)),
            _ => finished.success(),
        }
    }

    fn spawn(&self, input: Stdio) -> Result<Child, GitError> {
        let host = &self.git.host;
        let mut words: Vec<OsString> = Vec::new();
        if self.reach == Reach::Network {
            let own = std::process::id().to_string();
            words.extend([host.executable.clone().into(), TETHER_SUBCOMMAND.into(), own.into(), self.side.word().into()]);
        }
        if self.priority == Priority::Lowest
            && let Ok(nice) = find_program(Path::new("nice"), &host.config.search_path)
        {
            words.extend([nice.into(), "-n".into(), "19".into()]);
        }
        words.push(host.program.clone().into());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).args(&self.args).current_dir(&self.cwd).env_clear();
        command.env("PATH", &host.config.search_path).env("HOME", &host.home).env("LC_ALL", "C");
        command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", &host.global).env("GIT_ATTR_NOSYSTEM", "1");
        command.env("GIT_TERMINAL_PROMPT", "0").env("GIT_ASKPASS", "").env("GCM_INTERACTIVE", "never");
        command.env("GIT_SSH_COMMAND", "ssh -oBatchMode=yes").env("GIT_ALLOW_PROTOCOL", "https:http:ssh:git:file");
        command.env("GIT_OPTIONAL_LOCKS", "0").env("GIT_NO_LAZY_FETCH", "1");
        command.envs(&host.config.environment).envs(self.env.iter().map(|(name, value)| (name, value)));
        let fixed: &[(&str, &str)] = match self.side {
            Side::Near => {
                command.env("GIT_NO_REPLACE_OBJECTS", "1");
                &SETTINGS
            }
            Side::Far => {
                for name in OF_ONE_REPOSITORY {
                    command.env_remove(name);
                }
                &[]
            }
        };
        let own = self.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let settings: Vec<_> = fixed.iter().copied().chain(own).collect();
        for (index, (name, value)) in settings.iter().enumerate() {
            command.env(format!("GIT_CONFIG_KEY_{index}"), name).env(format!("GIT_CONFIG_VALUE_{index}"), value);
        }
        if !settings.is_empty() {
            command.env("GIT_CONFIG_COUNT", settings.len().to_string());
        }
        command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0);
        command.spawn().map_err(|source| {
            let program = match self.reach {
                Reach::Local => host.program.clone(),
                Reach::Network => host.executable.clone(),
            };
            GitError::Program { program, source }
        })
    }
}
