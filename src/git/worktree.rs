//! A worktree: a tree of files at a base commit, in a slot, that a job may change.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::bases::Base;
use super::checkout::{Checkout, Durability};
use super::closed::move_away;
use super::error::{GitError, io_error};
use super::journal::{Identity, Journal, Submodule};
use super::mirror::Mirror;
use super::place::{HOST, PARTS, TREE, release, remount};
use super::{Git, Remote};
use crate::ids::ObjectId;

/// A worktree. Everything about it is on disk: dropping this leaves it, and [`Worktree::open`] finds it again.
#[derive(Debug)]
pub struct Worktree {
    pub(super) mirror: Mirror,
    pub(super) checkout: Checkout,
    pub(super) journal: Journal,
    slot: PathBuf,
    kept_out: Vec<PathBuf>,
}

impl Worktree {
    pub(super) fn new(mirror: Mirror, slot: &Path, checkout: Checkout, journal: Journal) -> Self {
        Self { mirror, checkout, journal, slot: slot.to_owned(), kept_out: Vec::new() }
    }

    /// Finds the worktree in a slot after a restart of the daemon, or of the host: an overlay that is not mounted any more is
    /// mounted again, over what was written before.
    ///
    /// # Errors
    /// [`GitError::NoWorktree`] when the slot has none that was provisioned to its end; [`GitError::Overlay`] when it cannot be
    /// mounted.
    pub fn open(git: &Git, slot: &Path) -> Result<Self, GitError> {
        let git_dir = slot.join(HOST);
        let mut journal = Journal::read(&git_dir).map_err(|why| GitError::NoWorktree { slot: slot.to_owned(), why })?;
        remount(slot, &mut journal, &git.trash())?;
        let mirror = git.mirror(&journal.remote);
        let index = journal.base_dir.as_deref().map_or_else(|| git_dir.join("index"), |dir| Base::at(dir).index());
        let checkout = Checkout {
            git_dir,
            tree: slot.join(TREE),
            index,
            objects: mirror.objects(),
            base: journal.base.clone(),
            durability: Durability::Later,
        };
        checkout.obey_attributes();
        Ok(Self::new(mirror, slot, checkout, journal))
    }

    /// The same, of which nothing at or below these paths of the tree is committed or salvaged: what somebody else has put there. A commit
    /// from the layer of an overlay has nothing of what is mounted in it, and heeds no others.
    #[must_use]
    pub fn keeping_out(self, paths: Vec<PathBuf>) -> Self {
        Self { kept_out: paths, ..self }
    }

    /// What is neither committed nor salvaged, as git is told of it.
    pub(super) fn kept_out(&self) -> Vec<Vec<u8>> {
        self.kept_out.iter().map(|path| path.as_os_str().as_bytes().to_vec()).collect()
    }

    /// The directory that the job works in.
    #[must_use]
    pub fn tree(&self) -> &Path {
        &self.checkout.tree
    }

    /// The commit that it was made from.
    #[must_use]
    pub fn base(&self) -> &ObjectId {
        &self.journal.base
    }

    /// The name of the branch that the job's view is on.
    #[must_use]
    pub fn branch(&self) -> &str {
        &self.journal.branch
    }

    /// The directories of objects that the job's views borrow: of its own, and of those of its submodules.
    #[must_use]
    pub fn borrowed_objects(&self) -> Vec<PathBuf> {
        let mut found = vec![self.checkout.objects.clone()];
        let mut ahead: Vec<&Submodule> = self.journal.submodules.iter().collect();
        while let Some(submodule) = ahead.pop() {
            if let Some(source) = &submodule.source {
                found.push(self.mirror.git.mirror(&source.remote).objects());
                ahead.extend(&source.submodules);
            }
        }
        found.sort();
        found.dedup();
        found
    }

    /// Where it came from.
    #[must_use]
    pub fn remote(&self) -> &Remote {
        &self.mirror.remote
    }

    /// The place that it is in.
    pub(super) fn slot(&self) -> &Path {
        &self.slot
    }

    /// Makes sure that the tree is the very directory that was provisioned, and not a link to another.
    pub(super) fn check_tree(&self) -> Result<(), GitError> {
        if Identity::of(self.tree()) == Some(self.journal.identity) {
            return Ok(());
        }
        let why = "the job removed its worktree or put something else in its place".to_owned();
        Err(GitError::Refused { path: ".".to_owned(), why })
    }

    /// The base checkout that it is an overlay over; none where it is a checkout of its own.
    #[must_use]
    pub fn base_dir(&self) -> Option<&Path> {
        self.journal.base_dir.as_deref()
    }

    /// Moves the worktree into the trash; what is uncommitted is to be salvaged before. It takes two renames, whatever the
    /// size and whatever the rights inside; emptying the trash is somebody else's duty.
    ///
    /// # Errors
    /// A rename that fails. A worktree that was half moved is no worktree any more, and the next provision moves the rest.
    pub async fn discard(self, trash: &Path) -> Result<(), GitError> {
        release(&self.slot)?;
        // The journal goes first, with the host's side: a tree without it is nobody's.
        for part in PARTS {
            let path = self.slot.join(part);
            // The place of a mount is empty without it.
            if self.journal.base_dir.is_some() && fs::remove_dir(&path).is_ok() {
                continue;
            }
            if path.symlink_metadata().is_ok() {
                move_to_trash(&path, trash)?;
            }
        }
        tracing::debug!(slot = %self.slot.display(), "worktree discarded");
        Ok(())
    }
}

/// Renames `path` into the trash.
pub(super) fn move_to_trash(path: &Path, trash: &Path) -> Result<(), GitError> {
    let place = trash_place(path, trash)?;
    move_away(path, &place).map_err(io_error("move to the trash", path))
}

/// A name for `path` in the trash that nothing there has.
pub(super) fn trash_place(path: &Path, trash: &Path) -> Result<PathBuf, GitError> {
    fs::create_dir_all(trash).map_err(io_error("create", trash))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    Ok(trash.join(format!("{}-{name}", uuid::Uuid::now_v7().simple())))
}
