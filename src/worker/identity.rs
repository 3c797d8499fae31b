//! Who a worker is: one name and one state directory, of which one daemon at a time is the master.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use nix::fcntl::{Flock, FlockArg};

use crate::ids::{ClaimToken, WorkerId};
use crate::workspace::StateDir;

/// The right to use a state directory, for as long as this lives.
#[derive(Debug)]
pub(super) struct Identity {
    id: WorkerId,
    _lock: Flock<File>,
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
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(state.root().join("lock"))
            .map_err(failed)?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
            nix::errno::Errno::EWOULDBLOCK => IdentityError::InUse(state.root().to_owned()),
            other => failed(other.into()),
        })?;
        let id = if configured.is_empty() { kept_name(state).map_err(failed)? } else { configured.to_owned() };
        Ok(Self { id: WorkerId::new(id), _lock: lock })
    }

    pub(super) fn id(&self) -> &WorkerId {
        &self.id
    }
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

/// The host's name, for people.
pub(super) fn host_name() -> String {
    nix::unistd::gethostname().map_or_else(|_| "host".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// What tells one boot of this host from another, where the system says.
pub(super) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map_or_else(|_| String::new(), |text| text.trim().to_owned())
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
