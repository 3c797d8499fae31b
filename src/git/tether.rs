//! The tether: a process between a daemon and a git command that talks to a remote, which ends the command with its daemon.
//!
//! The one rule: the tether and everything under it are one process group, so that one signal ends it all: git, its
//! transports and, for a remote on this host, what serves it. A parent-death signal for git itself would leave those behind,
//! and a transport whose server does not answer never learns that its git is gone.
//!
//! They are asked before they are killed: what serves a remote holds locks there, which it removes when it is asked, and which
//! nobody else may remove. First only our git is, as if its remote were on another host, for what serves the remote sees that git is
//! gone and comes to an end of its own: a signal at the moment at which it makes a lock leaves the lock there, because git takes note
//! of a file after it has made it. Where this daemon speaks git's half itself there is nobody to be asked first. What stays is asked
//! next, each process when it is asleep, for then it makes none; then all of it, and then it is killed. Whoever wants the end sends
//! SIGTERM to the tether.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io::{self, Write as _};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpgrp, getppid, setpgid};
use signal_hook::consts::{SIGCHLD, SIGTERM};
use signal_hook::iterator::Signals;

use crate::process_stat::{Stat, pids};

/// The hidden subcommand that is a tether.
pub const TETHER_SUBCOMMAND: &str = "__tether";

/// Which half of the talk with a remote a command is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// Ours, with our settings.
    Near,
    /// The one that serves a remote on this host, with the configuration that it finds there, as if git had started it. Git does not ask
    /// it to end; neither does the tether, at first.
    Far,
}

impl Side {
    /// How a tether is told.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Near => "near",
            Self::Far => "far",
        }
    }

    fn read(word: &OsStr) -> Option<Self> {
        [Self::Near, Self::Far].into_iter().find(|side| word == side.word())
    }
}

/// The exit status where the command could not be started or waited for, as shells have it.
const CANNOT_RUN: u8 = 126;

/// How long the others have when git alone was asked to end: longer than a push that is through takes to be written down, and too short
/// for one that is not to come to its end without git.
const PARTING: Duration = Duration::from_millis(250);
/// For how long a process that is busy is not asked: longer than it takes to make a file and to note it, on a host that is busy.
const COURTESY: Duration = Duration::from_secs(2);
/// How long what was asked to end has for it: to remove a few files, on a host that may be busy.
const GRACE: Duration = Duration::from_secs(5);
/// How often it is looked whether it has.
const LOOK: Duration = Duration::from_millis(5);

/// Runs a command as long as the parent lives: `args` are the parent's process id, which half of the talk it is, the program
/// and its arguments. The exit status is the command's, or 128 and the signal that ended it.
#[must_use]
pub fn tether(mut args: impl Iterator<Item = OsString>) -> ExitCode {
    let parent = args.next().and_then(|pid| pid.to_str()?.parse().ok()).map(Pid::from_raw);
    let side = args.next().and_then(|word| Side::read(&word));
    let (Some(parent), Some(side), Some(program)) = (parent, side, args.next()) else { return ExitCode::from(CANNOT_RUN) };
    let mut command = Command::new(&program);
    command.args(args);
    match hold(parent, side, &mut command) {
        Ok(status) => ExitCode::from(exit_code(status)),
        Err(error) => {
            // Read by the parent with git's own complaints; where it cannot be said, the status has to do.
            drop(writeln!(io::stderr(), "fatal: cannot run {}: {error}", program.display()));
            ExitCode::from(CANNOT_RUN)
        }
    }
}

fn hold(parent: Pid, side: Side, command: &mut Command) -> io::Result<ExitStatus> {
    // It is one already where our parent has seen to it.
    setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
    // What loses its own parent becomes our child, so that we know when everybody has ended.
    prctl::set_child_subreaper(true)?;
    // Until then a SIGTERM ends us, and nothing has been started.
    let mut awaited = Signals::new([SIGTERM, SIGCHLD])?;
    if getppid() != parent {
        return Err(io::Error::other("the daemon is gone"));
    }
    let mut child = command.spawn()?;
    // It says no more than to look again: it also comes when only the thread ends that started us.
    prctl::set_pdeathsig(Signal::SIGCHLD)?;
    loop {
        // A parent that was gone before the signal was asked for sends none.
        if getppid() != parent {
            return end_all(side, &child);
        }
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if awaited.wait().any(|signal| signal == SIGTERM) {
            return end_all(side, &child);
        }
    }
}

/// Asks our git to end, then the group, and kills what is left of it when everybody has ended or the time is over: this process too.
fn end_all(side: Side, git: &Child) -> io::Result<ExitStatus> {
    if side == Side::Near {
        // It was not waited for, so that the number is its own.
        kill(Pid::from_raw(git.id().cast_signed()), Signal::SIGTERM)?;
    }
    let mut asked = BTreeSet::new();
    if !all_end_within(PARTING, || {})? && !all_end_within(COURTESY, || ask_who_sleeps(&mut asked))? {
        killpg(getpgrp(), Signal::SIGTERM)?;
        all_end_within(GRACE, || {})?;
    }
    killpg(getpgrp(), Signal::SIGKILL)?;
    Err(io::Error::other("a process that was killed goes on"))
}

/// Whether all children end in this time, at each look of which `meanwhile` is done. The looks are counted, and no clock is asked: while the host
/// stands still nobody comes to an end, and then all would be late at once.
fn all_end_within(time: Duration, mut meanwhile: impl FnMut()) -> io::Result<bool> {
    let mut looks = time.as_millis() / LOOK.as_millis();
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Err(Errno::ECHILD) => return Ok(true),
            Err(error) => return Err(error.into()),
            Ok(WaitStatus::StillAlive) if looks == 0 => return Ok(false),
            Ok(WaitStatus::StillAlive) => {
                meanwhile();
                looks -= 1;
                // Nothing waits for a child and a time at once without code that is not safe.
                std::thread::sleep(LOOK);
            }
            Ok(_) => {}
        }
    }
}

/// Asks those of the group to end who wait for something, each once.
fn ask_who_sleeps(asked: &mut BTreeSet<i32>) {
    let group = getpgrp().as_raw();
    let others = pids().filter(|pid| *pid != group);
    for pid in others.filter(|pid| Stat::of(*pid).is_some_and(|stat| stat.group == group && stat.is_asleep())) {
        if asked.insert(pid) {
            // It may have ended meanwhile.
            kill(Pid::from_raw(pid), Signal::SIGTERM).ok();
        }
    }
}

fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    u8::try_from(code).unwrap_or(CANNOT_RUN)
}
