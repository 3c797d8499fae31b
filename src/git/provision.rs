//! Making a worktree in a slot: the host's git directory, the files at the base commit, and the job's own view.

use std::fs;
use std::path::Path;

use super::checkout::{Checkout, Durability};
use super::error::{GitError, io_error};
use super::job_view::{Head, write_view};
use super::journal::{Identity, Journal};
use super::mirror::Mirror;
use super::submodules;
use super::worktree::{JOB, TREE, Worktree, move_to_trash};
use crate::ids::ObjectId;
use crate::job::BranchName;

/// How the names of worktrees begin that are not whole yet.
const NEW: &str = ".new-";

impl Mirror {
    /// Makes `<slot>/job/tree` at `base`, which [`Mirror::resolve`] answered, with the job's own view of it on `branch`, and
    /// `<slot>/host.git`. What a provision that was cut short left in the slot is moved to the trash first.
    ///
    /// # Errors
    /// [`GitError::Occupied`] when the slot still has a whole worktree; a submodule or LFS file that cannot be had; no room.
    pub async fn provision(&self, base: &ObjectId, branch: &BranchName, slot: &Path) -> Result<Worktree, GitError> {
        fs::create_dir_all(slot).map_err(io_error("create", slot))?;
        let (git_dir, tree) = (slot.join("host.git"), slot.join(TREE));
        if Journal::exists(&git_dir) {
            return Err(GitError::Occupied { slot: slot.to_owned() });
        }
        self.clear(slot)?;
        // A git that outlived its daemon writes to names that nobody has any more.
        let new = slot.join(format!("{NEW}{}", uuid::Uuid::now_v7().simple()));
        let checkout = Checkout {
            git_dir: new.join("host.git"),
            tree: new.join("tree"),
            objects: self.objects(),
            base: base.clone(),
            durability: Durability::Later,
        };
        let submodules = self.fill(&checkout, Head::Branch(branch.as_str()), 0).await?;
        let identity = Identity::of(&checkout.tree);
        let identity = identity.ok_or_else(|| io_error("find", &checkout.tree)(std::io::ErrorKind::NotFound.into()))?;
        let journal =
            Journal { remote: self.remote.clone(), base: base.clone(), branch: branch.as_str().to_owned(), identity, submodules };
        journal.write(&checkout.git_dir)?;
        fs::create_dir_all(slot.join(JOB)).map_err(io_error("create", slot))?;
        fs::rename(&checkout.tree, &tree).map_err(io_error("name", &tree))?;
        fs::rename(&checkout.git_dir, &git_dir).map_err(io_error("name", &git_dir))?;
        fs::remove_dir(&new).map_err(io_error("remove", &new))?;
        Ok(Worktree::new(self.clone(), slot, Checkout { git_dir, tree, ..checkout }, journal))
    }

    /// Moves what a provision that was cut short left in the slot to the trash.
    fn clear(&self, slot: &Path) -> Result<(), GitError> {
        let entries = fs::read_dir(slot).map_err(io_error("read", slot))?;
        let mut names = entries
            .flatten()
            .map(|entry| entry.file_name())
            .filter(|name| name == "host.git" || name.to_string_lossy().starts_with(NEW));
        names.try_for_each(|name| move_to_trash(&slot.join(name), &self.git.trash()))?;
        let tree = slot.join(TREE);
        if tree.symlink_metadata().is_ok() { move_to_trash(&tree, &self.git.trash()) } else { Ok(()) }
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
