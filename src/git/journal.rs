//! What is on disk about a worktree, so that a daemon that was killed finds it again.
//!
//! The one rule: it is written last, by a rename, and goes first when a worktree is discarded. A slot without it has no
//! worktree, whatever else is left in it.

use std::fs;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::io_error;
use super::marks::Marks;
use super::{GitError, Remote};
use crate::ids::ObjectId;
use crate::janitor::SUBVOLUME;

const NAME: &str = "worktree.json";

/// Everything that is needed to go on with a worktree. Only its owner can read it, since the address may have a secret.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Journal {
    /// The remote's whole address.
    #[serde(with = "address")]
    pub(super) remote: Remote,
    /// The commit that it was made from.
    pub(super) base: ObjectId,
    /// The job's branch.
    pub(super) branch: String,
    /// Which directory the tree is: a job may have put another in its place, or an overlay is not mounted any more.
    pub(super) identity: Identity,
    /// The base that it is an overlay over; none where it is a checkout of its own.
    pub(super) base_dir: Option<PathBuf>,
    /// How the layer of an overlay is marked. A journal of a time in which only root mounted does not say.
    #[serde(default)]
    pub(super) marks: Marks,
    /// The base that it is a copy of, where it is one; that may have gone since, or have been moved to another commit.
    #[serde(default)]
    pub(super) copied_from: Option<PathBuf>,
    /// The submodules.
    pub(super) submodules: Vec<Submodule>,
}

/// A directory, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
}

/// A submodule as it was checked out.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Submodule {
    /// Its path below the tree that it is in.
    pub(super) path: PathBuf,
    /// The commit that the base wants there.
    pub(super) commit: ObjectId,
    /// Where it came from, and what is in it; absent where `.gitmodules` does not say, so that nothing was checked out.
    pub(super) source: Option<Source>,
}

/// What was checked out for a submodule.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Source {
    /// The remote's whole address.
    #[serde(with = "address")]
    pub(super) remote: Remote,
    /// The host's git directory for it, below that of its parent.
    pub(super) git_dir: PathBuf,
    /// Its own submodules.
    pub(super) submodules: Vec<Submodule>,
}

impl Identity {
    /// Looks at a directory; nothing when there is none, or a link in its place.
    pub(super) fn of(directory: &Path) -> Option<Self> {
        let meta = fs::symlink_metadata(directory).ok()?;
        // The number of a subvolume's device is another after each start of the host; its filesystem's id has the subvolume in it.
        let device =
            if meta.ino() == SUBVOLUME { nix::sys::statvfs::statvfs(directory).ok()?.filesystem_id() } else { meta.dev() };
        meta.is_dir().then(|| Self { device, inode: meta.ino() })
    }
}

impl Journal {
    /// Whether `git_dir` has a journal.
    pub(super) fn exists(git_dir: &Path) -> bool {
        git_dir.join(NAME).exists()
    }

    /// Reads the journal in `git_dir`; the error is a sentence.
    pub(super) fn read(git_dir: &Path) -> Result<Self, String> {
        let path = git_dir.join(NAME);
        let text = fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// Writes it.
    pub(super) fn write(&self, git_dir: &Path) -> Result<(), GitError> {
        let (path, new) = (git_dir.join(NAME), git_dir.join("worktree.json.new"));
        let file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new);
        let file = file.map_err(io_error("write", &new))?;
        serde_json::to_writer(&file, self).map_err(|error| io_error("write", &new)(error.into()))?;
        fs::rename(&new, &path).map_err(io_error("write", &path))
    }
}

/// A remote with its secret: in files of the worker only.
mod address {
    use serde::{Deserialize, Deserializer, Serializer};

    use super::Remote;

    pub(super) fn serialize<S: Serializer>(remote: &Remote, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(remote.secret_url())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Remote, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
