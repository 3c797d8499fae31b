//! One command from its start to the proof that nothing of it is left.
//!
//! The phases go one way: running ▸ ending (asked for) or lingering (the main process ended by itself, others have not) ▸
//! terminating ▸ killing. Any of them ends when the kernel says that the supervisor has no child.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::libc::SIGKILL;

use super::super::command::{Cause, End, ExitReport, Started};
use super::super::kernel::Reaped;
use super::descendants;
use super::detach::User;
use super::program::{self, Files};
use super::usage::Usage;
use crate::clock::Timestamp;

/// How long processes that outlive the main one may take to end unasked: those of a pipeline are just about to.
const LINGER: Duration = Duration::from_millis(50);

/// The longest grace for those that do not: nobody waits for what they might still do.
const STRAGGLER_GRACE: Duration = Duration::from_secs(2);

/// The longest grace when the daemon has stayed away: its claim is about to expire, and another worker to begin.
const ORPHAN_GRACE: Duration = Duration::from_secs(2);

/// The pause after the first round of KILL; it doubles up to the other.
const KILL_AGAIN_AFTER: Duration = Duration::from_millis(5);
const KILL_AGAIN_AT_MOST: Duration = Duration::from_millis(500);

const STRAGGLERS_MAX: usize = 32;

/// What to run, and until when.
pub(super) struct Plan<'a> {
    pub(super) argv: &'a [String],
    pub(super) env: &'a BTreeMap<String, String>,
    pub(super) cwd: &'a Path,
    pub(super) files: Files,
    pub(super) user: Option<User>,
    pub(super) grace: Duration,
    pub(super) deadline: Option<Timestamp>,
}

/// A command that has been started and not yet ended.
pub(super) struct Run {
    pub(super) pid: i32,
    pub(super) started_at: Timestamp,
    pub(super) usage: Usage,
    phase: Phase,
    cause: Cause,
    end: Option<End>,
    grace: Duration,
    deadline: Option<Instant>,
    stragglers: Vec<String>,
    killed: bool,
}

enum Phase {
    Running,
    Lingering {
        until: Instant,
    },
    /// TERM is due: it is sent in [`Run::advance`], after the request for it has been answered.
    Ending {
        grace: Duration,
    },
    Terminating {
        until: Instant,
    },
    Killing {
        again: Instant,
        pause: Duration,
    },
}

impl Run {
    /// Starts it, or says why it cannot be.
    pub(super) fn start(plan: Plan<'_>) -> Result<Self, String> {
        let Plan { argv, env, cwd, files, user, grace, deadline } = plan;
        let started_at = Timestamp::now();
        let now = Instant::now();
        let pid = program::start(argv, env, cwd, files, user)?;
        Ok(Self {
            pid,
            started_at,
            usage: Usage::begin(),
            phase: Phase::Running,
            cause: Cause::Itself,
            end: None,
            grace,
            // The wall clock may be set while the command runs; how long it may take was decided now.
            deadline: deadline.and_then(|deadline| now.checked_add(deadline.since(started_at))),
            stragglers: Vec::new(),
            killed: false,
        })
    }

    pub(super) fn started(&self) -> Started {
        Started { pid: Some(self.pid), started_at: self.started_at }
    }

    /// Why it is being ended, when it is.
    pub(super) fn ending(&self) -> Option<Cause> {
        match self.phase {
            Phase::Running => None,
            _ => Some(self.cause),
        }
    }

    /// Begins to end it, with its grace; nothing changes when that has begun already.
    pub(super) fn stop(&mut self, cause: Cause) {
        if matches!(self.phase, Phase::Running) {
            self.cause = cause;
            let grace = if cause == Cause::Orphaned { self.grace.min(ORPHAN_GRACE) } else { self.grace };
            self.phase = Phase::Ending { grace };
        }
    }

    /// Moves the deadline; nothing changes for a command that is being ended already.
    pub(super) fn move_deadline(&mut self, at: Timestamp) {
        // The wall clock may be set afterwards; how long is left is decided now.
        self.deadline = Instant::now().checked_add(at.since(Timestamp::now()));
    }

    /// A child of the supervisor has ended: the main process or an orphan.
    pub(super) fn reaped(&mut self, reaped: &Reaped) {
        self.usage.add(reaped);
        if reaped.pid != self.pid || self.end.is_some() {
            return;
        }
        self.end = Some(match reaped.end {
            Ok(status) => End::Exited(status),
            Err(signal) => End::Signalled(signal),
        });
        if matches!(self.phase, Phase::Running) {
            self.phase = Phase::Lingering { until: Instant::now() + LINGER };
        }
    }

    /// When [`Run::advance`] is due.
    pub(super) fn next(&self) -> Instant {
        let due = match self.phase {
            Phase::Running => self.deadline,
            Phase::Lingering { until } | Phase::Terminating { until } => Some(until),
            Phase::Ending { .. } => Some(Instant::now()),
            Phase::Killing { again, .. } => Some(again),
        };
        due.map_or(self.usage.next, |due| due.min(self.usage.next))
    }

    /// Does what is due.
    pub(super) fn advance(&mut self, now: Instant) {
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            self.stop(Cause::Deadline);
        }
        match self.phase {
            Phase::Ending { grace } => self.terminate(grace),
            Phase::Lingering { until } if until <= now => {
                self.stragglers = stragglers();
                self.terminate(self.grace.min(STRAGGLER_GRACE));
            }
            Phase::Terminating { until } if until <= now => self.kill(now, KILL_AGAIN_AFTER),
            Phase::Killing { again, pause } if again <= now => self.kill(now, (pause * 2).min(KILL_AGAIN_AT_MOST)),
            _ => {}
        }
    }

    /// The report, once the kernel has said that the supervisor has no child.
    pub(super) fn finish(mut self) -> ExitReport {
        let end = self.end.unwrap_or(End::Signalled(SIGKILL));
        // A shell reports a child that was killed as 128 and the signal.
        let killed = matches!(end, End::Signalled(SIGKILL)) || end == End::Exited(128 + SIGKILL);
        // Within a container nobody else can have run out of memory: that is why it failed, whoever in it was killed.
        let may_be = killed || (descendants::are_everybody() && end != End::Exited(0));
        let out_of_memory = may_be && !self.killed && self.usage.memory_ran_out();
        if out_of_memory {
            self.usage.take_peak();
        }
        // One that the main process had started, and that was gone before it was seen, is not taken for that.
        let may_be_victim = |pid: i32| out_of_memory && (pid != self.pid || matches!(end, End::Signalled(_)));
        ExitReport {
            out_of_memory,
            largest: self.usage.largest.take().filter(|(pid, _)| may_be_victim(*pid)).map(|(_, line)| line),
            end,
            cause: self.cause,
            stragglers: self.stragglers,
            peak_memory_bytes: self.usage.peak_bytes,
            cpu_ms: self.usage.cpu_us / 1000,
            started_at: self.started_at,
            ended_at: Timestamp::now(),
        }
    }

    fn terminate(&mut self, grace: Duration) {
        descendants::terminate_all();
        self.phase = Phase::Terminating { until: Instant::now() + grace };
    }

    fn kill(&mut self, now: Instant, pause: Duration) {
        self.killed |= self.end.is_none();
        descendants::kill_all();
        self.phase = Phase::Killing { again: now + pause, pause };
    }
}

/// The report of a command that never began.
pub(super) fn not_started(why: String) -> ExitReport {
    let now = Timestamp::now();
    ExitReport {
        end: End::NotStarted(why),
        cause: Cause::Itself,
        stragglers: Vec::new(),
        peak_memory_bytes: 0,
        cpu_ms: 0,
        out_of_memory: false,
        largest: None,
        started_at: now,
        ended_at: now,
    }
}

fn stragglers() -> Vec<String> {
    let alive = descendants::all().into_iter().filter(|process| !process.stat.has_ended());
    alive
        .filter_map(|process| descendants::command_line(process.name, descendants::LINE_CHARACTERS))
        .take(STRAGGLERS_MAX)
        .collect()
}
