//! What the supervisor is asked for and how it answers: one command at a time, its report kept until it is collected.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use super::super::command::{Activity, Cause, ExitReport, Started, Status, Will};
use super::super::kernel::Reaped;
use super::super::ledger::{Ledger, ProcessName, Record, Running, boot_id};
use super::super::note::note;
use super::super::protocol::{Order, Refusal};
use super::descendants;
use super::detach::User;
use super::program::Files;
use super::run::{self, Plan, Run};
use crate::clock::Timestamp;

/// The variable by which a successor finds the processes of a command whose supervisor had no time to write them down.
pub(in crate::sandbox) const COMMAND: &str = "SAWMILL_COMMAND";

const WILL_WITHIN: Duration = Duration::from_secs(120);
const WILL_GRACE: Duration = Duration::from_secs(5);
const WILL_LOG: &str = "will.log";

/// The commands of one supervisor.
pub(super) struct Desk {
    ledger: Ledger,
    work: Work,
    /// The will in force, and the command that it came with.
    will: Option<(String, Will)>,
    boot_id: String,
    /// Whom commands are started as, where that is not whom this acts as.
    user: Option<User>,
}

enum Work {
    None,
    Command { id: String, run: Box<Run>, main: Option<ProcessName> },
    Will(Box<Run>),
}

impl Desk {
    /// Takes over what an earlier supervisor of this directory has left: its reports, and processes to end.
    pub(super) fn open(dir: &Path, user: Option<User>) -> io::Result<Self> {
        let boot_id = boot_id()?;
        let (mut ledger, running) = Ledger::open(dir)?;
        if let Some(Running { id, started, boot_id: then, processes }) = running {
            note(format_args!("command {id} ran when its supervisor died"));
            if then == boot_id && !descendants::end_foreign(&processes, &format!("{COMMAND}={id}")) {
                note(format_args!("processes of command {id} could not be ended"));
            }
            ledger.end(&id, Record::Lost { started });
        }
        Ok(Self { ledger, work: Work::None, will: None, boot_id, user })
    }

    /// Whether processes of a command or of the will may exist.
    pub(super) fn is_busy(&self) -> bool {
        !matches!(self.work, Work::None)
    }

    pub(super) fn start(&mut self, order: Order, descriptors: Vec<OwnedFd>) -> Result<Started, Refusal> {
        let Order { id, argv, mut env, cwd, grace_ms, deadline, will } = order;
        check_id(&id)?;
        env.insert(COMMAND.to_owned(), id.clone());
        match &self.work {
            Work::Command { id: running, run, .. } if *running == id => return Ok(run.started()),
            Work::Command { id: running, .. } => return Err(Refusal::Busy { running: running.clone() }),
            Work::Will(_) => return Err(Refusal::Leaving),
            Work::None => {}
        }
        match self.ledger.get(&id) {
            Some(Record::Ended { started, .. }) => return Ok(*started),
            Some(Record::Lost { .. }) => return Err(Refusal::Lost { id }),
            None => {}
        }
        let files = files(descriptors)?;
        let grace = Duration::from_millis(grace_ms);
        self.will = will.map(|will| (id.clone(), will));
        match Run::start(Plan { argv: &argv, env: &env, cwd: &cwd, files, user: self.user, grace, deadline }) {
            Ok(run) => {
                let started = run.started();
                let main = descendants::name_of(run.pid);
                self.work = Work::Command { id, run: Box::new(run), main };
                self.write_down();
                Ok(started)
            }
            Err(why) => {
                let report = run::not_started(why);
                let started = Started { pid: None, started_at: report.started_at };
                self.ledger.end(&id, Record::Ended { started, report });
                Ok(started)
            }
        }
    }

    pub(super) fn status(&self) -> Status {
        if let Work::Command { id, run, .. } = &self.work {
            return Status::Running { id: id.clone(), pid: run.pid, started_at: run.started_at, ending: run.ending() };
        }
        match self.ledger.latest() {
            Some((id, Record::Ended { report, .. })) => Status::Ended { id: id.to_owned(), report: report.clone() },
            _ => Status::Idle,
        }
    }

    /// The report of a command; none while it runs.
    pub(super) fn report(&self, id: &str) -> Result<Option<ExitReport>, Refusal> {
        if self.runs(id) {
            return Ok(None);
        }
        match self.ledger.get(id) {
            Some(Record::Ended { report, .. }) => Ok(Some(report.clone())),
            Some(Record::Lost { .. }) => Err(Refusal::Lost { id: id.to_owned() }),
            None => Err(Refusal::Unknown { id: id.to_owned() }),
        }
    }

    /// What the processes of a command do now; those of one that has ended do nothing.
    pub(super) fn look(&mut self, id: &str) -> Result<Activity, Refusal> {
        match &mut self.work {
            Work::Command { id: running, run, .. } if running == id => Ok(run.usage.look()),
            _ => self.report(id).map(|_| Activity::default()),
        }
    }

    pub(super) fn stop(&mut self, id: &str) -> Result<(), Refusal> {
        if self.runs(id) {
            self.stop_any(Cause::Stopped);
            return Ok(());
        }
        self.report(id).map(drop)
    }

    /// Moves the deadline of the command that runs; of one that has ended there is nothing to move.
    pub(super) fn move_deadline(&mut self, id: &str, at: Timestamp) -> Result<(), Refusal> {
        match &mut self.work {
            Work::Command { id: running, run, .. } if running == id => {
                run.move_deadline(at);
                Ok(())
            }
            _ => self.report(id).map(drop),
        }
    }

    /// Ends the command that runs, if one does. The will is not a command.
    pub(super) fn stop_any(&mut self, cause: Cause) {
        if let Work::Command { run, .. } = &mut self.work {
            run.stop(cause);
        }
    }

    /// Puts a will in force that came without a command.
    pub(super) fn bequeath(&mut self, id: String, will: Will) -> Result<(), Refusal> {
        check_id(&id)?;
        self.will = Some((id, will));
        Ok(())
    }

    pub(super) fn collect(&mut self, id: &str) -> Result<(), Refusal> {
        if self.runs(id) {
            return Err(Refusal::Busy { running: id.to_owned() });
        }
        let left = self.will.take_if(|(of, _)| of == id).is_some();
        if self.ledger.forget(id) || left { Ok(()) } else { Err(Refusal::Unknown { id: id.to_owned() }) }
    }

    /// Starts the will that is in force; false when there is none or it cannot be started.
    pub(super) fn do_will(&mut self) -> bool {
        let Some((id, Will { argv, env, cwd })) = self.will.take() else { return false };
        let started = open_will_log().map_err(|error| error.to_string()).and_then(|files| {
            let deadline = Some(Timestamp::now() + WILL_WITHIN);
            Run::start(Plan { argv: &argv, env: &env, cwd: &cwd, files, user: None, grace: WILL_GRACE, deadline })
        });
        match started {
            Ok(run) => self.work = Work::Will(Box::new(run)),
            Err(why) => note(format_args!("cannot do the will of command {id}: {why}")),
        }
        self.is_busy()
    }

    pub(super) fn reaped(&mut self, reaped: &Reaped) {
        if let Some(run) = self.run_mut() {
            run.reaped(reaped);
        }
    }

    /// No process is left: the report is made.
    pub(super) fn finish(&mut self) {
        match std::mem::replace(&mut self.work, Work::None) {
            Work::Command { id, run, .. } => {
                let started = run.started();
                self.ledger.end(&id, Record::Ended { started, report: run.finish() });
            }
            Work::Will(run) => note(format_args!("the will is done: {:?}", run.finish())),
            Work::None => {}
        }
    }

    /// When [`Desk::advance`] is due.
    pub(super) fn next(&self) -> Option<Instant> {
        match &self.work {
            Work::Command { run, .. } | Work::Will(run) => Some(run.next()),
            Work::None => None,
        }
    }

    pub(super) fn advance(&mut self, now: Instant) {
        let Some(run) = self.run_mut() else { return };
        run.advance(now);
        if run.usage.next <= now && run.usage.sample(now) {
            self.write_down();
        }
    }

    fn run_mut(&mut self) -> Option<&mut Run> {
        match &mut self.work {
            Work::Command { run, .. } | Work::Will(run) => Some(run),
            Work::None => None,
        }
    }

    fn runs(&self, id: &str) -> bool {
        matches!(&self.work, Work::Command { id: running, .. } if running == id)
    }

    /// Notes the command that runs, for a successor.
    fn write_down(&self) {
        if let Work::Command { id, run, main } = &self.work {
            let processes = main.iter().chain(&run.usage.lasting).copied().collect();
            let boot_id = self.boot_id.clone();
            self.ledger.begin(&Running { id: id.clone(), started: run.started(), boot_id, processes });
        }
    }
}

/// An id is also the name of a file.
fn check_id(id: &str) -> Result<(), Refusal> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if (1..=100).contains(&id.len()) && !id.starts_with('.') && id.bytes().all(plain) {
        return Ok(());
    }
    Err(Refusal::Invalid { why: format!("{id:?} is not 1 to 100 letters, digits, dots, dashes and underscores") })
}

fn files(descriptors: Vec<OwnedFd>) -> Result<Files, Refusal> {
    let mut descriptors = descriptors.into_iter();
    match (descriptors.next(), descriptors.next()) {
        (Some(output), Some(errors)) => Ok(Files { input: descriptors.next(), output, errors }),
        _ => Err(Refusal::Invalid { why: "output and error output did not come with it".to_owned() }),
    }
}

fn open_will_log() -> io::Result<Files> {
    let log = fs::OpenOptions::new().create(true).append(true).open(WILL_LOG)?;
    Ok(Files { input: None, output: log.try_clone()?.into(), errors: log.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_safe_as_the_name_of_a_file() {
        let check = |id: &str, expected: bool| assert_eq!(check_id(id).is_ok(), expected, "{id:?}");
        check("018f-a.b_C", true);
        check(&"a".repeat(100), true);
        check(&"a".repeat(101), false);
        check("", false);
        check("..", false);
        check(".hidden", false);
        check("a/b", false);
        check("ä", false);
    }
}
