//! Trying a container out beside a worker: in a directory of its own within the worker's, with the name of who does in it.
//!
//! The one rule: who is killed meanwhile leaves what is found by that, and goes once it is proven that they have ended.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::janitor::Process;

const PREFIX: &str = "doctor-";
const OWNER: &str = "owner.json";

/// A directory for as long as a container is tried out.
#[derive(Debug)]
pub struct Visit {
    dir: TempDir,
    path: PathBuf,
}

impl Visit {
    /// Begins one in a worker's state directory, which is there.
    ///
    /// # Errors
    /// What the system says.
    pub fn begin(state: &Path) -> io::Result<Self> {
        let dir = tempfile::Builder::new().prefix(PREFIX).tempdir_in(state)?;
        fs::write(dir.path().join(OWNER), serde_json::to_vec(&Process::own())?)?;
        // Labels and mounts name it as the engine does.
        let path = dir.path().canonicalize()?;
        Ok(Self { dir, path })
    }

    /// Its directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Ends it: nothing of it is left.
    ///
    /// # Errors
    /// What the system says.
    pub fn end(self) -> io::Result<()> {
        self.dir.close()
    }
}

/// The directories of visits to a state directory, each with who made it where that is written in it.
pub(super) fn visits(state: &Path) -> Vec<(PathBuf, Option<Process>)> {
    let entries = fs::read_dir(state).into_iter().flatten().flatten();
    let named = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX)).map(|entry| entry.path());
    let owner = |dir: &Path| serde_json::from_slice(&fs::read(dir.join(OWNER)).ok()?).ok();
    named.filter(|path| path.is_dir()).map(|dir| (dir.clone(), owner(&dir))).collect()
}
