//! A tree of files with the host's git directory for it.
//!
//! The host's git directory is a handful of files that are written here, without git: its objects are the mirror's own
//! directory, so that a commit made from it needs no copying, and its index stays as the checkout left it. Every later
//! command works on a copy of that index (see [`super::stage`]).

use std::fs;
use std::path::{Path, PathBuf};

use super::command::Invocation;
use super::error::io_error;
use super::files::{self, Obstacle};
use super::{Git, GitError, index, lfs};
use crate::ids::ObjectId;

/// Where the host's side of a worktree, or of a submodule in it, is.
#[derive(Debug, Clone)]
pub(super) struct Checkout {
    /// The host's git directory.
    pub(super) git_dir: PathBuf,
    /// The files.
    pub(super) tree: PathBuf,
    /// The index as the checkout left it, which nothing changes: the host's own, or that of the base below an overlay.
    pub(super) index: PathBuf,
    /// The objects of the mirror.
    pub(super) objects: PathBuf,
    /// The commit that was checked out.
    pub(super) base: ObjectId,
    /// How sure it is that a loss of power takes nothing of what is written.
    pub(super) durability: Durability,
}

/// When what git writes is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Durability {
    /// When the kernel sees fit: enough for a commit, which is pushed, or made again.
    Later,
    /// Before each command ends: for what is nowhere else.
    AtOnce,
}

impl Checkout {
    /// The same, for what is nowhere else.
    pub(super) fn durable(&self) -> Self {
        Self { durability: Durability::AtOnce, ..self.clone() }
    }

    /// The tree without entries, which git knows without having it.
    pub(super) fn empty_tree(&self) -> &'static str {
        match self.base.as_str().len() {
            64 => "6ef19b41225c5369f1c104d45d8d85efa9b057b53b14b4b9b939dd74decc5321",
            _ => "4b825dc642cb6eb9a060e54bf8d69288fbee4904",
        }
    }

    /// The file that overrules the attributes in the tree, while it is there.
    pub(super) fn attributes(&self) -> PathBuf {
        self.git_dir.join("info/attributes")
    }

    /// Takes away what overrules the attributes in the tree; a salvage that was killed may have left it.
    pub(super) fn obey_attributes(&self) {
        let path = self.attributes();
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "attributes stay overruled");
        }
    }

    /// Whether git-lfs ever kept a file for this mirror.
    pub(super) fn has_lfs_contents(&self) -> bool {
        self.lfs_storage().join("objects").is_dir()
    }

    /// Where LFS contents are kept: with the mirror, for all its worktrees.
    fn lfs_storage(&self) -> PathBuf {
        self.objects.with_file_name("lfs")
    }

    /// A command on the host's git directory, whose objects go to the mirror.
    pub(super) fn command<'a>(&self, git: &'a Git, action: impl Into<String>) -> Invocation<'a> {
        let command = git.command(action, &self.git_dir).env("GIT_OBJECT_DIRECTORY", &self.objects);
        if self.durability == Durability::AtOnce { command.durable() } else { command }
    }

    /// Writes the host's git directory and checks out the base; answers what is in it. `origin` gives the command the
    /// remote, which LFS needs.
    pub(super) async fn fill(&self, git: &Git, origin: &super::Remote) -> Result<index::Survey, GitError> {
        self.write_git_dir()?;
        fs::create_dir_all(&self.tree).map_err(io_error("create", &self.tree))?;
        let (checkout, mirror) = (self.clone(), self.objects.with_file_name(""));
        match super::blocking(move || files::check_out(&checkout, &mirror)).await {
            Ok(survey) => return Ok(survey),
            Err(Obstacle::Declined(reason)) => tracing::debug!(%reason, tree = %self.tree.display(), "git itself checks out"),
            Err(Obstacle::Failed(error)) => match io_error("check out", &self.tree)(error) {
                full @ GitError::DiskFull { .. } => return Err(full),
                error => {
                    tracing::warn!(%error, "git itself checks out");
                    empty(&self.tree).map_err(io_error("empty", &self.tree))?;
                }
            },
        }
        self.bring_to_base(git, origin, index::Settle::All).await
    }

    /// Brings files and index to the base, from whatever they are at.
    pub(super) async fn bring_to_base(
        &self,
        git: &Git,
        origin: &super::Remote,
        settle: index::Settle,
    ) -> Result<index::Survey, GitError> {
        let base = &self.base;
        let action = format!("check out {}", base.short());
        let finished = self
            .command(git, &action)
            .work_tree(&self.tree)
            .origin(origin)
            .lfs(git.host.lfs)
            .setting("checkout.workers", "0")
            .args(["read-tree", "-u", "--reset", base.as_str()])
            .finish()
            .await?;
        if finished.code != Some(0) {
            return Err(lfs::diagnose(git, &finished, &action));
        }
        let (index, tree, width) = (self.index.clone(), self.tree.clone(), base.as_str().len() / 2);
        super::blocking(move || index::settle(&index, &tree, width, settle)).await
    }

    /// Writes the host's git directory, but for an index.
    pub(super) fn write_git_dir(&self) -> Result<(), GitError> {
        let base = &self.base;
        for directory in ["objects/info", "refs"] {
            let path = self.git_dir.join(directory);
            fs::create_dir_all(&path).map_err(io_error("create", &path))?;
        }
        write(&self.git_dir.join("config"), format!("[core]\n\tbare = false\n{}", format_settings(base)))?;
        write(&self.git_dir.join("HEAD"), format!("{base}\n"))?;
        let lfs = self.git_dir.join("lfs");
        std::os::unix::fs::symlink(self.lfs_storage(), &lfs).map_err(io_error("link", &lfs))?;
        // For a person who looks: the commands here name the mirror's objects in their environment.
        write(&self.git_dir.join("objects/info/alternates"), format!("{}\n", self.objects.display()))
    }
}

/// Removes everything in a directory, which itself stays: it may be a subvolume.
fn empty(dir: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() { fs::remove_dir_all(entry.path())? } else { fs::remove_file(entry.path())? }
    }
    Ok(())
}

/// The lines of a configuration that say how object ids are made.
pub(super) fn format_settings(id: &ObjectId) -> &'static str {
    if id.as_str().len() == 64 {
        "\trepositoryformatversion = 1\n[extensions]\n\tobjectformat = sha256\n"
    } else {
        "\trepositoryformatversion = 0\n"
    }
}

/// Writes a whole file.
pub(super) fn write(path: &Path, contents: impl AsRef<[u8]>) -> Result<(), GitError> {
    fs::write(path, contents).map_err(io_error("write", path))
}
