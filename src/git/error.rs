//! What can go wrong with git, as far as a caller acts on the difference.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::remote::{Remote, RemoteError};
use crate::ids::ObjectId;
use crate::job::OutcomeClass;

/// What went wrong. [`GitError::class`] says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// git's executable is not there or cannot be started.
    #[error("cannot start {}: {source}; install git, or set git.program", program.display())]
    Program {
        /// What was tried.
        program: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// git is too old, or what was started is not git.
    #[error("cannot use {}: it reports {found:?}, and git {needed} or later is needed", program.display())]
    Version {
        /// What was tried.
        program: PathBuf,
        /// What it says of itself.
        found: String,
        /// The oldest that will do.
        needed: &'static str,
    },
    /// The configured author cannot stand in a commit.
    #[error("cannot commit as {0:?}: git.author_name and git.author_email must not be empty or contain <, > or a line end")]
    Identity(String),
    /// The remote's address is none that git may be given.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// There is no repository at the remote's address.
    #[error("cannot read {remote}: there is no repository; check the address, and that this worker may see it")]
    RemoteMissing {
        /// The remote.
        remote: Remote,
    },
    /// The remote wants credentials that git does not have.
    #[error(
        "cannot read {remote}: it wants credentials; use ssh, or put a token into the address as in https://USER:TOKEN@HOST/PATH ({detail})"
    )]
    NeedsPassword {
        /// The remote.
        remote: Remote,
        /// What git says.
        detail: String,
    },
    /// The remote has no commit at all.
    #[error("cannot start from {remote}: the repository is empty; push a first commit to it")]
    EmptyRemote {
        /// The remote.
        remote: Remote,
    },
    /// The remote has no such branch, tag or commit.
    #[error("cannot find base {base:?} in {remote}{}", list_near(near))]
    BaseMissing {
        /// The remote.
        remote: Remote,
        /// What was asked for.
        base: String,
        /// Names that look alike, the likeliest first.
        near: Vec<String>,
    },
    /// The remote does not answer, or the connection broke.
    #[error("cannot reach {remote}: {detail}")]
    Unreachable {
        /// The remote.
        remote: Remote,
        /// What git says.
        detail: String,
    },
    /// A command, or the wait for a lock, took longer than is allowed.
    #[error("cannot {action} within {after:?}")]
    Timeout {
        /// What was attempted.
        action: String,
        /// How long it was given.
        after: Duration,
    },
    /// There is no room on the disk. Nothing is half-written, and the same call may be made again.
    #[error("cannot {action}: no space left on the disk")]
    DiskFull {
        /// What was attempted.
        action: String,
    },
    /// The tree cannot become a commit as it is.
    #[error("cannot commit {path}: {why}")]
    Refused {
        /// The path that is at fault, relative to the worktree; bytes that are not UTF-8 are replaced.
        path: String,
        /// What is wrong with it, and what to do.
        why: String,
    },
    /// The branch on the remote is not what was expected. It was left alone.
    #[error("cannot push {branch} to {remote}: the branch is already there, at {}", found.short())]
    BranchMoved {
        /// The remote.
        remote: Remote,
        /// The ref.
        branch: String,
        /// What the remote has.
        found: ObjectId,
    },
    /// The remote was reached and said no: a hook, a protected branch, missing rights.
    #[error("cannot push {branch} to {remote}: it refuses: {message}")]
    PushRefused {
        /// The remote.
        remote: Remote,
        /// The ref.
        branch: String,
        /// What the remote says.
        message: String,
    },
    /// Another push holds the ref on the remote, or has left its lock there.
    #[error(
        "cannot push {branch} to {remote}: {lock} is there; if no git runs there that holds it, an earlier push has left it: remove the file on the remote's host"
    )]
    RemoteLocked {
        /// The remote.
        remote: Remote,
        /// The ref.
        branch: String,
        /// The lock, as the remote's host names it.
        lock: String,
    },
    /// The branch is another one at each look.
    #[error("cannot push {branch} to {remote}: somebody makes that branch there and takes it away again")]
    BranchGone {
        /// The remote.
        remote: Remote,
        /// The ref.
        branch: String,
    },
    /// The repository keeps files in LFS, and `git-lfs` is not installed.
    #[error("cannot {action}: the repository uses Git LFS, and git-lfs is not in git.search_path")]
    LfsMissing {
        /// What was attempted.
        action: String,
    },
    /// `git-lfs` failed.
    #[error("cannot {action}: git-lfs says {detail}")]
    Lfs {
        /// What was attempted.
        action: String,
        /// What it says.
        detail: String,
    },
    /// A submodule of the base cannot be had.
    #[error("cannot check out submodule {path}: {why}")]
    Submodule {
        /// Its path in the worktree.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// An overlay cannot be mounted.
    #[error("cannot mount an overlay at {}: {why}; set workspace.strategy to checkout to do without", at.display())]
    Overlay {
        /// Where.
        at: PathBuf,
        /// What the kernel says.
        why: String,
    },
    /// Overlays were asked for, and there are none to be had.
    #[error("cannot make worktrees by overlay: {why}; set workspace.strategy to auto or checkout")]
    NoOverlays {
        /// What is in the way.
        why: String,
    },
    /// The filesystem does not copy a base checkout.
    #[error("cannot copy the base checkout to {}: {why}; set workspace.strategy to auto or recycled to do without", at.display())]
    Snapshot {
        /// Where to.
        at: PathBuf,
        /// What the filesystem's program says.
        why: String,
    },
    /// Snapshots were asked for, and there are none to be had.
    #[error("cannot make worktrees by snapshot: {why}; set workspace.strategy to auto or recycled")]
    NoSnapshots {
        /// What is in the way.
        why: String,
    },
    /// The slot still has a whole worktree: it is to be opened, salvaged and discarded first.
    #[error("cannot provision in {}: it still has a worktree", slot.display())]
    Occupied {
        /// The slot.
        slot: PathBuf,
    },
    /// The slot has no whole worktree to open.
    #[error("cannot open the worktree in {}: {why}", slot.display())]
    NoWorktree {
        /// The slot.
        slot: PathBuf,
        /// What is missing.
        why: String,
    },
    /// A git command failed for a reason that no caller tells apart.
    #[error("cannot {action}: {detail}")]
    Command {
        /// What was attempted.
        action: String,
        /// The end of what git says.
        detail: String,
    },
    /// A file of ours could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

impl GitError {
    /// The class that decides about retry and blame.
    #[must_use]
    pub fn class(&self) -> OutcomeClass {
        match self {
            Self::Remote(_)
            | Self::RemoteMissing { .. }
            | Self::NeedsPassword { .. }
            | Self::EmptyRemote { .. }
            | Self::BaseMissing { .. }
            | Self::Refused { .. }
            | Self::PushRefused { .. }
            | Self::Submodule { .. } => OutcomeClass::Invalid,
            Self::BranchMoved { .. } => OutcomeClass::Conflict,
            Self::Program { .. }
            | Self::Version { .. }
            | Self::Identity(_)
            | Self::Unreachable { .. }
            | Self::RemoteLocked { .. }
            | Self::BranchGone { .. }
            | Self::Timeout { .. }
            | Self::DiskFull { .. }
            | Self::LfsMissing { .. }
            | Self::Lfs { .. }
            | Self::Overlay { .. }
            | Self::NoOverlays { .. }
            | Self::Snapshot { .. }
            | Self::NoSnapshots { .. }
            | Self::Occupied { .. }
            | Self::NoWorktree { .. }
            | Self::Command { .. }
            | Self::Io { .. } => OutcomeClass::Infrastructure,
        }
    }
}

/// Makes an error from an operation on `path`; for `map_err`.
pub(super) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> GitError {
    let path = path.to_owned();
    move |source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            GitError::DiskFull { action: format!("{action} {}", path.display()) }
        }
        _ => GitError::Io { action, path, source },
    }
}

fn list_near(near: &[String]) -> String {
    match near {
        [] => String::new(),
        names => format!("; did you mean {}?", names.join(" or ")),
    }
}
