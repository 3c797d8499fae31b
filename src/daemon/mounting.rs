//! Making a process ready to mount overlays: root may, and another user may in a namespace of his own.
//!
//! The one rule: whoever works in a state directory is where its supervisors are. They and their jobs see the mounts of the
//! namespace that they were started in, and keep them when the daemon dies; so the next one joins them there. Where there are none, a
//! namespace is made, if worktrees are to be overlays and a process that tries it first says that it can be done.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::unistd::geteuid;

use super::composition::executable;
use crate::config::Config;
use crate::git::{self, Mounting, Strategy};
use crate::namespace;
use crate::sandbox;
use crate::workspace::StateDir;

/// The hidden subcommand that tries whether overlays can be mounted in a namespace of one's own.
pub const TRY_SUBCOMMAND: &str = "__try-overlays";

/// Makes this process ready to mount in its state directory, as far as that is possible and wanted. Call it while there is one thread.
pub fn make_ready(config: &Config) -> Mounting {
    if geteuid().is_root() {
        return Ok(());
    }
    let dir = &config.worker.state_dir;
    // Supervisors know it by its real name; where it is not there yet, there are none.
    let supervisors = dir.canonicalize().map(|dir| sandbox::supervisors(&dir)).unwrap_or_default();
    if let Some(outside) = supervisors.iter().find(|one| namespace::is_shared_with(one.pid()) == Some(true)) {
        return Err(format!(
            "a supervisor of this worker (process {}) was started without a namespace of its own; start the worker again once it has ended",
            outside.pid()
        ));
    }
    if let Some(one) = supervisors.first() {
        let joined = namespace::join(one.pid(), || one.lives());
        return joined.map_err(|error| format!("the namespace of supervisor {} cannot be entered: {error}", one.pid()));
    }
    if !matches!(config.workspace.strategy, Strategy::Auto | Strategy::Overlay) {
        return Ok(());
    }
    try_apart(dir)?;
    namespace::enter()
}

/// Has a process try it that ends afterwards: a namespace cannot be left again, and some things do not work in it.
fn try_apart(dir: &Path) -> Mounting {
    let tried = executable().map_err(io::Error::other).and_then(|program| {
        Command::new(program).arg(TRY_SUBCOMMAND).arg(dir).stdin(Stdio::null()).stdout(Stdio::null()).output()
    });
    let tried = tried.map_err(|error| format!("overlays cannot be tried: {error}"))?;
    if tried.status.success() {
        return Ok(());
    }
    match String::from_utf8_lossy(&tried.stderr).trim() {
        "" => Err(format!("overlays cannot be tried: {}", tried.status)),
        why => Err(why.to_owned()),
    }
}

/// Tries it in a state directory, which follows [`TRY_SUBCOMMAND`]. The process is to end then, and to say the error on its standard
/// error.
///
/// # Errors
/// A sentence that says why it cannot be done.
pub fn try_mounting(dir: Option<OsString>) -> Mounting {
    let dir = dir.ok_or("no state directory was named")?;
    let state = StateDir::create(Path::new(&dir)).map_err(|error| error.to_string())?;
    namespace::enter()?;
    git::try_overlays(&state.bases())
}
