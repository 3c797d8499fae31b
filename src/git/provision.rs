//! Making a worktree in a slot: the host's git directory, the files at the base commit, and the job's own view.

use std::fs;
use std::path::{Path, PathBuf};

use super::bases::{Bases, Held};
use super::checkout::{Checkout, Durability};
use super::copy::copy_directory;
use super::error::{GitError, io_error};
use super::job_view::{Head, write_view, write_view_but_index};
use super::journal::{Identity, Journal, Submodule};
use super::marks::Marks;
use super::mirror::Mirror;
use super::place::{self, HOST, JOB, LAYER, TREE, release};
use super::strategy::Provisioner;
use super::submodules;
use super::worktree::{Worktree, move_to_trash};
use crate::ids::ObjectId;
use crate::job::BranchName;

/// How the names of worktrees begin that are not whole yet.
pub(super) const NEW: &str = ".new-";

impl Mirror {
    /// Makes `<slot>/job/tree` at `base`, which [`Mirror::resolve`] answered, with the job's own view of it on `branch`, and
    /// `<slot>/host.git`. What a provision that was cut short left in the slot is moved to the trash first.
    ///
    /// Where the strategy is to mount overlays, the first worktree at a commit also pays for the base checkout; all others take
    /// less than a millisecond. An overlay that cannot be mounted is a checkout instead, with a warning, unless overlays alone
    /// were asked for.
    ///
    /// # Errors
    /// [`GitError::Occupied`] when the slot still has a whole worktree; a submodule or LFS file that cannot be had; no room.
    pub async fn provision(
        &self,
        base: &ObjectId,
        branch: &BranchName,
        slot: &Path,
        provisioner: &Provisioner,
    ) -> Result<Worktree, GitError> {
        fs::create_dir_all(slot).map_err(io_error("create", slot))?;
        if Journal::exists(&slot.join(HOST)) {
            return Err(GitError::Occupied { slot: slot.to_owned() });
        }
        self.clear(slot)?;
        let Some(bases) = provisioner.bases() else { return self.check_out(base, branch, slot).await };
        match self.overlay(bases, base, branch, slot).await {
            Err(error @ GitError::Overlay { .. }) if provisioner.may_check_out() => {
                tracing::warn!(slot = %slot.display(), %error, "a worktree becomes a checkout, which takes longer");
                self.clear(slot)?;
                self.check_out(base, branch, slot).await
            }
            made => made,
        }
    }

    /// Makes the worktree as an overlay over the base of its commit.
    async fn overlay(&self, bases: &Bases, base: &ObjectId, branch: &BranchName, slot: &Path) -> Result<Worktree, GitError> {
        let held = self.base(bases, base, slot).await?;
        let (mirror, base, branch, slot) = (self.clone(), base.clone(), branch.clone(), slot.to_owned());
        super::blocking(move || mirror.mount(&held, &base, &branch, &slot)).await
    }

    fn mount(&self, held: &Held, base: &ObjectId, branch: &BranchName, slot: &Path) -> Result<Worktree, GitError> {
        let record = held.base.record()?;
        let checkout = Checkout {
            git_dir: slot.join(HOST),
            tree: slot.join(TREE),
            index: held.base.index(),
            objects: self.objects(),
            base: base.clone(),
            durability: Durability::Later,
        };
        let upper = place::layers(slot, &held.base).upper;
        write_view_but_index(&self.git, &checkout, Head::Branch(branch.as_str()), &upper)?;
        checkout.write_git_dir()?;
        let modules = Path::new("modules");
        if !record.submodules.is_empty() {
            copy_directory(&held.base.git_dir().join(modules), &checkout.git_dir.join(modules))?;
        }
        let identity = place::mount(slot, &held.base, Marks::here())?;
        let base_dir = Some(held.base.dir().to_owned());
        self.finish(slot, checkout, branch, identity, record.submodules, base_dir)
    }

    /// Makes the worktree as a checkout of its own.
    async fn check_out(&self, base: &ObjectId, branch: &BranchName, slot: &Path) -> Result<Worktree, GitError> {
        let (git_dir, tree) = (slot.join(HOST), slot.join(TREE));
        // A git that outlived its daemon writes to names that nobody has any more.
        let new = slot.join(format!("{NEW}{}", uuid::Uuid::now_v7().simple()));
        let checkout = Checkout {
            git_dir: new.join("host.git"),
            tree: new.join("tree"),
            index: new.join("host.git/index"),
            objects: self.objects(),
            base: base.clone(),
            durability: Durability::Later,
        };
        let submodules = self.fill(&checkout, Head::Branch(branch.as_str()), 0).await?;
        let identity = Identity::of(&checkout.tree);
        let identity = identity.ok_or_else(|| io_error("find", &checkout.tree)(std::io::ErrorKind::NotFound.into()))?;
        fs::create_dir_all(slot.join(JOB)).map_err(io_error("create", slot))?;
        fs::rename(&checkout.tree, &tree).map_err(io_error("name", &tree))?;
        fs::rename(&checkout.git_dir, &git_dir).map_err(io_error("name", &git_dir))?;
        fs::remove_dir(&new).map_err(io_error("remove", &new))?;
        let checkout = Checkout { index: git_dir.join("index"), git_dir, tree, ..checkout };
        self.finish(slot, checkout, branch, identity, submodules, None)
    }

    /// Writes the journal, with which the worktree is whole.
    fn finish(
        &self,
        slot: &Path,
        checkout: Checkout,
        branch: &BranchName,
        identity: Identity,
        submodules: Vec<Submodule>,
        base_dir: Option<PathBuf>,
    ) -> Result<Worktree, GitError> {
        let (remote, base, branch) = (self.remote.clone(), checkout.base.clone(), branch.as_str().to_owned());
        let journal = Journal { remote, base, branch, identity, base_dir, marks: Marks::here(), submodules };
        journal.write(&checkout.git_dir)?;
        Ok(Worktree::new(self.clone(), slot, checkout, journal))
    }

    /// Moves what a provision that was cut short left in the slot to the trash.
    fn clear(&self, slot: &Path) -> Result<(), GitError> {
        release(slot)?;
        let entries = fs::read_dir(slot).map_err(io_error("read", slot))?;
        let ours = |name: &std::ffi::OsStr| name == HOST || name == LAYER || name.to_string_lossy().starts_with(NEW);
        let names = entries.flatten().map(|entry| entry.file_name()).filter(|name| ours(name));
        let paths = names.map(|name| slot.join(name)).chain([slot.join(TREE)]);
        paths.filter(|path| path.symlink_metadata().is_ok()).try_for_each(|path| move_to_trash(&path, &self.git.trash()))
    }

    /// Checks out the base with its submodules, and gives each tree its view. `depth` counts submodules within submodules.
    pub(super) async fn fill(
        &self,
        checkout: &Checkout,
        head: Head<'_>,
        depth: usize,
    ) -> Result<Vec<super::journal::Submodule>, GitError> {
        let gitlinks = checkout.fill(&self.git, &self.remote).await?.gitlinks;
        let submodules = submodules::check_out(self, checkout, gitlinks, depth).await?;
        write_view(&self.git, checkout, head)?;
        Ok(submodules)
    }
}
