//! A clean checkout of a commit, beside a worktree: the very files that will be delivered, for those who judge them.
//!
//! The one rule: nothing in it comes from what the job left. Where the worktree is an overlay, this is another one over the same
//! base, and where it is a copy of a base, another copy, if that is still there; the commit's own changes are checked out into it. Else
//! it is a checkout like any other. Its `.git` is written anew. It has a journal as a worktree has, so that whoever finds its mount knows whose that is.

use std::fs;
use std::path::Path;

use super::bases::{Base, Held};
use super::checkout::{Checkout, Durability};
use super::error::{GitError, io_error};
use super::index::{self, Settle};
use super::job_view::{Head, write_view};
use super::journal::{Identity, Journal, Submodule};
use super::lfs;
use super::place::{self, HOST, PARTS, TREE, release};
use super::stage::Stage;
use super::strategy::Strategy;
use super::worktree::{Worktree, move_to_trash};
use crate::ids::ObjectId;

impl Worktree {
    /// Makes `<place>/job/tree` with the files of `commit`, which goes on from the base or is the base itself, and nothing else.
    /// Nothing of a worktree may be in `place`. The worktree itself is neither read nor changed. Says how it was made.
    ///
    /// [`Strategy::Checkout`] asks for a checkout whatever the worktree is: for a place whose path somebody else can change, since
    /// no mount is then to be taken off it. Cancelling it leaves a part of it, which [`release`] and the trash take.
    ///
    /// # Errors
    /// A submodule or LFS file that cannot be had; no room.
    pub async fn check_out_clean(&self, commit: &ObjectId, place: &Path, strategy: Strategy) -> Result<Strategy, GitError> {
        let git_dir = place.join(HOST);
        let checkout = Checkout {
            index: git_dir.join("index"),
            git_dir,
            tree: place.join(TREE),
            objects: self.mirror.objects(),
            base: commit.clone(),
            durability: Durability::Later,
        };
        let (below, copied) = (self.base_dir().map(Base::at), self.journal.copied_from.as_deref().map(Base::at));
        if strategy != Strategy::Checkout
            && let Some(base) = below.as_ref().or(copied.as_ref())
            && let Some(identity) = self.lay_over(base, &checkout, place).await?
        {
            self.write_journal(&checkout, identity, below.as_ref(), self.journal.submodules.clone())?;
            return Ok(if below.is_some() { Strategy::Overlay } else { Strategy::Snapshot });
        }
        let submodules = self.mirror.fill(&checkout, Head::Branch(self.branch()), 0).await?;
        self.write_journal(&checkout, identity_of(&checkout.tree)?, None, submodules)?;
        Ok(Strategy::Checkout)
    }

    /// The tree of a commit that was made here, or of the base.
    ///
    /// # Errors
    /// There is no such commit.
    pub async fn tree_of(&self, commit: &ObjectId) -> Result<ObjectId, GitError> {
        Stage::empty(&self.mirror.git, &self.checkout, self.tree()).tree_of(commit).await
    }

    /// Makes it as an overlay over the worktree's own base, or as a copy of that; nothing where the commit has other submodules than
    /// that, or where there is nothing any more to copy.
    async fn lay_over(&self, base: &Base, checkout: &Checkout, place: &Path) -> Result<Option<Identity>, GitError> {
        let held = base.lease(place)?;
        let is_overlay = self.base_dir().is_some();
        // Where an overlay's base cannot be leased at this moment, the worktree's own lease holds it.
        let is_at_base = |held: &Held| held.base.record().is_ok_and(|record| record.commit == *self.base());
        if !is_overlay && !held.as_ref().is_some_and(is_at_base) {
            return Ok(None);
        }
        checkout.write_git_dir()?;
        fs::copy(base.index(), &checkout.index).map_err(io_error("write", &checkout.index))?;
        let identity = if is_overlay { place::mount(place, base, self.journal.marks)? } else { place::copy(place, base)? };
        if checkout.base != *self.base() {
            self.bring_over(checkout).await?;
            let (index, tree, width) = (checkout.index.clone(), checkout.tree.clone(), checkout.base.as_str().len() / 2);
            let survey = super::blocking(move || index::settle(&index, &tree, width, Settle::Fresh)).await?;
            let known = |link: &index::Gitlink| {
                self.journal
                    .submodules
                    .iter()
                    .any(|one| one.commit == link.commit && one.path.as_os_str().as_encoded_bytes() == link.path)
            };
            if survey.gitlinks.len() != self.journal.submodules.len() || !survey.gitlinks.iter().all(known) {
                release(place)?;
                let parts = PARTS.map(|part| place.join(part));
                let trash = self.mirror.git.trash();
                parts.iter().filter(|path| path.symlink_metadata().is_ok()).try_for_each(|path| move_to_trash(path, &trash))?;
                return Ok(None);
            }
        }
        write_view(&self.mirror.git, checkout, Head::Branch(self.branch()))?;
        Ok(Some(identity))
    }

    /// Brings files and index from the base to the commit. git looks at no other file than those that differ.
    async fn bring_over(&self, checkout: &Checkout) -> Result<(), GitError> {
        let git = &self.mirror.git;
        let action = format!("check out {}", checkout.base.short());
        let command = checkout.command(git, &action).work_tree(&checkout.tree).origin(&self.mirror.remote).lfs(git.host.lfs);
        let finished = command.args(["read-tree", "-m", "-u", self.base().as_str(), checkout.base.as_str()]).finish().await?;
        if finished.code == Some(0) { Ok(()) } else { Err(lfs::diagnose(git, &finished, &action)) }
    }

    fn write_journal(
        &self,
        checkout: &Checkout,
        identity: Identity,
        base: Option<&Base>,
        submodules: Vec<Submodule>,
    ) -> Result<(), GitError> {
        let base_dir = base.map(|base| base.dir().to_owned());
        let journal = Journal { base: checkout.base.clone(), identity, base_dir, submodules, ..self.journal.clone() };
        journal.write(&checkout.git_dir)
    }
}

fn identity_of(tree: &Path) -> Result<Identity, GitError> {
    Identity::of(tree).ok_or_else(|| io_error("find", tree)(std::io::ErrorKind::NotFound.into()))
}
