//! Who a worker is: one name and one state directory, of which one daemon at a time is the master.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use nix::fcntl::{Flock, FlockArg};

use crate::ids::{ClaimToken, WorkerId};
use crate::janitor::{Master, Process, host_name};
use crate::workspace::StateDir;

/// The right to use a state directory, for as long as this lives.
#[derive(Debug)]
pub(super) struct Identity {
    id: WorkerId,
    /// The daemon that had the directory before.
    before: Option<Process>,
    _lock: Flock<File>,
}

/// A look at a state directory, of which nobody becomes the master meanwhile where it has none.
#[derive(Debug)]
pub(super) struct Visit {
    pub(super) master: Master,
    _lock: Option<Flock<File>>,
}

/// Why a state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Another daemon uses it.
    #[error("another worker uses the state directory {0}; give each worker its own worker.state_dir")]
    InUse(PathBuf),
    /// It cannot be used.
    #[error("cannot use the state directory {path}")]
    Io {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl Identity {
    /// Takes the directory, and the name that is kept in it: `configured`, or one made the first time.
    pub(super) fn take(state: &StateDir, configured: &str) -> Result<Self, IdentityError> {
        let failed = |source| IdentityError::Io { path: state.root().to_owned(), source };
        let file = open_lock(state).map_err(failed)?;
        let mut lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
            nix::errno::Errno::EWOULDBLOCK => IdentityError::InUse(state.root().to_owned()),
            other => failed(other.into()),
        })?;
        let mut text = String::new();
        let before = lock.read_to_string(&mut text).ok().and_then(|_| serde_json::from_str(&text).ok());
        // For who finds the directory without a daemon: which one to prove dead. On a full disk an earlier name is as good: it is
        // that of one that is dead, too, whenever the lock can be had.
        let own = serde_json::to_vec(&Process::own()).map_err(|error| failed(error.into()))?;
        // Over what is there, for which there is room.
        if let Err(error) = lock.rewind().and_then(|()| lock.write_all(&own)).and_then(|()| lock.set_len(own.len() as u64)) {
            tracing::warn!("cannot write this daemon's name into {}: {error}", state.root().join("lock").display());
        }
        let id = if configured.is_empty() { kept_name(state).map_err(failed)? } else { configured.to_owned() };
        Ok(Self { id: WorkerId::new(id), before, _lock: lock })
    }

    /// The daemon that had the directory before, as far as it could leave its name.
    pub(super) const fn before(&self) -> Option<&Process> {
        self.before.as_ref()
    }

    pub(super) fn id(&self) -> &WorkerId {
        &self.id
    }
}

impl Visit {
    /// Looks whose the directory is. Where it is nobody's, its lock is held until this goes.
    pub(super) fn pay(state: &StateDir) -> Result<Self, IdentityError> {
        let failed = |source| IdentityError::Io { path: state.root().to_owned(), source };
        let mut file = open_lock(state).map_err(failed)?;
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(failed)?;
        let last: Option<Process> = serde_json::from_str(&text).ok();
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self { master: Master::Visitor(last), _lock: Some(lock) }),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(Self { master: Master::Another(last), _lock: None }),
            Err((_, other)) => Err(failed(other.into())),
        }
    }
}

/// The name of the worker of a state directory, where it has one.
#[must_use]
pub fn name_of(state: &StateDir, configured: &str) -> Option<WorkerId> {
    if !configured.is_empty() {
        return Some(WorkerId::new(configured));
    }
    let kept = fs::read_to_string(state.root().join("name")).ok()?;
    Some(kept.trim()).filter(|name| !name.is_empty()).map(WorkerId::new)
}

fn open_lock(state: &StateDir) -> io::Result<File> {
    let path = state.root().join("lock");
    OpenOptions::new().create(true).truncate(false).read(true).write(true).mode(0o600).open(path)
}

fn kept_name(state: &StateDir) -> io::Result<String> {
    let path = state.root().join("name");
    match fs::read_to_string(&path) {
        Ok(name) if !name.trim().is_empty() => return Ok(name.trim().to_owned()),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let random = ClaimToken::generate().to_string();
    let name = format!("{}-{}", host_name(), &random[..6]);
    fs::write(&path, &name)?;
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_daemon_at_a_time_and_the_same_name_every_time() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = StateDir::create(dir.path()).expect("made");
        let first = Identity::take(&state, "").expect("free");
        let name = first.id().clone();
        assert!(matches!(Identity::take(&state, ""), Err(IdentityError::InUse(_))));
        drop(first);
        assert_eq!(Identity::take(&state, "").expect("free again").id(), &name);
        assert_eq!(Identity::take(&state, "builder-1").expect("free again").id().as_str(), "builder-1");
    }
}
