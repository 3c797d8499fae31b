//! The tree as the job left it becomes one commit on its base.

use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::checkout::Checkout;
use super::diff::Changes;
use super::error::GitError;
use super::layer::{DEPTH_MAX, Reason};
use super::stage::{Stage, parse_id};
use super::submodules;
use super::worktree::Worktree;
use crate::clock::Timestamp;
use crate::ids::ObjectId;
use crate::job::DiffSummary;

/// What a job changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    None,
    /// Something, now a commit.
    Commit(Committed),
}

/// A commit in the mirror, on no branch yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed {
    /// The commit.
    pub commit: ObjectId,
    /// Its tree.
    pub tree: ObjectId,
    /// What differs from the base.
    pub diff: DiffSummary,
}

impl Worktree {
    /// Commits the tree as it is, whatever the job itself committed in its view: everything that the repository's own ignore
    /// rules do not leave out, as one commit on the base. FIFOs, sockets and devices are left out, as by git, and never
    /// opened. It may be called again, and then begins anew; cancelling it leaves unreachable objects in the mirror at most.
    ///
    /// # Errors
    /// [`GitError::Refused`] names what cannot be committed: a nested repository, a file that cannot be read or is too large,
    /// a submodule with changes of its own; [`GitError::DiskFull`].
    pub async fn commit(&self, message: &str) -> Result<Change, GitError> {
        self.check_tree()?;
        if self.base_dir().is_some() {
            match self.commit_from_layer(message).await {
                Ok(change) => return Ok(change),
                Err(Reason::Moved { path, why }) => return Err(GitError::Refused { path, why }),
                Err(Reason::TooDeep { path }) => {
                    let why = format!("directories lie in each other {DEPTH_MAX} deep and more");
                    return Err(GitError::Refused { path, why });
                }
                Err(Reason::NotSimple(reason)) => {
                    tracing::info!(%reason, tree = %self.tree().display(), "git itself adds the whole tree")
                }
            }
        }
        let stage = Stage::open(&self.mirror.git, &self.checkout)?;
        submodules::stage_all(&stage, &self.journal.submodules, self.kept_out()).await?;
        let (listing, tree) = tokio::try_join!(stage.listing(self.base().as_str()), stage.write_tree())?;
        let changes = Changes::parse(&listing);
        if changes.is_empty() {
            return Ok(Change::None);
        }
        self.check(&changes)?;
        let commit = self.commit_tree(&self.checkout, &tree, &[self.base()], message).await?;
        Ok(Change::Commit(Committed { commit, tree, diff: changes.summary }))
    }

    /// Refuses what can be staged and still must not be delivered.
    fn check(&self, changes: &Changes) -> Result<(), GitError> {
        let known = |path: &PathBuf| self.journal.submodules.iter().any(|submodule| submodule.path == *path);
        if let Some(path) = changes.gitlinks.iter().find(|path| !known(path)) {
            let why = "it is a repository of its own; remove its .git to deliver its files".to_owned();
            return Err(GitError::Refused { path: path.display().to_string(), why });
        }
        let maximum = self.mirror.git.host.config.maximum_file;
        for path in &changes.written {
            let length = fs::symlink_metadata(self.tree().join(path)).map_or(0, |meta| meta.len());
            if length > maximum.as_u64() {
                let why =
                    format!("its {} are more than the {maximum} that git.maximum_file allows", bytesize::ByteSize::b(length));
                return Err(GitError::Refused { path: path.display().to_string(), why });
            }
        }
        Ok(())
    }

    /// Makes a commit object by the configured author, now.
    pub(super) async fn commit_tree(
        &self,
        checkout: &Checkout,
        tree: &ObjectId,
        parents: &[&ObjectId],
        message: &str,
    ) -> Result<ObjectId, GitError> {
        let git = &self.mirror.git;
        let config = &git.host.config;
        let date = format!("@{} +0000", Timestamp::now().0 / 1000);
        let command = checkout
            .command(git, "write the commit")
            .env("GIT_AUTHOR_NAME", &config.author_name)
            .env("GIT_AUTHOR_EMAIL", &config.author_email)
            .env("GIT_AUTHOR_DATE", &date)
            .env("GIT_COMMITTER_NAME", &config.author_name)
            .env("GIT_COMMITTER_EMAIL", &config.author_email)
            .env("GIT_COMMITTER_DATE", &date)
            .args(["commit-tree", "-F", "-"])
            .args(parents.iter().flat_map(|parent| ["-p", parent.as_str()]))
            .arg(tree.as_str());
        parse_id(&command.stdin(message.replace('\0', "").into_bytes()).run().await?)
    }
}
