//! What a daemon that comes after a crash must know of an attempt: a small file in the slot, replaced whole.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::ground::Ground;
use super::place::Place;
use crate::backends::Revision;
use crate::git::{self, Committed};
use crate::ids::ObjectId;
use crate::job::attempt::Resources;
use crate::job::budget::Budget;
use crate::job::checks::Finding;
use crate::job::completion::Usage;
use crate::job::spec::Gate;
use crate::job::{Answer, Artifact, Claim, Critique, GateEvidence, PreviousAttempt, Rejection, StageRecord, TimeLimit};
use crate::store::Finish;
use crate::workspace::Salvage;

/// The journal of an attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Journal {
    /// The claim under which the attempt acts.
    pub claim: Claim,
    /// How long it may take, where that was learnt: the same for each daemon that takes it up.
    #[serde(default)]
    pub time_limit: Option<TimeLimit>,
    /// How far it is.
    pub phase: Phase,
    /// Its stages so far.
    pub stages: Vec<StageRecord>,
    /// All that judges its results: the gates of its job, and then those that the base commit has, once they are known. Absent in what
    /// an earlier build has written, which knew those of the job only.
    #[serde(default)]
    pub gates: Option<Vec<Gate>>,
    /// How much its backend had said before its command was started in this round.
    #[serde(default)]
    pub said_before: u64,
    /// What attempts before it asked, with what was answered.
    pub answers: Vec<Answer>,
    /// The attempt before it, with what was wrong with its results, and whether this one goes on from what it left.
    pub previous: Option<PreviousAttempt>,
    /// What was wrong with each of its results that the backend has revised, or revises now.
    pub rejections: Vec<Rejection>,
    /// What the backend is told where it revises.
    pub revision: Option<Revision>,
    /// What the rounds before this one used.
    pub before: Used,
    /// What the backend's processes used, once that is known.
    pub resources: Resources,
    /// What the backend said that it used of a model, however it ended.
    pub usage: Option<Usage>,
    /// What budgets left to this round when it began.
    #[serde(default)]
    pub left: Option<Budget>,
    /// Where its commands run, once that is decided.
    pub place: Option<Place>,
    /// Where the gate that was last begun runs.
    pub ground: Option<Ground>,
    /// What the gates saw that have passed so far.
    pub passed: Vec<GateEvidence>,
    /// What critics said so far of the commit that is judged.
    #[serde(default)]
    pub critiques: Vec<Critique>,
    /// What became of the files that it was to keep, once that is on record.
    pub artifacts: Option<Vec<Artifact>>,
    /// How it ended, where that could not be put on record yet.
    #[serde(default)]
    pub end: Option<Box<Finish>>,
    /// What a process needs that salvages the slot without a configuration or a database.
    pub salvage: SalvageContext,
}

/// What rounds used together.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Used {
    /// Their processes.
    pub resources: Resources,
    /// Of a model.
    pub usage: Option<Usage>,
}

/// How far an attempt is. What a phase does can be done again after a crash in it, and comes to the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub enum Phase {
    /// The worktree is being made.
    Preparing,
    /// The worktree stands; the backend's command has not been started.
    Prepared {
        /// The commit that the worktree stands at.
        base: ObjectId,
    },
    /// The backend's command was started.
    Executing {
        /// The commit that the worktree stands at.
        base: ObjectId,
    },
    /// The backend is done, and says that it did the work.
    Executed {
        /// The commit that the worktree stands at.
        base: ObjectId,
        /// What the backend says.
        said: Said,
    },
    /// The work is a commit, or is known to have changed nothing.
    Committed {
        /// The commit that the worktree stands at.
        base: ObjectId,
        /// What the backend says.
        said: Said,
        /// The commit.
        commit: Option<Committed>,
    },
    /// The work is not to be delivered as it is.
    Rejected {
        /// The commit that the worktree stands at.
        base: ObjectId,
        /// What the backend says.
        said: Said,
        /// The commit that was rejected; none where nothing changed.
        commit: Option<ObjectId>,
        /// Why.
        rejection: Rejection,
    },
    /// The gates have passed.
    Judged {
        /// The commit that the worktree stands at.
        base: ObjectId,
        /// What the backend says.
        said: Said,
        /// The commit.
        commit: Option<Committed>,
        /// What the gates saw.
        gates: Vec<GateEvidence>,
        /// What the checks flagged.
        findings: Vec<Finding>,
    },
}

impl Phase {
    /// Whether the backend has said that it did the work.
    pub(super) const fn is_executed(&self) -> bool {
        matches!(self, Self::Executed { .. } | Self::Committed { .. } | Self::Rejected { .. } | Self::Judged { .. })
    }
}

/// What a backend says of its work.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Said {
    /// In words.
    pub summary: Option<String>,
    /// Of its use of a model in this round.
    pub usage: Option<Usage>,
    /// By what it knows this work again.
    pub session: Option<String>,
}

/// What salvaging a slot takes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SalvageContext {
    /// How git is run.
    pub git: git::Config,
    /// Where the mirrors are.
    pub mirrors: PathBuf,
    /// Where salvage goes.
    pub to: Salvage,
}

/// Why a journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// It cannot be read or written.
    #[error("cannot use the journal {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It is there but is not a journal of this build.
    #[error("the journal {path} is malformed")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
}

impl Journal {
    /// Reads the journal at `path`; none there is fine.
    ///
    /// # Errors
    /// It cannot be read, or is malformed.
    pub fn read(path: &Path) -> Result<Option<Self>, JournalError> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(JournalError::Io { path: path.to_owned(), source }),
        };
        serde_json::from_slice(&bytes).map(Some).map_err(|source| JournalError::Malformed { path: path.to_owned(), source })
    }

    /// Replaces the journal at `path`. A reader finds the old one or the new one, never half of one.
    ///
    /// # Errors
    /// What the system says; the old one is then still there.
    pub fn write(&self, path: &Path) -> Result<(), JournalError> {
        let failed = |source| JournalError::Io { path: path.to_owned(), source };
        let malformed = |source| JournalError::Malformed { path: path.to_owned(), source };
        let bytes = serde_json::to_vec(self).map_err(malformed)?;
        let new = path.with_extension("new");
        // No fsync: the journal is for a daemon that crashed. After a crash of the host its processes are gone too, and
        // the attempt is lost with or without a journal.
        File::create(&new).and_then(|mut file| file.write_all(&bytes)).map_err(failed)?;
        fs::rename(&new, path).map_err(failed)
    }
}
