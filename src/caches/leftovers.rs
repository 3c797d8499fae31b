//! What daemons that were killed had not saved to the end.
//!
//! The one rule: a directory that is made under a lock is nobody's only while that lock is free.

use std::fs::{File, OpenOptions};
use std::path::Path;

use nix::fcntl::{Flock, FlockArg};

use super::error::CacheError;
use super::shelf::{LOCK, NEW, Shelf, begins, hidden};
use crate::janitor::{Kind, Lease, Owned, Owner, measure};

/// How many files of something unfinished are counted.
const ENTRIES_MAX: u64 = 20_000;

impl Shelf {
    /// All of it, each with whether somebody may be at it. Blocks.
    #[must_use]
    pub fn leftovers(&self) -> Vec<Owned> {
        let paths = self.path_dirs().unwrap_or_default();
        let left = paths.iter().flat_map(|path| hidden(path)).filter(|path| begins(path, NEW));
        let owned = left.map(|path| Owned {
            lease: match File::open(path.with_file_name(LOCK)).map(|file| Flock::lock(file, FlockArg::LockExclusiveNonblock)) {
                Ok(Err(_)) => Lease::Held("a cache is being saved there".to_owned()),
                _ => Lease::Over("it is not whole, and nobody holds the lock under which it was made".to_owned()),
            },
            kind: Kind::Unfinished,
            name: path.display().to_string(),
            owner: Owner::Directory,
            bytes: Some(measure(&path, ENTRIES_MAX).bytes),
        });
        owned.collect()
    }

    /// Whether a thing is one of those that [`Shelf::leftovers`] lists.
    #[must_use]
    pub fn owns(&self, owned: &Owned) -> bool {
        owned.kind == Kind::Unfinished && Path::new(&owned.name).starts_with(&self.dir)
    }

    /// Removes what [`Shelf::leftovers`] listed; one that is being made by now is left. Blocks.
    ///
    /// # Errors
    /// What the system says.
    pub fn remove_left(&self, owned: &Owned) -> Result<(), CacheError> {
        let path = Path::new(&owned.name);
        let Ok(file) = OpenOptions::new().write(true).open(path.with_file_name(LOCK)) else { return self.discard(path) };
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(_alone) => self.discard(path),
            Err(_) => Ok(()),
        }
    }
}
