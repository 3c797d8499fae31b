//! How worktrees come to be on this host: chosen once, and recorded with the reason.

use std::fmt;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use super::bases::Bases;
use super::error::GitError;
use super::marks::Marks;
use super::{Git, overlay};

/// How worktrees come to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// As overlays where this host can, else as checkouts.
    Auto,
    /// Each is an overlay over a base checkout that all at its commit share. It takes the same time whatever the size.
    Overlay,
    /// Each is a checkout of its own.
    Checkout,
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Overlay => "overlay",
            Self::Checkout => "checkout",
        })
    }
}

/// Whether this process was made ready to mount; else why it could not be, as a sentence.
pub type Mounting = Result<(), String>;

/// What makes worktrees on this host. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Provisioner {
    asked: Strategy,
    /// Where worktrees are overlays, what they stand on; else why they are not.
    pub(super) bases: Result<Bases, String>,
}

impl Provisioner {
    /// Tries out, beside the mirrors of `git`, whether overlays can be mounted, where `asked` does not rule them out; bases of
    /// an earlier boot go. `budget` is what bases may take on the disk. Blocks for some milliseconds.
    ///
    /// # Errors
    /// [`GitError::NoOverlays`] where they were asked for and cannot be had; a directory that cannot be made.
    pub fn open(git: &Git, asked: Strategy, budget: ByteSize) -> Result<Self, GitError> {
        Self::open_where(git, asked, budget, &Ok(()))
    }

    /// As [`Provisioner::open`], where it may be known already why this process cannot mount: then nothing is tried.
    ///
    /// # Errors
    /// As there.
    pub fn open_where(git: &Git, asked: Strategy, budget: ByteSize, mounting: &Mounting) -> Result<Self, GitError> {
        let bases = Bases::open(git, budget)?;
        bases.shrink_once(0)?;
        let bases = match asked {
            Strategy::Checkout => Err("workspace.strategy says so".to_owned()),
            Strategy::Auto | Strategy::Overlay => {
                mounting.clone().and_then(|()| overlay::try_overlays(bases.dir())).map(|()| bases)
            }
        };
        match bases {
            Err(why) if asked == Strategy::Overlay => Err(GitError::NoOverlays { why }),
            bases => Ok(Self { asked, bases }),
        }
    }

    /// What was chosen: never [`Strategy::Auto`].
    #[must_use]
    pub const fn strategy(&self) -> Strategy {
        if self.bases.is_ok() { Strategy::Overlay } else { Strategy::Checkout }
    }

    /// Why, in words.
    #[must_use]
    pub fn reason(&self) -> String {
        match &self.bases {
            Ok(bases) => {
                let whose = if self.is_private() { ", in a namespace of this worker's own" } else { "" };
                format!("overlays can be mounted in {}{whose} (Linux {})", bases.dir().display(), overlay::kernel())
            }
            Err(why) => why.clone(),
        }
    }

    /// The base checkouts, where worktrees are overlays.
    #[must_use]
    pub fn bases(&self) -> Option<&Bases> {
        self.bases.as_ref().ok()
    }

    /// Whether worktrees are overlays that nobody sees but this worker and what it starts: not the host, nor a container.
    #[must_use]
    pub fn is_private(&self) -> bool {
        self.bases.is_ok() && Marks::here() == Marks::User
    }

    /// The same for a worktree that others are to see too: then it is a checkout where overlays are private.
    #[must_use]
    pub fn for_others(&self) -> Self {
        let bases = match &self.bases {
            Ok(_) if self.is_private() => Err("others do not see what is mounted in a namespace of this worker's own".to_owned()),
            bases => bases.clone(),
        };
        Self { asked: self.asked, bases }
    }

    /// Whether a checkout will do where an overlay fails.
    pub(super) fn may_check_out(&self) -> bool {
        self.asked != Strategy::Overlay
    }
}
