//! Everything that is done with git: mirrors, worktrees, commits, pushes, salvage.
//!
//! The one rule: the host never runs git on a repository that a job could write. A worktree has two git directories: the
//! host's (`<slot>/host.git`, outside of the tree), which alone is used here, and the job's own (`<slot>/job/tree/.git`), which is
//! written once and from then on only read as plain files. No hook, filter, file monitor or configuration of a job or of
//! this host's users takes part; the one exception is git-lfs, from the operator's search path.
//!
//! What host mode cannot promise: a job that runs as the daemon's own user can write wherever the daemon can, so also into
//! mirrors. What git makes there is read-only and named by its content, the job's view borrows it by path and has no remote,
//! but only a container, or a user of its own, keeps a hostile job out.
//!
//! Who may push where, and which commit message, is decided above; the trash is emptied elsewhere.

mod attributes;
mod base_file;
mod bases;
mod borrowers;
mod changes;
mod checkout;
mod clean;
mod closed;
mod command;
mod commit;
mod config;
mod copy;
mod diagnose;
mod diff;
mod error;
mod excerpt;
mod fetch;
mod files;
mod hold;
mod ignored;
mod index;
mod job_view;
mod journal;
mod keepsakes;
mod kept;
mod layer;
mod leftovers;
mod lfs;
mod local_push;
mod local_refs;
mod lock;
mod maintain;
mod marks;
mod mirror;
mod nested;
mod novelty;
mod overlay;
mod patch;
mod place;
#[cfg(test)]
mod plain;
mod plain_clone;
mod provision;
mod prune;
mod push;
mod recycled;
mod remote;
mod running;
mod salvage;
mod seed;
mod snapshot;
mod stack;
mod stage;
mod strategy;
mod submodules;
mod tether;
mod tree_diff;
mod tree_path;
mod withdraw;
mod worktree;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use base_file::BaseFile;
pub use bases::{BaseUse, Bases};
pub use changes::{ChangedFile, Changeset, Line, Presence};
pub use closed::{is_closed, move_away, open_up};
pub use commit::{Change, Committed};
pub use config::Config;
pub use error::GitError;
pub use excerpt::EXCERPT_CUT;
pub use ignored::Ignored;
pub use keepsakes::Keepsake;
pub use maintain::Maintained;
pub use marks::Marks;
pub use mirror::Mirror;
pub use overlay::try_overlays;
pub use place::{release, release_below, relocate, repository_of, revive, unmount_all_below};
pub use plain_clone::PlainClone;
pub use prune::MirrorUse;
pub use push::Pushed;
pub use recycled::{RECYCLED, set_aside};
pub use remote::{Remote, RemoteError};
pub use salvage::SalvagePush;
pub use seed::TakenOver;
pub use snapshot::{delete_subvolumes, is_subvolume};
pub use stack::{Mark, Stack, is_shown_at, mark, mounts_below, show_at, take_off};
pub use strategy::{Mounting, Provisioner, Strategy};
pub use tether::{TETHER_SUBCOMMAND, tether};
pub use worktree::Worktree;

use error::io_error;

/// git as this host has it, with the directory of its mirrors. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Git {
    host: Arc<Host>,
}

#[derive(Debug)]
struct Host {
    config: Config,
    program: PathBuf,
    /// This executable, which what talks to a remote is tethered by.
    executable: PathBuf,
    version: String,
    lfs: lfs::Installed,
    mirrors: PathBuf,
    home: PathBuf,
    global: PathBuf,
    /// Settings by which libgit2 has what it writes on the disk.
    durable: PathBuf,
}

/// Has a file with this text in a directory, whole at any time.
fn provide(dir: &Path, name: &str, text: &str) -> Result<PathBuf, GitError> {
    let path = dir.join(name);
    if fs::read_to_string(&path).ok().as_deref() != Some(text) {
        let new = tempfile::NamedTempFile::new_in(dir).map_err(io_error("write", &path))?;
        fs::write(new.path(), text).map_err(io_error("write", &path))?;
        new.persist(&path).map_err(|error| io_error("write", &path)(error.error))?;
    }
    Ok(path)
}

impl Git {
    /// Finds git and checks its version, and makes the directory of the mirrors. Blocks for a few milliseconds.
    ///
    /// `executable` is the `sawmill` program, of which a process stands between this one and every git command that talks to
    /// a remote, so that none outlives a daemon that is killed.
    ///
    /// # Errors
    /// [`GitError::Program`], [`GitError::Version`], [`GitError::Identity`], or a directory that cannot be made.
    pub fn open(config: &Config, executable: &Path, mirrors: &Path) -> Result<Self, GitError> {
        for text in [&config.author_name, &config.author_email] {
            if text.trim().is_empty() || text.contains(['<', '>', '\n', '\r', '\0']) {
                return Err(GitError::Identity(text.clone()));
            }
        }
        let program = command::find_program(&config.program, &config.search_path)?;
        let version = command::check_version(&program)?;
        fs::create_dir_all(mirrors).map_err(io_error("create", mirrors))?;
        let mirrors = fs::canonicalize(mirrors).map_err(io_error("find", mirrors))?;
        let home = mirrors.join(".home");
        fs::create_dir_all(&home).map_err(io_error("create", &home))?;
        let global = provide(&home, "gitconfig", &command::global_configuration(&config.safe_directories))?;
        let durable = provide(&home, "durable", "[core]\n\tfsyncObjectFiles = true\n")?;
        let executable = executable.to_owned();
        let lfs = lfs::Installed::find(&config.search_path);
        let config = config.clone();
        Ok(Self { host: Arc::new(Host { config, program, executable, version, lfs, mirrors, home, global, durable }) })
    }

    /// The version that git reports, such as `2.47.3`.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.host.version
    }

    /// Whether `git-lfs` was found when this was opened.
    #[must_use]
    pub fn has_lfs(&self) -> bool {
        self.host.lfs == lfs::Installed::Yes
    }

    /// The mirror of `remote`, which need not exist yet: it is cloned when it is first asked for something.
    #[must_use]
    pub fn mirror(&self, remote: &Remote) -> Mirror {
        Mirror::new(self.clone(), remote.clone())
    }

    /// Where bases are, beside the mirrors.
    fn bases(&self) -> PathBuf {
        self.host.mirrors.with_file_name("bases")
    }

    /// The mirrors that are whole, and those that were being made under their own name.
    fn mirrors(&self) -> Vec<PathBuf> {
        let found = bases::directories(&self.host.mirrors).unwrap_or_default();
        found.into_iter().filter(|dir| dir.extension().is_some_and(|extension| extension == "git")).collect()
    }

    /// Where what is no longer wanted is moved, beside the mirrors.
    fn trash(&self) -> PathBuf {
        self.host.mirrors.with_file_name("trash")
    }
}

/// Runs what blocks away from the threads that others wait on.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime shuts down: this future is never asked again.
            Err(_) => std::future::pending().await,
        },
    }
}
