//! Files by which jobs tell their test something, wherever they run.

use std::fs;
use std::path::{Path, PathBuf};

/// A file that a job makes.
pub(crate) enum Mark {
    /// On the host, at this path.
    Outside(PathBuf),
    /// In what a job sees of its slot, below this directory of workers. It goes with the job.
    Inside { workers: PathBuf, name: String },
}

impl Mark {
    /// The path by which the job knows it.
    pub(crate) fn here(&self) -> String {
        match self {
            Self::Outside(path) => path.to_str().expect("UTF-8").to_owned(),
            Self::Inside { name, .. } => format!("/workspace/{name}"),
        }
    }

    /// The file, where it has been made.
    pub(crate) fn made(&self) -> Option<PathBuf> {
        match self {
            Self::Outside(path) => path.exists().then(|| path.clone()),
            Self::Inside { workers, name } => in_a_slot(workers, name),
        }
    }
}

/// The first file of this name in what jobs and gates see of the slots of these workers.
pub(super) fn in_a_slot(workers: &Path, name: &str) -> Option<PathBuf> {
    let dirs = |path: &Path| fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let slots = dirs(workers).flat_map(|worker| dirs(&worker.join("slots")).collect::<Vec<_>>());
    // What a gate sees is another directory than what its job saw.
    let seen = slots.flat_map(|slot| [slot.join("job"), slot.join("gates/job")]);
    seen.map(|job| job.join(name)).find(|path| path.exists())
}
