//! Making a worktree in a slot: the host's git directory, the files at the base commit, and the job's own view.

use std::fs;
use std::path::Path;

use super::checkout::Checkout;
use super::error::{GitError, io_error};
use super::job_view::{Head, write_view};
use super::journal::{Identity, Journal};
use super::mirror::Mirror;
use super::submodules;
use super::worktree::{Worktree, move_to_trash};
use crate::ids::ObjectId;
use crate::job::BranchName;

impl Mirror {
    /// Makes `<slot>/tree` at `base`, which [`Mirror::resolve`] answered, with the job's own view of it on `branch`, and
    /// `<slot>/host.git`. What a provision that was cut short left in the slot is moved to the trash first.
    ///
    /// # Errors
    /// [`GitError::Occupied`] when the slot still has a whole worktree; a submodule or LFS file that cannot be had; no room.
    pub async fn provision(&self, base: &ObjectId, branch: &BranchName, slot: &Path) -> Result<Worktree, GitError> {
        fs::create_dir_all(slot).map_err(io_error("create", slot))?;
        let checkout =
            Checkout { git_dir: slot.join("host.git"), tree: slot.join("tree"), objects: self.objects(), base: base.clone() };
        if Journal::exists(&checkout.git_dir) {
            return Err(GitError::Occupied { slot: slot.to_owned() });
        }
        for left in [&checkout.git_dir, &checkout.tree] {
            if left.symlink_metadata().is_ok() {
                move_to_trash(left, &self.git.trash())?;
            }
        }
        let submodules = self.fill(&checkout, Head::Branch(branch.as_str()), 0).await?;
        let identity = Identity::of(&checkout.tree);
        let identity = identity.ok_or_else(|| io_error("find", &checkout.tree)(std::io::ErrorKind::NotFound.into()))?;
        let journal =
            Journal { remote: self.remote.clone(), base: base.clone(), branch: branch.as_str().to_owned(), identity, submodules };
        journal.write(&checkout.git_dir)?;
        Ok(Worktree::new(self.clone(), slot, checkout, journal))
    }

    /// Checks out the base with its submodules, and gives each tree its view. `depth` counts submodules within submodules.
    pub(super) async fn fill(
        &self,
        checkout: &Checkout,
        head: Head<'_>,
        depth: usize,
    ) -> Result<Vec<super::journal::Submodule>, GitError> {
        let gitlinks = checkout.fill(&self.git, &self.remote).await?;
        let submodules = submodules::check_out(self, checkout, gitlinks, depth).await?;
        write_view(&self.git, checkout, head)?;
        Ok(submodules)
    }
}
