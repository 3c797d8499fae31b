//! Where the parts of a worktree are, and moving all of them: from a slot to where it is kept for a person.
//!
//! The one rule: a part is moved only while no overlay is mounted over it. The journal tells which base a worktree stands on,
//! so whoever moves it leases the base for the new place before the journal is there.

use std::fs;
use std::path::Path;

use super::bases::Base;
use super::closed::move_away;
use super::copy::{copy_out, drop_copied};
use super::error::{GitError, io_error};
use super::journal::{Identity, Journal};
use super::marks::Marks;
use super::mirror::name_of;
use super::overlay::{Layers, detach, detach_below, mounts, unmount};
use super::snapshot;
use super::worktree::move_to_trash;

/// The host's git directory, with the journal.
pub(super) const HOST: &str = "host.git";
/// What the job sees of a slot.
pub(super) const JOB: &str = "job";
/// The directory in which the job works.
pub(super) const TREE: &str = "job/tree";
/// What an overlay wrote.
pub(super) const LAYER: &str = "layer";
/// All parts. The host's is first to go: a tree without it is nobody's.
pub(super) const PARTS: [&str; 3] = [HOST, TREE, LAYER];

/// Takes the mount off the worktree in a place, so that its parts can be moved to the trash. None there is fine.
///
/// # Errors
/// What the system says.
pub fn release(place: &Path) -> Result<(), GitError> {
    detach(&place.join(TREE))
}

/// By which name the mirror goes that the worktree in a place was made from; none where there is no worktree.
#[must_use]
pub fn repository_of(place: &Path) -> Option<String> {
    Journal::read(&place.join(HOST)).ok().map(|journal| name_of(&journal.remote))
}

/// Takes the mounts off all worktrees below a directory, so that what is in it can be deleted.
///
/// # Errors
/// What the system says.
pub fn release_below(dir: &Path) -> Result<(), GitError> {
    detach_below(dir)
}

/// Takes off whatever anybody has mounted at or below a directory that is to be deleted.
///
/// # Errors
/// What the system says.
pub fn unmount_all_below(dir: &Path) -> Result<(), GitError> {
    mounts()?.iter().rev().filter(|at| at.starts_with(dir)).try_for_each(|at| detach(at))
}

/// Moves whatever there is of a worktree from one place to another, and mounts it there again where it was an overlay that all
/// see; of one that only this process and what it starts would see, the files are copied, if they can be. What is not there any more
/// was moved before. Blocks, for as long as copying the worktree takes.
///
/// # Errors
/// A part cannot be moved. An overlay that cannot be mounted is said in the log; its parts are there.
pub fn relocate(from: &Path, to: &Path, trash: &Path) -> Result<(), GitError> {
    fs::create_dir_all(to.join(JOB)).map_err(io_error("create", to))?;
    if let Ok(journal) = Journal::read(&from.join(HOST))
        && journal.base_dir.is_some()
        && journal.marks == Marks::User
    {
        match copy_out(from, to, journal, trash) {
            Ok(()) => return drop_copied(from, trash),
            Err(error) => {
                tracing::error!(place = %to.display(), %error, "a worktree cannot be copied; what was written is in layer/upper");
            }
        }
    }
    let journal = Journal::read(&from.join(HOST)).or_else(|_| Journal::read(&to.join(HOST))).ok();
    let base = journal.as_ref().and_then(|journal| journal.base_dir.as_deref());
    let _held = base.map(|dir| Base::at(dir).lease(to)).transpose()?.flatten();
    unmount(&from.join(TREE))?;
    for part in PARTS {
        let (old, new) = (from.join(part), to.join(part));
        match move_away(&old, &new) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io_error("move", &old)(error)),
            _ => {}
        }
    }
    if let Err(error) = revive(to, trash) {
        tracing::error!(place = %to.display(), %error, "a worktree was moved and cannot be mounted; what was written is in layer/upper");
    }
    Ok(())
}

/// Mounts the worktree in a place again where it is an overlay that is not mounted. No worktree there is fine.
///
/// # Errors
/// It cannot be mounted.
pub fn revive(place: &Path, trash: &Path) -> Result<(), GitError> {
    Journal::read(&place.join(HOST)).map_or(Ok(()), |mut journal| remount(place, &mut journal, trash))
}

/// Mounts the overlay of a worktree that the journal in `place` tells of, unless it is mounted or the worktree is none.
pub(super) fn remount(place: &Path, journal: &mut Journal, trash: &Path) -> Result<(), GitError> {
    let tree = place.join(TREE);
    let Some(base_dir) = &journal.base_dir else { return Ok(()) };
    if Identity::of(&tree) == Some(journal.identity) {
        return Ok(());
    }
    journal.marks.check_readable(&tree)?;
    let base = Base::at(base_dir);
    let _held = base.lease(place)?;
    if tree.symlink_metadata().is_ok_and(|meta| !meta.is_dir()) {
        move_to_trash(&tree, trash)?;
    }
    // A mount that ended without a word has left a mark in the kernel's directory that forbids another.
    let work = layers(place, &base).work;
    if work.exists() {
        move_to_trash(&work, trash)?;
    }
    journal.identity = mount(place, &base, journal.marks)?;
    journal.write(&place.join(HOST))?;
    tracing::info!(path = %tree.display(), "a worktree was mounted again");
    Ok(())
}

/// Mounts the overlay of a place over a base, with a layer that has these marks, and says which directory that is.
pub(super) fn mount(place: &Path, base: &Base, marks: Marks) -> Result<Identity, GitError> {
    let (layers, tree) = (layers(place, base), place.join(TREE));
    for directory in [&layers.upper, &layers.work, &tree] {
        fs::create_dir_all(directory).map_err(io_error("create", directory))?;
    }
    layers.mount(&tree, marks)?;
    Identity::of(&tree).ok_or_else(|| io_error("find", &tree)(std::io::ErrorKind::NotFound.into()))
}

/// Copies a base into a place, and says which directory that is.
pub(super) fn copy(place: &Path, base: &Base) -> Result<Identity, GitError> {
    let tree = place.join(TREE);
    fs::create_dir_all(place.join(JOB)).map_err(io_error("create", place))?;
    snapshot::copy(&base.tree(), &tree)?;
    Identity::of(&tree).ok_or_else(|| io_error("find", &tree)(std::io::ErrorKind::NotFound.into()))
}

/// The layers of the overlay in a place.
pub(super) fn layers(place: &Path, base: &Base) -> Layers {
    let layer = place.join(LAYER);
    Layers { lower: base.tree(), upper: layer.join("upper"), work: layer.join("work") }
}
