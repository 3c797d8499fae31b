//! What a job leaves of its worktree for the next job in its slot, so that this need not be checked out as a whole.
//!
//! The one rule: what the next job gets is what a fresh checkout would be. What may be kept for that is decided in
//! [`super::files`]; where anything is not as it must be, all of it goes to the trash and the reason is said.
//!
//! A slot has one such tree at most. It has a name of its own, `recycled`, only while it is whole and nobody's: whoever takes it, to
//! use it or to be rid of it, renames it first, so that two never have it.

use std::fs;
use std::path::Path;

use super::checkout::Checkout;
use super::error::{GitError, io_error};
use super::files::sift::make_accessible;
use super::files::{self, Obstacle, inventory};
use super::job_view::{Head, write_view};
use super::journal::{Identity, Journal};
use super::mirror::{Mirror, name_of};
use super::overlay::mounts;
use super::place::{HOST, TREE, repository_of};
use super::provision::{Origin, new_name};
use super::worktree::{Worktree, move_to_trash};
use crate::ids::ObjectId;
use crate::job::BranchName;

/// Its name in a slot.
pub const RECYCLED: &str = "recycled";

/// Sets the worktree in a slot aside for the next one, in place of one that was before, where it was made so that it can be; says
/// whether. Only after a job whose processes have ended. What is uncommitted is to be salvaged before.
///
/// # Errors
/// A rename that fails. What was half moved is no worktree any more, and the next provision moves the rest to the trash.
pub fn set_aside(slot: &Path, trash: &Path) -> Result<bool, GitError> {
    let (git_dir, tree, place) = (slot.join(HOST), slot.join(TREE), slot.join(RECYCLED));
    let Ok(journal) = Journal::read(&git_dir) else { return Ok(false) };
    let intact = Identity::of(&tree) == Some(journal.identity) && journal.submodules.is_empty();
    if !intact || !inventory::exists(&git_dir) {
        return Ok(false);
    }
    let about = tree.symlink_metadata().map_err(io_error("look at", &tree))?;
    make_accessible(&tree, &about).map_err(io_error("open up", &tree))?;
    let new = slot.join(new_name());
    fs::create_dir(&new).map_err(io_error("create", &new))?;
    // The journal goes first, with the host's side: a tree without it is nobody's.
    fs::rename(&git_dir, new.join(HOST)).map_err(io_error("move", &git_dir))?;
    fs::rename(&tree, new.join("tree")).map_err(io_error("move", &tree))?;
    if place.symlink_metadata().is_ok() {
        move_to_trash(&place, trash)?;
    }
    fs::rename(&new, &place).map_err(io_error("name", &place))?;
    tracing::debug!(path = %place.display(), "worktree set aside for the next job");
    Ok(true)
}

impl Mirror {
    /// Makes the worktree of what the slot's last job left, where that is of this repository; nothing where that is not so, or will not
    /// do. The slot has nothing of it afterwards.
    pub(super) async fn recycle(&self, base: &ObjectId, branch: &BranchName, slot: &Path) -> Result<Option<Worktree>, GitError> {
        let (mirror, base, branch, slot) = (self.clone(), base.clone(), branch.clone(), slot.to_owned());
        super::blocking(move || mirror.recycle_now(&base, &branch, &slot)).await
    }

    fn recycle_now(&self, base: &ObjectId, branch: &BranchName, slot: &Path) -> Result<Option<Worktree>, GitError> {
        let place = slot.join(RECYCLED);
        if repository_of(&place) != Some(name_of(&self.remote)) {
            return Ok(None);
        }
        let new = slot.join(new_name());
        let old = new.join("old");
        fs::create_dir(&new).map_err(io_error("create", &new))?;
        match fs::rename(&place, &old) {
            // Somebody made room.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return fs::remove_dir(&new).map(|()| None).map_err(io_error("remove", &new));
            }
            moved => moved.map_err(io_error("move", &place))?,
        }
        let checkout = self.new_checkout(&new, base);
        if let Err(why) = self.fill_from(&old, &checkout, branch) {
            tracing::info!(slot = %slot.display(), %why, "the last job's tree is not used again");
            return move_to_trash(&new, &self.git.trash()).map(|()| None);
        }
        move_to_trash(&old, &self.git.trash())?;
        self.move_in(slot, &new, checkout, branch, Vec::new(), Origin::Own).map(Some)
    }

    /// Fills a checkout from what a job left. The error is a sentence, and says why that cannot be.
    fn fill_from(&self, old: &Path, checkout: &Checkout, branch: &BranchName) -> Result<(), String> {
        let said = |error: GitError| error.to_string();
        if let Some(at) = mounts().map_err(said)?.into_iter().find(|at| at.starts_with(old)) {
            return Err(format!("something is mounted at {}", at.display()));
        }
        checkout.write_git_dir().map_err(said)?;
        files::check_out_from(old, checkout, &self.dir).map_err(|obstacle| match obstacle {
            Obstacle::Declined(why) => why,
            Obstacle::Failed(error) => error.to_string(),
        })?;
        write_view(&self.git, checkout, Head::Branch(branch.as_str())).map_err(said)?;
        inventory::take(checkout).map_err(said)
    }
}
