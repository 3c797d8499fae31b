//! Staging: a copy of the host's index, brought up to the tree as the job left it.
//!
//! The one rule: the host's own index is never changed. So a commit that is refused, killed or out of space leaves nothing
//! behind, and the next one begins from the same state; and nothing that the job made is in the index when git starts, such
//! as a link to a nested repository, inside which git would else run itself.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::checkout::Checkout;
use super::command::Invocation;
use super::error::{GitError, io_error};
use super::running::Finished;
use super::{Git, Remote, diagnose, lfs};
use crate::ids::ObjectId;

/// An index that is thrown away when this is dropped.
pub(super) struct Stage<'a> {
    git: &'a Git,
    checkout: &'a Checkout,
    tree: PathBuf,
    index: PathBuf,
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        for path in [self.index.clone(), self.index.with_extension("index.lock")] {
            if let Err(error) = fs::remove_file(&path)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::warn!(path = %path.display(), %error, "a temporary index could not be removed");
            }
        }
    }
}

impl<'a> Stage<'a> {
    /// A stage that begins with what was checked out.
    pub(super) fn open(git: &'a Git, checkout: &'a Checkout) -> Result<Self, GitError> {
        let stage = Self::empty(git, checkout, &checkout.tree);
        fs::copy(&checkout.index, &stage.index).map_err(io_error("write", &stage.index))?;
        Ok(stage)
    }

    /// A stage that begins with nothing, for the files in `tree`.
    pub(super) fn empty(git: &'a Git, checkout: &'a Checkout, tree: &Path) -> Self {
        let index = checkout.git_dir.join(format!("stage-{}.index", uuid::Uuid::new_v4().simple()));
        Self { git, checkout, tree: tree.to_owned(), index }
    }

    pub(super) fn git(&self) -> &'a Git {
        self.git
    }

    pub(super) fn checkout(&self) -> &'a Checkout {
        self.checkout
    }

    pub(super) fn tree(&self) -> &Path {
        &self.tree
    }

    fn command(&self, action: &str) -> Invocation<'a> {
        let command = self.checkout.command(self.git, action).work_tree(&self.tree).env("GIT_INDEX_FILE", &self.index);
        command.lfs(self.git.host.lfs)
    }

    /// Adds every change of the tree, except below the paths that are kept out.
    ///
    /// # Errors
    /// [`GitError::Refused`] with the first path that cannot be added.
    pub(super) async fn add_all(&self, kept_out: &[Vec<u8>]) -> Result<(), GitError> {
        let action = "add the changes";
        let finished = self.add(action, kept_out, &["--all"]).await?;
        if finished.code != Some(0) && diagnose::disk_is_full(&finished.stderr) {
            return Err(finished.error());
        }
        // An unreadable directory is but a warning to git, and its files would be taken for deleted.
        match diagnose::refusal(&finished.stderr) {
            Some((path, why)) => Err(GitError::Refused { path, why }),
            None if finished.code != Some(0) => Err(lfs::diagnose(self.git, &finished, action)),
            None => Ok(()),
        }
    }

    /// Adds every change that can be added; answers nested repositories that have no commit, and so are not in the index.
    pub(super) async fn add_what_can_be(&self, kept_out: &[Vec<u8>]) -> Result<Vec<PathBuf>, GitError> {
        let finished = self.add("add what can be salvaged", kept_out, &["--all", "--ignore-errors"]).await?;
        if finished.code == Some(0) || (finished.code == Some(1) && !diagnose::disk_is_full(&finished.stderr)) {
            return Ok(diagnose::unborn_repositories(&finished.stderr).into_iter().map(PathBuf::from).collect());
        }
        Err(lfs::diagnose(self.git, &finished, "add what can be salvaged"))
    }

    async fn add(&self, action: &str, kept_out: &[Vec<u8>], options: &[&str]) -> Result<Finished, GitError> {
        let mut command = self.command(action).patient().arg("add").args(options);
        if !kept_out.is_empty() {
            let mut paths = b":/\0".to_vec();
            for path in kept_out {
                paths.extend_from_slice(b":(exclude,top,literal)");
                paths.extend_from_slice(path);
                paths.push(0);
            }
            command = command.args(["--pathspec-from-file=-", "--pathspec-file-nul"]).stdin(paths);
        }
        command.finish().await
    }

    /// Brings stage and files to a commit, whatever is in the way.
    pub(super) async fn check_out(&self, commit: &ObjectId, origin: &Remote) -> Result<(), GitError> {
        let action = format!("check out {}", commit.short());
        let command = self.command(&action).origin(origin).args(["read-tree", "--reset", "-u", commit.as_str()]);
        let finished = command.finish().await?;
        if finished.code == Some(0) { Ok(()) } else { Err(lfs::diagnose(self.git, &finished, &action)) }
    }

    /// Writes what is staged as a tree.
    pub(super) async fn write_tree(&self) -> Result<ObjectId, GitError> {
        parse_id(&self.command("write the tree").arg("write-tree").run().await?)
    }

    /// The tree of a commit.
    pub(super) async fn tree_of(&self, commit: &ObjectId) -> Result<ObjectId, GitError> {
        let tree = format!("{commit}^{{tree}}");
        parse_id(&self.command("find the tree of a commit").args(["rev-parse", "--verify", &tree]).run().await?)
    }

    /// Stages a submodule at a commit.
    pub(super) async fn set_gitlink(&self, path: &Path, commit: &ObjectId) -> Result<(), GitError> {
        let mut line = format!("160000 {commit}	").into_bytes();
        line.extend_from_slice(path.as_os_str().as_bytes());
        line.push(0);
        self.command("stage a submodule").args(["update-index", "--add", "-z", "--index-info"]).stdin(line).run().await.map(drop)
    }

    /// Takes whatever is staged at `path`, without what is below it, off the stage.
    pub(super) async fn remove(&self, path: &Path) -> Result<(), GitError> {
        let mut line = path.as_os_str().as_bytes().to_vec();
        line.push(0);
        self.command("unstage a path").args(["update-index", "--force-remove", "-z", "--stdin"]).stdin(line).run().await.map(drop)
    }

    /// Puts a tree at `path`.
    pub(super) async fn graft(&self, path: &Path, tree: &ObjectId) -> Result<(), GitError> {
        let mut prefix = std::ffi::OsString::from("--prefix=");
        prefix.push(path);
        prefix.push("/");
        self.command("stage a nested tree").arg("read-tree").arg(prefix).arg(tree.as_str()).run().await.map(drop)
    }

    /// What is staged against `base`: the listing of `git diff-index`, both raw and counted.
    pub(super) async fn listing(&self, base: &str) -> Result<Vec<u8>, GitError> {
        let command = self.command("compare with the base").args(["diff-index", "--cached"]).args(LISTING);
        Ok(command.patient().stdout_max(LISTING_MAX).arg(base).run().await?.stdout)
    }
}

/// How a listing of changes is asked for that [`super::diff`] reads.
pub(super) const LISTING: [&str; 8] =
    ["--raw", "--numstat", "-z", "--no-renames", "--no-ext-diff", "--no-textconv", "--full-index", "--ignore-submodules=none"];

/// The largest listing of changes that is read: some million files.
pub(super) const LISTING_MAX: usize = 256 * 1024 * 1024;

/// The object id that a command answered.
pub(super) fn parse_id(finished: &Finished) -> Result<ObjectId, GitError> {
    finished.line().parse().map_err(|_| GitError::Command {
        action: "read an object id".to_owned(),
        detail: format!("git answered {:?}", finished.line().chars().take(80).collect::<String>()),
    })
}
