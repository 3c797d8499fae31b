//! A worktree that begins with what an earlier attempt left: its files are put over those of the base.
//!
//! The one rule: the host's own index stays as the checkout left it. So what is committed later is still one commit on the base, with
//! all that differs from it, whoever wrote it. Doing it twice comes to the same.

use super::error::GitError;
use super::stage::Stage;
use super::worktree::Worktree;
use crate::ids::ObjectId;

/// Whether a worktree begins with a salvage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TakenOver {
    /// All of it.
    Whole,
    /// It does not, for this reason; its files are the base's.
    Not(String),
    /// It does not, for this reason, and may have a part of it: it is to be made again.
    Part(String),
}

impl Worktree {
    /// Puts what `salvage` holds over the files of a worktree that nobody has worked in, where that was salvaged from the same base.
    ///
    /// # Errors
    /// No room, or git cannot be run.
    pub async fn take_over(&self, salvage: &ObjectId) -> Result<TakenOver, GitError> {
        if self.mirror.commit(salvage).await?.is_none() {
            return Ok(TakenOver::Not(format!("{} is not there any more", salvage.short())));
        }
        let git = &self.mirror.git;
        let command = |action: &str| self.checkout.command(git, action);
        let parent = command("find the base of a salvage").args(["rev-parse", "--verify", &format!("{salvage}^1")]).run().await?;
        if parent.line() != self.base().as_str() {
            let was = parent.line().get(..10).unwrap_or_default().to_owned();
            return Ok(TakenOver::Not(format!("that was made from {was}, and the base is {} by now", self.base().short())));
        }
        let differ = ["diff-tree", "-r", "--raw", "--no-renames", "--no-abbrev", self.base().as_str(), salvage.as_str()];
        let listing = match command("compare a salvage with its base").args(differ).run().await {
            Ok(listing) => listing,
            Err(error) => return Ok(TakenOver::Not(reason(error)?)),
        };
        let is_link = |line: &str| line.split(' ').take(2).any(|mode| mode.trim_start_matches(':') == "160000");
        if String::from_utf8_lossy(&listing.stdout).lines().any(is_link) {
            return Ok(TakenOver::Not("it changes a submodule".to_owned()));
        }
        let stage = Stage::open(git, &self.checkout)?;
        match stage.check_out(salvage, &self.mirror.remote).await {
            Ok(()) => Ok(TakenOver::Whole),
            Err(error) => Ok(TakenOver::Part(reason(error)?)),
        }
    }
}

/// Why a salvage cannot be taken over, where that is the salvage's fault: nothing mends it, and the job is not to wait for that.
fn reason(error: GitError) -> Result<String, GitError> {
    match error {
        GitError::DiskFull { .. } | GitError::Timeout { .. } | GitError::Program { .. } => Err(error),
        error => Ok(error.to_string()),
    }
}
