//! A ref that nobody is to have any more is taken off the remote.
//!
//! The one rule: a push says which commit it expects there, the one that was pushed, so that nothing of others goes with it.

use std::time::Duration;

use super::diagnose;
use super::error::GitError;
use super::mirror::Mirror;
use super::push::{Answer, refused};
use crate::ids::ObjectId;
use crate::job::BranchName;

/// How often it is looked whether a branch has arrived, and how long lies between: what a remote has begun to take when its git is
/// ended here it takes.
const LOOKS: u32 = 3;
const APART: Duration = Duration::from_millis(500);

impl Mirror {
    /// Takes `branch` off the remote if it is there at `commit`, or comes there within a second, and says whether it did.
    ///
    /// # Errors
    /// The remote cannot be asked, or does not let go of it.
    pub async fn withdraw(&self, commit: &ObjectId, branch: &BranchName) -> Result<bool, GitError> {
        // Whoever pushed it may be gone for long, and the mirror with it.
        let (mirror, _empty) = self.or_empty(commit).await?;
        for look in 0..LOOKS {
            if look > 0 {
                // Nothing tells of what comes there.
                tokio::time::sleep(APART).await;
            }
            if mirror.take_off_remote(&branch.to_ref(), commit).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Takes a ref off the remote where it is there at `commit`, and says whether it did.
    pub(super) async fn take_off_remote(&self, name: &str, commit: &ObjectId) -> Result<bool, GitError> {
        if !self.has_on_remote(name, commit).await? {
            return Ok(false);
        }
        let remote = &self.remote;
        let action = format!("take {name} off {remote}");
        let command = self.git.command(&action, &self.dir).origin(remote);
        let command = command.args(["push", "--porcelain", "--no-verify", "--atomic", "--recurse-submodules=no"]);
        let command = command.arg(format!("--force-with-lease={name}:{commit}")).args(["origin", &format!(":{name}")]);
        let finished = command.finish().await?;
        match Answer::read(&finished, name) {
            Some(Answer::Done(_)) => Ok(true),
            // Something else is there by now, or nothing.
            Some(Answer::Rejected(_)) if !self.has_on_remote(name, commit).await? => Ok(false),
            Some(Answer::Rejected(reason)) => {
                let (remote, branch) = (remote.clone(), name.strip_prefix("refs/heads/").unwrap_or(name).to_owned());
                Err(refused(remote, branch, &reason, &finished))
            }
            None => Err(diagnose::network(remote, &action, &finished.stderr)),
        }
    }

    /// Whether the remote has `commit` as `name` now.
    pub(super) async fn has_on_remote(&self, name: &str, commit: &ObjectId) -> Result<bool, GitError> {
        let there = self.remote_refs(&[name.to_owned()]).await?;
        Ok(there.iter().any(|one| one.name == name && one.commit == *commit))
    }
}
