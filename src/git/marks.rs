//! How the kernel marks in a layer what is more than a file: by which names, and what of it can be there.
//!
//! The one rule: a layer is read and mounted with the marks that it was written with, whoever does it. So they are in the
//! worktree's journal.
//!
//! Only root may set the attributes that the kernel prefers. In a namespace of a user's own it takes others, which a process
//! may set on any file that it may write. Through the mount none of them can be had: what looks like a mark is put away under another
//! name. But a job on the host may know where its layer is. So those others are believed only as far as nothing outside of the
//! layer follows from them: what they hide is hidden, and where a directory claims to come from another place in the base,
//! which the kernel does not say by them, git is to look at the merged tree.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::error::GitError;
use crate::namespace;

/// The names of the marks in a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Marks {
    /// Those that only root may set. They say where a renamed directory came from.
    #[default]
    Trusted,
    /// Those that a user may set. A directory of the base cannot be renamed.
    User,
}

impl Marks {
    /// Those of the layers that this process makes.
    #[must_use]
    pub fn here() -> Self {
        if namespace::is_private() { Self::User } else { Self::Trusted }
    }

    /// Makes sure that this process can read them in the layer of the overlay at a place: those of root only root can.
    ///
    /// # Errors
    /// It cannot.
    pub fn check_readable(self, at: &Path) -> Result<(), GitError> {
        if (self, Self::here()) == (Self::Trusted, Self::User) {
            let why = "root wrote its layer, and only root can read what is marked there".to_owned();
            return Err(GitError::Overlay { at: at.to_owned(), why });
        }
        Ok(())
    }

    /// The extended attribute of a directory that hides the one of its name in the base.
    pub(super) const fn opaque(self) -> &'static str {
        match self {
            Self::Trusted => "trusted.overlay.opaque",
            Self::User => "user.overlay.opaque",
        }
    }

    /// That of a directory that was renamed.
    pub(super) const fn redirect(self) -> &'static str {
        match self {
            Self::Trusted => "trusted.overlay.redirect",
            Self::User => "user.overlay.redirect",
        }
    }

    /// What a mount is told of them, and of what is left out: kernels differ in what they take for granted.
    pub(super) const fn options(self) -> &'static str {
        match self {
            Self::Trusted => ",volatile,redirect_dir=on,metacopy=off,index=off",
            Self::User => ",volatile,userxattr,metacopy=off,index=off",
        }
    }
}
