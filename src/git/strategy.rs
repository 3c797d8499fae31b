//! How worktrees come to be on this host: chosen once, and recorded with the reason.

use std::fmt;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use super::bases::Bases;
use super::error::GitError;
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
        let bases = Bases::open(git, budget)?;
        bases.shrink_once(0)?;
        let bases = match asked {
            Strategy::Checkout => Err("workspace.strategy says so".to_owned()),
            Strategy::Auto | Strategy::Overlay => overlay::probe(bases.dir()).map(|()| bases),
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
            Ok(bases) => format!("overlays can be mounted in {} (Linux {})", bases.dir().display(), overlay::kernel()),
            Err(why) => why.clone(),
        }
    }

    /// The base checkouts, where worktrees are overlays.
    #[must_use]
    pub fn bases(&self) -> Option<&Bases> {
        self.bases.as_ref().ok()
    }

    /// Whether a checkout will do where an overlay fails.
    pub(super) fn may_check_out(&self) -> bool {
        self.asked != Strategy::Overlay
    }
}
