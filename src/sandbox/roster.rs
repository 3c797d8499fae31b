//! The supervisors that are to hear that their daemon lives.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// The directories of a daemon's supervisors, as they come and go. All clones are the same list.
#[derive(Debug, Clone, Default)]
pub struct Roster {
    dirs: Arc<Mutex<BTreeSet<PathBuf>>>,
}

impl Roster {
    /// Adds one.
    pub fn add(&self, dir: &Path) {
        self.dirs.lock().unwrap_or_else(PoisonError::into_inner).insert(dir.to_owned());
    }

    /// Takes one off.
    pub fn remove(&self, dir: &Path) {
        self.dirs.lock().unwrap_or_else(PoisonError::into_inner).remove(dir);
    }

    /// Whether one is on it.
    #[must_use]
    pub fn has(&self, dir: &Path) -> bool {
        self.dirs.lock().unwrap_or_else(PoisonError::into_inner).contains(dir)
    }

    /// All of them now.
    #[must_use]
    pub fn all(&self) -> Vec<PathBuf> {
        self.dirs.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}
