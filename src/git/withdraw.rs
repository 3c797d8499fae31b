//! A branch that was pushed for nobody is taken off the remote again.
//!
//! The one rule: a push says which commit it expects there, the one that was pushed, so that nothing of others goes with it.

use std::time::Duration;

use super::diagnose;
use super::error::GitError;
use super::push::Answer;
use super::worktree::Worktree;
use crate::ids::ObjectId;
use crate::job::BranchName;

/// How often it is looked whether the branch has arrived, and how long lies between: what a remote has begun to take when its git is
/// ended here it takes.
const LOOKS: u32 = 3;
const APART: Duration = Duration::from_millis(500);

impl Worktree {
    /// Takes `branch` off the remote if it is there at `commit`, or comes there within a second, and says whether it did.
    ///
    /// # Errors
    /// The remote cannot be asked, or does not let go of it.
    pub async fn withdraw(&self, commit: &ObjectId, branch: &BranchName) -> Result<bool, GitError> {
        for look in 0..LOOKS {
            if look > 0 {
                tokio::time::sleep(APART).await;
            }
            if self.is_delivered(commit, branch).await? {
                return self.remove(commit, branch).await;
            }
        }
        Ok(false)
    }

    async fn remove(&self, commit: &ObjectId, branch: &BranchName) -> Result<bool, GitError> {
        let (remote, target) = (&self.mirror.remote, branch.to_ref());
        let action = format!("take {target} off {remote}");
        let finished = self
            .checkout
            .command(&self.mirror.git, &action)
            .origin(remote)
            .args(["push", "--porcelain", "--no-verify", "--atomic", "--recurse-submodules=no"])
            .arg(format!("--force-with-lease={target}:{commit}"))
            .args(["origin", &format!(":{target}")])
            .finish()
            .await?;
        match Answer::read(&finished, &target) {
            Some(Answer::Done(_)) => Ok(true),
            // A later attempt's is there, or nothing any more.
            Some(Answer::Rejected(_)) if !self.is_delivered(commit, branch).await? => Ok(false),
            Some(Answer::Rejected(reason)) => {
                let said = diagnose::remote_says(&finished.stderr);
                let message = if said.is_empty() { reason } else { format!("{reason}: {said}") };
                Err(GitError::PushRefused { remote: remote.clone(), branch: branch.to_string(), message })
            }
            None => Err(diagnose::network(remote, &action, &finished.stderr)),
        }
    }
}
