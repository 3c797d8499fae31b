//! Supervisors, and processes of their commands, that nobody asks for any more: found in `/proc`, known by number and start time.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::geteuid;
use tokio::time::sleep;

use super::client::Supervisor;
use super::error::SandboxError;
use super::kernel;
use super::ledger::{ProcessName, boot_id, running};
use super::protocol::SOCKET;
use super::supervisor::{COMMAND, LOCK, SUBCOMMAND, descendants};
use crate::janitor::{Explained, Kind, Owned, Owner};
use crate::process_stat::pids;

/// How long a supervisor that said that it leaves may take.
const GONE_WITHIN: Duration = Duration::from_secs(5);
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(2);

/// A supervisor's process, as its command line tells.
struct Living {
    name: ProcessName,
    dir: PathBuf,
    mark: String,
}

/// The supervisors below a state directory, the processes that dead ones left in `dirs`, and sockets there at which nobody listens;
/// each with what explains it. Blocks for some milliseconds.
#[must_use]
pub fn leftovers(state: &Path, dirs: &[PathBuf], explained: &Explained) -> Vec<Owned> {
    let owned = |kind, name, lease| Owned { kind, name, owner: Owner::Directory, lease, bytes: None };
    let living = living(state);
    let supervisors = living.iter().map(|Living { name, dir, .. }| {
        let lease = explained.of(dir, "no slot in use has this supervisor");
        owned(Kind::Process, format!("{} supervisor of {}", id(*name), dir.display()), lease)
    });
    let strays = dirs.iter().flat_map(|dir| {
        strays(dir).into_iter().map(move |(name, command)| {
            let lease = explained.of(dir, "its supervisor has died, and so will have its command");
            owned(Kind::Process, format!("{} of command {command} in {}", id(name), dir.display()), lease)
        })
    });
    let sockets = dirs.iter().map(|dir| dir.join(SOCKET)).filter(|socket| socket.exists() && !is_supervised(socket));
    let sockets = sockets.map(|socket| {
        let lease = explained.of(&socket, "nobody listens at it");
        owned(Kind::Socket, socket.display().to_string(), lease)
    });
    supervisors.chain(strays).chain(sockets).collect()
}

/// A supervisor's process, by number and start time.
#[derive(Debug, Clone, Copy)]
pub struct SupervisorProcess {
    name: ProcessName,
}

impl SupervisorProcess {
    /// Its number.
    #[must_use]
    pub const fn pid(&self) -> i32 {
        self.name.pid
    }

    /// Whether it is this very process that has the number.
    #[must_use]
    pub fn lives(&self) -> bool {
        descendants::is(self.name)
    }
}

/// The supervisors below a state directory that this user started, and that are in this process's namespace of users or in one that
/// was made in it. A job can give itself any command line, but no namespace but one within that of its own supervisor.
#[must_use]
pub fn supervisors(state: &Path) -> Vec<SupervisorProcess> {
    let own = geteuid().as_raw();
    let is_ours = |pid: i32| fs::metadata(format!("/proc/{pid}")).is_ok_and(|about| about.uid() == own) && is_near(pid);
    let names = living(state).into_iter().map(|found| found.name).filter(|name| is_ours(name.pid));
    names.map(|name| SupervisorProcess { name }).collect()
}

/// Whether a process is in our namespace of users, or in one that was made there.
fn is_near(pid: i32) -> bool {
    let id = |about: fs::Metadata| (about.dev(), about.ino());
    let Ok(theirs) = File::open(format!("/proc/{pid}/ns/user")) else { return false };
    let Ok(ours) = fs::metadata("/proc/self/ns/user").map(id) else { return false };
    let parent = kernel::parent_of(&theirs).ok().and_then(|parent| File::from(parent).metadata().ok());
    [theirs.metadata().ok(), parent].into_iter().flatten().any(|about| id(about) == ours)
}

/// Ends a process that [`leftovers`] listed, with all that descends from it, or removes such a socket. One that is gone is fine.
///
/// # Errors
/// It could not be ended.
pub async fn remove_left(state: &Path, owned: &Owned) -> Result<(), SandboxError> {
    if owned.kind == Kind::Socket {
        return remove_socket(PathBuf::from(&owned.name));
    }
    let Some(name) = parse(&owned.name) else { return Ok(()) };
    let supervisor = living(state).into_iter().find(|one| one.name == name);
    if let Some(Living { dir, .. }) = &supervisor
        && let Ok(Some(reached)) = Supervisor::attach(dir).await
    {
        reached.shutdown().await?;
        // Its last act is to close its connections; its lock goes with it.
        let begun = Instant::now();
        while is_supervised(&dir.join(SOCKET)) && begun.elapsed() < GONE_WITHIN {
            sleep(LOOK_AGAIN_AFTER).await;
        }
        return remove_socket(dir.join(SOCKET));
    }
    // One whose directory is gone, or that is dead itself.
    let (_, rest) = owned.name.rsplit_once(" in ").unwrap_or_default();
    let mark = match (&supervisor, running(Path::new(rest))) {
        (Some(living), _) => format!("SAWMILL_MARK={}", living.mark),
        (None, Some(running)) => format!("{COMMAND}={}", running.id),
        // It has ended, and its command is on record as lost.
        (None, None) => return Ok(()),
    };
    let ended = tokio::task::spawn_blocking(move || descendants::end_foreign(&[name], &mark)).await;
    match ended {
        Ok(true) => Ok(()),
        _ => Err(SandboxError::Silent { asked: "end a process that was left", dir: rest.into() }),
    }
}

/// Removes a socket, unless somebody listens at it by now.
fn remove_socket(path: PathBuf) -> Result<(), SandboxError> {
    if is_supervised(&path) {
        return Ok(());
    }
    match fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(SandboxError::Directory { path, source }),
        _ => Ok(()),
    }
}

fn id(name: ProcessName) -> String {
    format!("{}:{}", name.pid, name.began)
}

fn parse(text: &str) -> Option<ProcessName> {
    let (pid, began) = text.split_once(' ')?.0.split_once(':')?;
    Some(ProcessName { pid: pid.parse().ok()?, began: began.parse().ok()? })
}

/// All supervisors on this host whose directory is, or was, below the state directory.
fn living(state: &Path) -> Vec<Living> {
    let found = pids().filter_map(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let words: Vec<String> = line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        let [_, subcommand, _, dir, mark, ..] = words.as_slice() else { return None };
        let dir = PathBuf::from(dir);
        (subcommand == SUBCOMMAND && dir.starts_with(state)).then_some(())?;
        Some(Living { name: descendants::name_of(pid)?, dir, mark: mark.clone() })
    });
    found.collect()
}

/// The living processes of a command that ran when the supervisor of this directory died.
fn strays(dir: &Path) -> Vec<(ProcessName, String)> {
    let Some(running) = running(dir).filter(|_| !is_supervised(&dir.join(SOCKET))) else { return Vec::new() };
    if boot_id().ok().as_ref() != Some(&running.boot_id) {
        return Vec::new();
    }
    let living = running.processes.into_iter().filter(|name| descendants::is(*name));
    living.map(|name| (name, running.id.clone())).collect()
}

/// Whether a supervisor holds the lock of the directory that a socket is in.
fn is_supervised(socket: &Path) -> bool {
    let Ok(file) = File::open(socket.with_file_name(LOCK)) else { return false };
    Flock::lock(file, FlockArg::LockExclusiveNonblock).is_err()
}
