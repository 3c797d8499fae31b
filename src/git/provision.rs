//! Making a worktree in a slot: the host's git directory, the files at the base commit, and the job's own view.

use std::fs;
use std::path::Path;

use super::bases::{Base, Bases, Held};
use super::checkout::{Checkout, Durability};
use super::copy::copy_directory;
use super::error::{GitError, io_error};
use super::files::inventory;
use super::job_view::{Head, write_view, write_view_but_index};
use super::journal::{Identity, Journal, Submodule};
use super::marks::Marks;
use super::mirror::Mirror;
use super::place::{self, HOST, JOB, LAYER, TREE, release};
use super::strategy::{Provisioner, Strategy};
use super::worktree::{Worktree, move_to_trash};
use super::{snapshot, submodules};
use crate::ids::ObjectId;
use crate::job::BranchName;

/// How the names of worktrees begin that are not whole yet.
pub(super) const NEW: &str = ".new-";

/// What a worktree was made from.
#[derive(Debug, Clone, Copy)]
pub(super) enum Origin<'a> {
    /// From the mirror alone.
    Own,
    /// It is an overlay over this base.
    Over(&'a Base),
    /// It is a copy of this base.
    CopyOf(&'a Base),
}

/// What becomes of a checkout when its job has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Afterwards {
    /// It goes to the trash.
    Discarded,
    /// The next job begins with it.
    Recycled,
}

/// A name for a worktree that is not whole yet. A git that outlived its daemon writes to one that nobody has any more.
pub(super) fn new_name() -> String {
    format!("{NEW}{}", uuid::Uuid::now_v7().simple())
}

impl Mirror {
    /// Makes `<slot>/job/tree` at `base`, which [`Mirror::resolve`] answered, with the job's own view of it on `branch`, and
    /// `<slot>/host.git`. What a provision that was cut short left in the slot is moved to the trash first.
    ///
    /// Where the strategy is to mount overlays or to make snapshots, the first worktree at a commit also pays for the base checkout;
    /// all others take about a millisecond, or some. One that cannot be made so is a checkout instead, with a warning, unless that
    /// strategy alone was asked for.
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
        // The journal names it in the end.
        self.hold().await?;
        fs::create_dir_all(slot).map_err(io_error("create", slot))?;
        if Journal::exists(&slot.join(HOST)) {
            return Err(GitError::Occupied { slot: slot.to_owned() });
        }
        self.clear(slot)?;
        let recycles = provisioner.strategy() == Strategy::Recycled;
        if recycles && let Some(worktree) = self.recycle(base, branch, slot).await? {
            return Ok(worktree);
        }
        let made = match (provisioner.strategy(), provisioner.bases()) {
            (Strategy::Snapshot, Some(bases)) => self.snapshot(bases, base, branch, slot).await,
            (_, Some(bases)) => self.overlay(bases, base, branch, slot).await,
            (_, None) if recycles => return self.check_out(base, branch, slot, Afterwards::Recycled).await,
            (_, None) => return self.check_out(base, branch, slot, Afterwards::Discarded).await,
        };
        match made {
            Err(error @ (GitError::Overlay { .. } | GitError::Snapshot { .. })) if provisioner.may_check_out() => {
                tracing::warn!(slot = %slot.display(), %error, "a worktree becomes a checkout, which takes longer");
                self.clear(slot)?;
                self.check_out(base, branch, slot, Afterwards::Discarded).await
            }
            made => made,
        }
    }

    /// Makes the worktree as a copy of the base of its commit.
    async fn snapshot(&self, bases: &Bases, base: &ObjectId, branch: &BranchName, slot: &Path) -> Result<Worktree, GitError> {
        let held = self.base(bases, base, slot).await?;
        let (mirror, base, branch, slot) = (self.clone(), base.clone(), branch.clone(), slot.to_owned());
        super::blocking(move || mirror.copy(&held, &base, &branch, &slot)).await
    }

    fn copy(&self, held: &Held, base: &ObjectId, branch: &BranchName, slot: &Path) -> Result<Worktree, GitError> {
        let record = held.base.record()?;
        let new = slot.join(new_name());
        let checkout = self.new_checkout(&new, base);
        checkout.write_git_dir()?;
        snapshot::copy(&held.base.tree(), &checkout.tree)?;
        fs::copy(held.base.index(), &checkout.index).map_err(io_error("write", &checkout.index))?;
        copy_modules(&held.base, &checkout, &record.submodules)?;
        // That of its index is valid in the copy, too.
        write_view_but_index(&self.git, &checkout, Head::Branch(branch.as_str()), &checkout.tree)?;
        self.move_in(slot, &new, checkout, branch, record.submodules, Origin::CopyOf(&held.base))
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
        copy_modules(&held.base, &checkout, &record.submodules)?;
        let identity = place::mount(slot, &held.base, Marks::here())?;
        self.finish(slot, checkout, branch, identity, record.submodules, Origin::Over(&held.base))
    }

    /// Makes the worktree as a checkout of its own.
    async fn check_out(
        &self,
        base: &ObjectId,
        branch: &BranchName,
        slot: &Path,
        afterwards: Afterwards,
    ) -> Result<Worktree, GitError> {
        let new = slot.join(new_name());
        let checkout = self.new_checkout(&new, base);
        let submodules = self.fill(&checkout, Head::Branch(branch.as_str()), 0).await?;
        if afterwards == Afterwards::Recycled && submodules.is_empty() {
            let checkout = checkout.clone();
            super::blocking(move || inventory::take(&checkout)).await?;
        }
        self.move_in(slot, &new, checkout, branch, submodules, Origin::Own)
    }

    /// A worktree that is made under another name.
    pub(super) fn new_checkout(&self, new: &Path, base: &ObjectId) -> Checkout {
        Checkout {
            git_dir: new.join("host.git"),
            tree: new.join("tree"),
            index: new.join("host.git/index"),
            objects: self.objects(),
            base: base.clone(),
            durability: Durability::Later,
        }
    }

    /// Moves a worktree that was made under another name to where it is to be.
    pub(super) fn move_in(
        &self,
        slot: &Path,
        new: &Path,
        checkout: Checkout,
        branch: &BranchName,
        submodules: Vec<Submodule>,
        origin: Origin<'_>,
    ) -> Result<Worktree, GitError> {
        let (git_dir, tree) = (slot.join(HOST), slot.join(TREE));
        let identity = Identity::of(&checkout.tree);
        let identity = identity.ok_or_else(|| io_error("find", &checkout.tree)(std::io::ErrorKind::NotFound.into()))?;
        fs::create_dir_all(slot.join(JOB)).map_err(io_error("create", slot))?;
        fs::rename(&checkout.tree, &tree).map_err(io_error("name", &tree))?;
        fs::rename(&checkout.git_dir, &git_dir).map_err(io_error("name", &git_dir))?;
        fs::remove_dir(new).map_err(io_error("remove", new))?;
        let checkout = Checkout { index: git_dir.join("index"), git_dir, tree, ..checkout };
        self.finish(slot, checkout, branch, identity, submodules, origin)
    }

    /// Writes the journal, with which the worktree is whole.
    fn finish(
        &self,
        slot: &Path,
        checkout: Checkout,
        branch: &BranchName,
        identity: Identity,
        submodules: Vec<Submodule>,
        origin: Origin<'_>,
    ) -> Result<Worktree, GitError> {
        let (remote, base, branch) = (self.remote.clone(), checkout.base.clone(), branch.as_str().to_owned());
        let (base_dir, copied_from) = match origin {
            Origin::Own => (None, None),
            Origin::Over(base) => (Some(base.dir().to_owned()), None),
            Origin::CopyOf(base) => (None, Some(base.dir().to_owned())),
        };
        let journal = Journal { remote, base, branch, identity, base_dir, marks: Marks::here(), copied_from, submodules };
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

/// Copies the host's git directories of a base's submodules.
fn copy_modules(base: &Base, checkout: &Checkout, submodules: &[Submodule]) -> Result<(), GitError> {
    let modules = Path::new("modules");
    if submodules.is_empty() {
        return Ok(());
    }
    copy_directory(&base.git_dir().join(modules), &checkout.git_dir.join(modules))
}
