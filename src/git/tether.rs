//! The tether: a process between a daemon and a git command that talks to a remote, which ends the command with its daemon.
//!
//! The one rule: the tether and everything under it are one process group, so that one signal ends it all: git, its
//! transports and, for a remote on this host, what serves it. A parent-death signal for git itself would leave those behind,
//! and a transport whose server does not answer never learns that its git is gone.
//!
//! They are asked before they are killed: what serves a remote holds locks there, which it removes when it is asked, and which
//! nobody else may remove. Whoever wants the end sends SIGTERM to the whole group, in which the tether alone stays, for what does
//! not obey.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode, ExitStatus};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpgrp, getppid, setpgid};

/// The hidden subcommand that is a tether.
pub const TETHER_SUBCOMMAND: &str = "__tether";

/// The exit status where the command could not be started or waited for, as shells have it.
const CANNOT_RUN: u8 = 126;

/// How long what was asked to end has for it: to remove a few files, on a host that may be busy.
const GRACE: Duration = Duration::from_secs(5);
/// How often it is looked whether it has.
const LOOK: Duration = Duration::from_millis(5);

/// Runs a command as long as the parent lives: `args` are the parent's process id, the program and its arguments. The exit
/// status is the command's, or 128 and the signal that ended it.
#[must_use]
pub fn tether(mut args: impl Iterator<Item = OsString>) -> ExitCode {
    let parent = args.next().and_then(|pid| pid.to_str()?.parse().ok()).map(Pid::from_raw);
    let (Some(parent), Some(program)) = (parent, args.next()) else { return ExitCode::from(CANNOT_RUN) };
    let mut command = Command::new(&program);
    command.args(args);
    match hold(parent, &mut command) {
        Ok(status) => ExitCode::from(exit_code(status)),
        Err(error) => {
            // Read by the parent with git's own complaints; where it cannot be said, the status has to do.
            drop(writeln!(io::stderr(), "fatal: cannot run {}: {error}", program.display()));
            ExitCode::from(CANNOT_RUN)
        }
    }
}

fn hold(parent: Pid, command: &mut Command) -> io::Result<ExitStatus> {
    // It is one already where our parent has seen to it.
    setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
    // What loses its own parent becomes our child, so that we know when everybody has ended.
    prctl::set_child_subreaper(true)?;
    // Before the signals are blocked, which the command would inherit. A SIGTERM to the group until then ends us all.
    let mut child = command.spawn()?;
    let mut awaited = SigSet::empty();
    awaited.add(Signal::SIGTERM);
    awaited.add(Signal::SIGCHLD);
    awaited.thread_block()?;
    // It says no more than to look again: it also comes when only the thread ends that started us.
    prctl::set_pdeathsig(Signal::SIGCHLD)?;
    loop {
        // A parent that was gone before the signal was asked for sends none.
        if getppid() != parent {
            return end_all();
        }
        // What ended before the signals were blocked sends none either.
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        // Of several that wait, SIGTERM comes first.
        if awaited.wait()? == Signal::SIGTERM {
            return end_all();
        }
    }
}

/// Asks the group to end, and kills what is left of it when everybody has ended or the time is over: this process too.
fn end_all() -> io::Result<ExitStatus> {
    killpg(getpgrp(), Signal::SIGTERM)?;
    let until = Instant::now() + GRACE;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Err(Errno::ECHILD) => break,
            Err(error) => return Err(error.into()),
            Ok(WaitStatus::StillAlive) if Instant::now() > until => break,
            // Nothing waits for a child and a time at once without code that is not safe.
            Ok(WaitStatus::StillAlive) => std::thread::sleep(LOOK),
            Ok(_) => {}
        }
    }
    killpg(getpgrp(), Signal::SIGKILL)?;
    Err(io::Error::other("a process that was killed goes on"))
}

fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    u8::try_from(code).unwrap_or(CANNOT_RUN)
}
