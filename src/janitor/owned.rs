//! Things that a worker owns, as the rooms list them.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::process::Process;

/// What sort of thing it is. The order is that in which they are removed: what holds others goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The worktree, journal and spool of an attempt, in a slot.
    Slot,
    /// A supervisor, or a process of a command whose supervisor has died.
    Process,
    /// A container.
    Container,
    /// A network of the engine's.
    Network,
    /// A volume of the engine's.
    Volume,
    /// The directory of a container's supervisor.
    ContainerDir,
    /// A socket at which nobody listens.
    Socket,
    /// A mounted overlay.
    Mount,
    /// A worktree's hold on a base.
    BaseLease,
    /// What a git, a clone, a checkout or the saving of a cache that was killed had not finished, lock files among it.
    Unfinished,
    /// A ref that Sawmill made in a mirror.
    Ref,
    /// A workspace that is kept for a person.
    Kept,
    /// A tree that waits in a slot for its next job.
    Recycled,
    /// A base checkout.
    Base,
    /// What a job saved for later ones.
    Cache,
    /// What was discarded, and is being deleted.
    Trash,
    /// A mirror.
    Mirror,
    /// An image for jobs that was built here.
    Image,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Slot => "slot",
            Self::Process => "process",
            Self::Container => "container",
            Self::Network => "network",
            Self::Volume => "volume",
            Self::ContainerDir => "container directory",
            Self::Socket => "socket",
            Self::Mount => "mount",
            Self::BaseLease => "base lease",
            Self::Unfinished => "unfinished",
            Self::Ref => "ref",
            Self::Kept => "kept workspace",
            Self::Recycled => "recycled tree",
            Self::Base => "base",
            Self::Cache => "saved cache",
            Self::Trash => "trash",
            Self::Mirror => "mirror",
            Self::Image => "image",
        })
    }
}

/// Whose a thing is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// The process that is written on it.
    Process(Process),
    /// Whichever daemon is the master of the state directory that it is in.
    Directory,
}

/// What explains that a thing is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lease {
    /// This, which lives.
    Held(String),
    /// Nothing; how that is known.
    Over(String),
    /// It cannot be told; why.
    Unknown(String),
}

/// A thing that a worker owns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owned {
    /// What sort of thing.
    pub kind: Kind,
    /// What its room finds it again by, and people too: a path, a name, a ref.
    pub name: String,
    /// Whose it is.
    pub owner: Owner,
    /// What explains it.
    pub lease: Lease,
    /// What it takes on the disk, where that is cheap to tell.
    pub bytes: Option<u64>,
}

/// The places that something explains, or may explain. Everything below such a place is explained with it.
#[derive(Debug, Clone, Default)]
pub struct Explained {
    places: BTreeMap<PathBuf, Lease>,
}

impl Explained {
    /// Notes what explains a place.
    pub fn add(&mut self, place: PathBuf, lease: Lease) {
        self.places.insert(place, lease);
    }

    /// What explains a place, or one above it; `otherwise` says why nothing does.
    #[must_use]
    pub fn of(&self, place: &Path, otherwise: &str) -> Lease {
        let found = place.ancestors().find_map(|above| self.places.get(above));
        found.cloned().unwrap_or_else(|| Lease::Over(otherwise.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_below_an_explained_place_is_explained() {
        let mut explained = Explained::default();
        explained.add("/state/slots/1".into(), Lease::Held("job 7".to_owned()));
        let check = |place: &str, expected: Lease| assert_eq!(explained.of(Path::new(place), "nobody's"), expected, "{place}");
        check("/state/slots/1/job/tree", Lease::Held("job 7".to_owned()));
        check("/state/slots/1", Lease::Held("job 7".to_owned()));
        check("/state/slots/12", Lease::Over("nobody's".to_owned()));
        check("/state/slots", Lease::Over("nobody's".to_owned()));
    }
}
