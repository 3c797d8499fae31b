//! The tests that need the whole machine go one after the other, within one process and between processes.

use std::fs::File;
use std::path::Path;

use nix::fcntl::{Flock, FlockArg};

/// The right to use the machine up, for as long as this lives.
pub(crate) struct Alone {
    _lock: Flock<File>,
}

impl Alone {
    /// Waits for those that have it.
    pub(crate) async fn on_this_machine() -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("heavy-tests.lock");
        let locked = tokio::task::spawn_blocking(move || {
            let file = File::create(&path).expect("a lock file");
            Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error).expect("locked")
        });
        Self { _lock: locked.await.expect("locked") }
    }
}
