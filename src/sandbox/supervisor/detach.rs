//! Becoming a supervisor: alone in the directory, listening, and independent of who started it.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{ForkResult, chdir, dup2_stderr, dup2_stdout, setsid};

use super::super::kernel;
use super::super::protocol::SOCKET;

const LOG: &str = "supervisor.log";
/// The lock that a supervisor holds for as long as it lives, in its directory.
pub(in super::super) const LOCK: &str = "lock";

/// The log is begun anew by a supervisor that finds it larger.
const LOG_MAX: u64 = 64 * 1024;

/// Which of the two processes this is.
pub(super) enum Side {
    /// The one that was started; it ends now, and its success says that the other one listens.
    Starter,
    Supervisor(Post),
}

/// What a supervisor holds for its whole life.
pub(super) struct Post {
    pub(super) listener: UnixListener,
    pub(super) signals: SignalFd,
    pub(super) orphan_after: Duration,
    /// Proves to others that this directory has a living supervisor.
    pub(super) lock: Flock<File>,
    /// Whom it starts commands as, where that is not whom it acts as itself.
    pub(super) user: Option<User>,
}

/// A user of the host, by numbers: there may be no name for it where the supervisor runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct User {
    pub(in super::super) uid: u32,
    pub(in super::super) gid: u32,
}

/// Why there is no supervisor now.
#[derive(Debug, thiserror::Error)]
pub(super) enum DetachError {
    #[error("cannot read the supervisor's arguments")]
    Arguments,
    #[error("another supervisor has the directory")]
    Taken,
    #[error("cannot {what}: {source}")]
    System { what: &'static str, source: io::Error },
}

/// Takes the directory and listens; only then forks, so that the starter's exit is the sign of readiness.
pub(super) fn detach(args: impl Iterator<Item = OsString>) -> Result<Side, DetachError> {
    kernel::close_inherited();
    let failed = |what| move |source: io::Error| DetachError::System { what, source };
    let [orphan_after_ms, dir, _mark] = args.collect::<Vec<_>>().try_into().map_err(|_| DetachError::Arguments)?;
    let orphan_after_ms = orphan_after_ms.to_str().and_then(|text| text.parse().ok()).ok_or(DetachError::Arguments)?;
    umask(Mode::S_IRWXG | Mode::S_IRWXO);
    // Everything below is named relative to it, because a socket's address is short and a state directory may be deep.
    chdir(Path::new(&dir)).map_err(|error| failed("enter the supervisor's directory")(error.into()))?;
    let lock = take_lock()?;
    let listener = listen().map_err(failed("listen on the supervisor's socket"))?;
    let log = open_log().map_err(failed("open the supervisor's log"))?;
    let signals = take_signals().map_err(failed("take signals over"))?;
    match kernel::fork().map_err(|error| failed("fork")(error.into()))? {
        ForkResult::Parent { .. } => {
            // The lock belongs to both processes until one unlocks it; dropping it here would do that for the child.
            std::mem::forget(lock);
            Ok(Side::Starter)
        }
        ForkResult::Child => {
            stand_alone(&log).map_err(failed("leave the starter's session"))?;
            Ok(Side::Supervisor(Post {
                listener,
                signals,
                orphan_after: Duration::from_millis(orphan_after_ms),
                lock,
                user: None,
            }))
        }
    }
}

pub(super) fn take_lock() -> Result<Flock<File>, DetachError> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(LOCK);
    let file = file.map_err(|source| DetachError::System { what: "open the directory's lock", source })?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| match error {
        nix::errno::Errno::EWOULDBLOCK => DetachError::Taken,
        error => DetachError::System { what: "lock the directory", source: error.into() },
    })
}

/// A socket that is there belongs to a dead supervisor, because we hold the lock.
pub(super) fn listen() -> io::Result<UnixListener> {
    match fs::remove_file(SOCKET) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(SOCKET)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

pub(super) fn open_log() -> io::Result<OwnedFd> {
    let large = fs::metadata(LOG).is_ok_and(|metadata| metadata.len() > LOG_MAX);
    if large {
        fs::remove_file(LOG)?;
    }
    OpenOptions::new().create(true).append(true).open(LOG).map(OwnedFd::from)
}

/// From here on signals are read and not delivered.
pub(super) fn take_signals() -> io::Result<SignalFd> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block()?;
    Ok(SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

fn stand_alone(log: &OwnedFd) -> io::Result<()> {
    setsid()?;
    // The starter's standard error is the launching daemon's pipe, which waits for it to be closed.
    dup2_stderr(log)?;
    dup2_stdout(log)?;
    prctl::set_child_subreaper(true)?;
    prctl::set_name(c"sawmill-sup")?;
    // Only the privileged may ask to be spared; for others the kernel still takes the job first, by its higher score.
    fs::write("/proc/self/oom_score_adj", "-500").ok();
    Ok(())
}
