//! What a kind of backend is to the rest of this room: a program that Sawmill starts as it is, or an agent whose events are read.
//!
//! The one rule: everything that is so for one kind only is in that kind's file. Adding one is a file, a [`Kind`] and a line in
//! [`Kind::adapter`].

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use super::agent::{Log, Order};
use super::config::{BackendConfig, Kind, ResultFrom};
use super::{claude, codex, command, miniswe, openhands, shell};
use crate::clock::Timestamp;
use crate::job::completion::Usage;
use crate::job::spec::Task;

/// How a kind is started and understood.
pub(super) enum Adapter {
    /// Its program is started as it is, and speaks the executor protocol or ends with a status.
    Plain(&'static dyn Plain),
    /// Its program is started by ours within the slot (see [`super::agent`]), which reads its events.
    Agent(&'static dyn Agent),
}

impl Kind {
    /// Its adapter.
    pub(super) const fn adapter(self) -> Adapter {
        match self {
            Self::Shell => Adapter::Plain(&shell::Shell),
            Self::Command => Adapter::Plain(&command::Command),
            Self::MiniSwe => Adapter::Agent(&miniswe::MiniSwe),
            Self::OpenHands => Adapter::Agent(&openhands::OpenHands),
            Self::Codex => Adapter::Agent(&codex::Codex),
            Self::Claude => Adapter::Agent(&claude::Claude),
        }
    }
}

/// What a backend can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Abilities {
    /// Whether it edits files by itself when told what to do in words.
    pub edits: bool,
    /// Whether it can be told what was wrong with its work, and goes on from there.
    pub revises: bool,
    /// Whether it can do that in the session in which it did the work.
    pub resumes: bool,
    /// Whether it says what it used of a model.
    pub reports_usage: bool,
}

/// A program that is started as it is.
pub(super) trait Plain: Sync {
    fn abilities(&self, config: &BackendConfig) -> Abilities;

    /// Where its result is read from when the configuration does not say.
    fn result_from(&self) -> ResultFrom;

    /// What is wrong with its configuration.
    fn flaw(&self, config: &BackendConfig) -> Option<&'static str>;

    /// Program and arguments; what the task lacks, as a sentence about the backend, where it lacks something.
    fn argv(&self, config: &BackendConfig, task: &Task) -> Result<Vec<String>, &'static str>;

    /// What an exit status means that people stumble over.
    fn explain(&self, status: i32) -> Option<&'static str>;
}

/// A coding agent: a program that is told what to do in words, and says in events what it does.
pub(super) trait Agent: Sync {
    fn abilities(&self) -> Abilities;

    /// The program, as it is called when it is installed.
    fn program(&self) -> &'static str;

    /// The template of what it is told, unless the configuration has another.
    fn template(&self) -> &'static str;

    /// What is wrong with its configuration.
    fn flaw(&self, _config: &BackendConfig) -> Option<&'static str> {
        None
    }

    /// Whether it counts what it used from the beginning of a session on, and not of a run that resumes one.
    fn counts_sessions(&self) -> bool {
        false
    }

    /// What makes its program say its version.
    fn probe(&self) -> &'static [&'static str] {
        &["--version"]
    }

    /// What has the files read that it loads at each start, by its program and that one's first arguments; nothing where that would gain
    /// nothing. It is to need neither network nor key, and to leave nothing.
    fn warmup(&self, mut program: Vec<String>) -> Vec<String> {
        program.extend(self.probe().iter().map(|argument| (*argument).to_owned()));
        program
    }

    /// How to start it. `env` is what it will find in its environment, beside what is returned.
    fn start(&self, order: &Order, env: &BTreeMap<String, String>) -> Start;

    /// What reads the events of one run. `env` is what the agent finds in its environment.
    fn reader(&self, env: &BTreeMap<String, String>) -> Box<dyn Reader>;
}

/// How an agent is started.
#[derive(Debug, Default)]
pub(super) struct Start {
    pub(super) argv: Vec<String>,
    /// Over what is in the environment already.
    pub(super) env: Vec<(String, String)>,
    /// Files to write before.
    pub(super) files: Vec<(PathBuf, String)>,
    /// What it reads on its standard input, which is closed after that.
    pub(super) stdin: String,
}

/// Reads the events of one run, in order.
pub(super) trait Reader {
    /// One event: readable lines go to the log.
    fn read(&mut self, event: &serde_json::Value, log: &mut Log) -> Flow;

    /// What the run came to, once its events have ended; before that, what it has used so far, as far as that is said.
    fn report(&self) -> Report;
}

/// Whether there is more to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    More,
    /// That was the last event that matters.
    Over,
}

/// What a run came to.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Report {
    pub(super) end: Option<AgentEnd>,
    pub(super) usage: Option<Usage>,
    /// By what it knows its session again.
    pub(super) session: Option<String>,
}

/// How an agent ended, by its own word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum AgentEnd {
    /// It takes its work for done; this is its last message.
    Done(String),
    /// It has to be answered before it can go on.
    Asks(String),
    /// It gave up, or something failed it.
    Failed(String),
    /// The model's server lets it do no more for now, until then where that is known.
    UsageLimit(String, Option<Timestamp>),
}
