//! How worktrees come to be on this host: chosen once, and recorded with the reason.

use std::fmt;
use std::path::Path;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use super::bases::Bases;
use super::error::GitError;
use super::marks::Marks;
use super::{Git, overlay, snapshot};
use crate::janitor::Space;

/// How worktrees come to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// As overlays where this host can, else as snapshots where it can, else recycled.
    Auto,
    /// Each is an overlay over a base checkout that all at its commit share. It takes the same time whatever the size.
    Overlay,
    /// Each is a copy of a base checkout, which the filesystem makes at once and without copying a file.
    Snapshot,
    /// Each is what the slot's last job at the same repository left, brought to the next commit by difference; a checkout where
    /// nothing was left that would do.
    Recycled,
    /// Each is a checkout of its own.
    Checkout,
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Overlay => "overlay",
            Self::Snapshot => "snapshot",
            Self::Recycled => "recycled",
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
    chosen: Strategy,
    reason: String,
    /// What worktrees stand on, or are copies of, where they are overlays or snapshots.
    pub(super) bases: Option<Bases>,
}

impl Provisioner {
    /// Tries out, beside the mirrors of `git`, what this host can, as far as `asked` leaves that open; bases of an earlier boot go.
    /// `budget` is what bases may take on the disk. Blocks for some milliseconds.
    ///
    /// # Errors
    /// [`GitError::NoOverlays`] or [`GitError::NoSnapshots`] where they were asked for and cannot be had; a directory that cannot be
    /// made.
    pub fn open(git: &Git, asked: Strategy, budget: ByteSize) -> Result<Self, GitError> {
        Self::open_where(git, asked, budget, &Ok(()))
    }

    /// As [`Provisioner::open`], where it may be known already why this process cannot mount: then nothing is tried.
    ///
    /// # Errors
    /// As there.
    pub fn open_where(git: &Git, asked: Strategy, budget: ByteSize, mounting: &Mounting) -> Result<Self, GitError> {
        let bases = Bases::open(git, budget)?;
        bases.shrink_once(Space::default())?;
        let (chosen, reason) = choose(asked, bases.dir(), mounting)?;
        let bases = match chosen {
            Strategy::Overlay => Some(bases),
            Strategy::Snapshot => Some(bases.into_subvolumes()),
            Strategy::Auto | Strategy::Recycled | Strategy::Checkout => None,
        };
        Ok(Self { asked, chosen, reason, bases })
    }

    /// What was chosen: never [`Strategy::Auto`].
    #[must_use]
    pub const fn strategy(&self) -> Strategy {
        self.chosen
    }

    /// Why, in words.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// The base checkouts, where worktrees are made from some.
    #[must_use]
    pub const fn bases(&self) -> Option<&Bases> {
        self.bases.as_ref()
    }

    /// Whether worktrees are overlays that nobody sees but this worker and what it starts: not the host, nor a container.
    #[must_use]
    pub fn is_private(&self) -> bool {
        self.chosen == Strategy::Overlay && Marks::here() == Marks::User
    }

    /// The same for a worktree that others are to see too: it is recycled then where overlays are private.
    #[must_use]
    pub fn for_others(&self) -> Self {
        if !self.is_private() {
            return self.clone();
        }
        let reason = "others do not see what is mounted in a namespace of this worker's own".to_owned();
        Self { asked: self.asked, chosen: Strategy::Recycled, reason, bases: None }
    }

    /// Whether a checkout will do where what was chosen fails.
    pub(super) fn may_check_out(&self) -> bool {
        self.asked == Strategy::Auto
    }
}

/// What becomes of what was asked for, with the reason. `dir` is where bases are; where it is known that this process cannot mount, that is
/// not tried.
fn choose(asked: Strategy, dir: &Path, mounting: &Mounting) -> Result<(Strategy, String), GitError> {
    let said = || "workspace.strategy says so".to_owned();
    match asked {
        Strategy::Overlay => match overlays(dir, mounting) {
            Ok(reason) => Ok((asked, reason)),
            Err(why) => Err(GitError::NoOverlays { why }),
        },
        Strategy::Snapshot => match snapshots(dir) {
            Ok(reason) => Ok((asked, reason)),
            Err(why) => Err(GitError::NoSnapshots { why }),
        },
        Strategy::Recycled | Strategy::Checkout => Ok((asked, said())),
        Strategy::Auto => Ok(match overlays(dir, mounting) {
            Ok(reason) => (Strategy::Overlay, reason),
            Err(no_overlays) => match snapshots(dir) {
                Ok(reason) => (Strategy::Snapshot, format!("{reason}; no overlays: {no_overlays}")),
                Err(no_snapshots) => (Strategy::Recycled, format!("no overlays: {no_overlays}; no snapshots: {no_snapshots}")),
            },
        }),
    }
}

fn overlays(dir: &Path, mounting: &Mounting) -> Result<String, String> {
    mounting.clone()?;
    overlay::try_overlays(dir)?;
    let whose = if Marks::here() == Marks::User { ", in a namespace of this worker's own" } else { "" };
    Ok(format!("overlays can be mounted in {}{whose} (Linux {})", dir.display(), overlay::kernel()))
}

fn snapshots(dir: &Path) -> Result<String, String> {
    snapshot::probe(dir).map(|()| format!("subvolumes of Btrfs can be copied at once in {}", dir.display()))
}
