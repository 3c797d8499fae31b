//! What is asked of a supervisor, and what it answers.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// A command to run, complete: nothing of the daemon's surroundings is added to it, and of the supervisor's only
/// `SAWMILL_COMMAND`, its id, by which its processes are found when the supervisor dies.
#[derive(Debug, Clone)]
pub struct CommandSpec {
    /// Names this very run. Starting the same id again is answered as the first time, and starts nothing. 1 to 100 of
    /// `A-Z a-z 0-9 . _ -`, not beginning with a dot.
    pub id: String,
    /// The program, looked up in the `PATH` of `env` when it has no slash, and its arguments.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: BTreeMap<String, String>,
    /// The directory to start in.
    pub cwd: PathBuf,
    /// What the command reads; nothing (`/dev/null`) when absent.
    pub stdin: Option<PathBuf>,
    /// Where its output goes: opened for appending, made when missing.
    pub stdout: PathBuf,
    /// Where its error output goes: opened for appending, made when missing. It may be the same file.
    pub stderr: PathBuf,
    /// How long processes may take to end after TERM before they get KILL.
    pub grace: Duration,
    /// When the command is ended because its time is up.
    pub deadline: Option<Timestamp>,
    /// What the supervisor does when the daemon stays away for good.
    pub will: Option<Will>,
}

/// A command that the supervisor runs by itself when the daemon has stayed away beyond `orphan_after`, after it ended
/// the job and before it ends itself.
///
/// It is in force from the start of its command until the report is collected, or until the next command starts. Its
/// output goes to `will.log` beside the socket, and it is ended after two minutes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Will {
    /// The program and its arguments. `/proc/self/exe` is the supervisor's own executable, also after an upgrade.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: BTreeMap<String, String>,
    /// The directory to start in.
    pub cwd: PathBuf,
}

/// The answer to a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// The main process, which is also the leader of a session of its own; none when it could not be started, and the
    /// report then says why.
    pub pid: Option<i32>,
    /// When it was started.
    pub started_at: Timestamp,
}

/// What a supervisor is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Nothing, and it holds no report.
    Idle,
    /// A command runs, or its last processes are being ended.
    Running {
        /// The command.
        id: String,
        /// Its main process, which may have ended already.
        pid: i32,
        /// When it was started.
        started_at: Timestamp,
        /// Why it is being ended, when it is.
        ending: Option<Cause>,
    },
    /// No command runs; this is the last one whose report has not been collected.
    Ended {
        /// The command.
        id: String,
        /// How it ended.
        report: ExitReport,
    },
}

/// How a command ended, made when none of its processes is left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitReport {
    /// How the main process ended.
    pub end: End,
    /// Who wanted it to end.
    pub cause: Cause,
    /// The command lines of processes that were still there after the main one had ended by itself, and had to be
    /// ended. At most 32, each cut at 4,096 characters. They may have secrets in them.
    pub stragglers: Vec<String>,
    /// The most memory that the processes held together, as sampled five times a second; at least the most that any
    /// one of them held.
    pub peak_memory_bytes: u64,
    /// User and system time of all processes together.
    pub cpu_ms: u64,
    /// Whether the kernel ended it for want of memory.
    pub out_of_memory: bool,
    /// Where memory ran out, the command line of the process that held the most of it shortly before: most likely the one that the
    /// kernel ended. Nothing where that was the main one, which went on.
    pub largest: Option<String>,
    /// When the main process was started.
    pub started_at: Timestamp,
    /// When the last process had ended.
    pub ended_at: Timestamp,
}

/// What the processes of a command do at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activity {
    /// User and system time of all of them together since the command began.
    pub cpu_ms: u64,
    /// The command lines of those that began last, the last one first: at most 3, each cut at 4,096 characters. They may
    /// have secrets in them.
    pub processes: Vec<String>,
}

/// What files take that are deleted and held open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Their blocks.
    pub bytes: u64,
    /// How many they are.
    pub files: u64,
}

/// How the main process of a command ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// By itself, with this exit status.
    Exited(i32),
    /// By this signal.
    Signalled(i32),
    /// It never began, for this reason.
    NotStarted(String),
}

/// Why a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Nobody asked for it.
    Itself,
    /// The daemon, or an operator's TERM to the supervisor.
    Stopped,
    /// Its deadline came.
    Deadline,
    /// The daemon stayed away.
    Orphaned,
}
