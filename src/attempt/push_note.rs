//! What is on disk of a push, from before it is begun until it is known to be delivered or is taken back: whatever becomes of the daemon and
//! of the slot, it is found.
//!
//! The one rule: it is there before the remote can have the commit. Like a journal it need not outlive the host.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tracing::warn;

use super::halt::Halt;
use super::open::Attempt;
use crate::ids::ObjectId;
use crate::job::{BranchName, Claim};
use crate::workspace::StateDir;

/// A commit that an attempt pushes, and where.
#[derive(PartialEq, Serialize, Deserialize)]
pub(super) struct Note {
    pub(super) claim: Claim,
    /// With whatever secret the address has.
    pub(super) repo: String,
    pub(super) branch: BranchName,
    pub(super) commit: ObjectId,
}

impl Note {
    fn of(attempt: &Attempt, commit: &ObjectId) -> Self {
        let (claim, job) = (attempt.claimed.claim.clone(), &attempt.claimed.job);
        Self { claim, repo: job.repo.clone(), branch: job.branch.clone(), commit: commit.clone() }
    }

    /// Where that of an attempt is.
    pub(super) fn path(state: &StateDir, claim: &Claim) -> PathBuf {
        state.pushes().join(format!("{}-{}.json", claim.job, claim.attempt))
    }

    /// Nobody but its attempt reads it before that is over; a half one was left before the push was begun.
    fn write(&self, path: &Path) -> io::Result<()> {
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        Ok(serde_json::to_writer(file, self)?)
    }

    /// Nothing where there is none.
    pub(super) fn read(path: &Path) -> io::Result<Option<Self>> {
        match fs::read(path) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Writes down that the attempt is about to push this commit.
pub(super) fn announce(attempt: &Attempt, commit: &ObjectId) -> Result<(), Halt> {
    let (path, note) = (Note::path(&attempt.tools.state, &attempt.claimed.claim), Note::of(attempt, commit));
    // A daemon before this one may have pushed it already: that is not to be forgotten while it is written anew.
    if Note::read(&path).is_ok_and(|found| found.as_ref() == Some(&note)) {
        return Ok(());
    }
    let failed = |error| Halt::infrastructure(&format!("cannot write down in {} what is pushed", path.display()), &error);
    note.write(&path).map_err(failed)
}

/// Removes one that nothing is to follow from any more.
pub(super) fn forget(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => warn!("cannot remove {}: {error}", path.display()),
        _ => {}
    }
}
