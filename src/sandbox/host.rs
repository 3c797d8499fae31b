//! Starting a supervisor as a process of this host.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::unistd::geteuid;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::client::{Mood, Supervisor};
use super::error::SandboxError;
use super::supervisor::{EXIT_TAKEN, SUBCOMMAND};

/// How long another daemon's launch, or the end of an earlier supervisor, is waited for.
const LAUNCH_WITHIN: Duration = Duration::from_secs(130);
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(10);

/// What a supervisor is started with.
#[derive(Debug, Clone)]
pub struct Launch {
    /// This executable. `/proc/self/exe` is best: it stays right when the file was replaced by an upgrade.
    pub executable: PathBuf,
    /// Its directory, one per slot. It is made when missing, with access for its owner only.
    pub dir: PathBuf,
    /// Whose it is, to be seen from outside.
    pub mark: Mark,
    /// How long its daemon may stay silent before it ends the job and itself.
    pub orphan_after: Duration,
}

/// Proof of ownership: shown in the supervisor's command line and, as `SAWMILL_MARK`, in its environment, together with
/// a random nonce.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// The worker's name.
    pub worker: String,
    /// The slot.
    pub slot: String,
}

impl Supervisor {
    /// Starts the supervisor of a directory, or attaches to the one that lives there. Of several daemons that try this
    /// at once, one starts it and the others attach.
    ///
    /// What an earlier supervisor has left is cleared: a stale socket goes, processes of a command that it was running
    /// when it died are ended, its reports are taken over.
    ///
    /// # Errors
    /// The directory belongs to somebody else or cannot be used, the executable cannot be started, or an earlier
    /// supervisor does not come to its end.
    pub async fn launch(launch: &Launch) -> Result<Self, SandboxError> {
        prepare(&launch.dir)?;
        let give_up = Instant::now() + LAUNCH_WITHIN;
        loop {
            let mut patience = LOOK_AGAIN_AFTER;
            match Self::attach_for(&launch.dir, launch.orphan_after).await? {
                Some((supervisor, Mood::Serving)) => return Ok(supervisor),
                Some((_, Mood::Leaving)) => {}
                None => {
                    let task = launch.clone();
                    let spawned = tokio::task::spawn_blocking(move || spawn(&task)).await;
                    match spawned.map_err(|error| launch.failed(error.to_string()))?? {
                        Spawned::Ready => patience = Duration::ZERO,
                        Spawned::Taken => {}
                    }
                }
            }
            if Instant::now() >= give_up {
                return Err(launch.failed("no supervisor answers; supervisor.log there may say why".to_owned()));
            }
            sleep(patience).await;
        }
    }
}

impl Launch {
    fn failed(&self, why: String) -> SandboxError {
        SandboxError::Launch { dir: self.dir.clone(), why }
    }
}

enum Spawned {
    /// It listens.
    Ready,
    /// Another one holds the directory.
    Taken,
}

/// Starts the process and waits until it listens: the program then forks, and what was started here ends.
fn spawn(launch: &Launch) -> Result<Spawned, SandboxError> {
    let Mark { worker, slot } = &launch.mark;
    let mark = format!("worker={worker} slot={slot} nonce={}", Uuid::new_v4().simple());
    let output = Command::new(&launch.executable)
        .arg(SUBCOMMAND)
        .arg(launch.orphan_after.as_millis().to_string())
        .arg(&launch.dir)
        .arg(&mark)
        .env_clear()
        .env("SAWMILL_MARK", &mark)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .output()
        .map_err(|error| launch.failed(format!("{}: {error}", launch.executable.display())))?;
    match output.status.code() {
        Some(0) => Ok(Spawned::Ready),
        Some(code) if code == i32::from(EXIT_TAKEN) => Ok(Spawned::Taken),
        _ => Err(launch.failed(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()))),
    }
}

/// Makes the directory ours alone.
fn prepare(dir: &Path) -> Result<(), SandboxError> {
    let failed = |source: io::Error| SandboxError::Directory { path: dir.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
    let metadata = fs::symlink_metadata(dir).map_err(failed)?;
    let own = geteuid().as_raw();
    if !metadata.is_dir() || metadata.uid() != own {
        let why = format!("it is not a directory of user {own}");
        return Err(SandboxError::Foreign { dir: dir.to_owned(), why });
    }
    if metadata.mode() & 0o777 != 0o700 {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(failed)?;
    }
    Ok(())
}
