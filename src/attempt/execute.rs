//! Stage `execute`: the backend's command runs under the slot's supervisor, and its end is judged.

use nix::libc::SIGKILL;
use tracing::warn;

use super::backend;
use super::carry;
use super::disk;
use super::environment;
use super::halt::Halt;
use super::journal::{Phase, Said};
use super::judge;
use super::liveness;
use super::open::Attempt;
use super::orphan::SALVAGE_SUBCOMMAND;
use super::place::{self, Paths, Place};
use super::spending;
use crate::backends::Verdict;
use crate::clock::{Timestamp, human};
use crate::ids::ObjectId;
use crate::job::attempt::Resources;
use crate::job::completion::Usage;
use crate::job::{Deadline, OutcomeClass, Stage};
use crate::sandbox::{Cause, CommandSpec, End, ExitReport, Refusal, SandboxError, Will};

/// The id of the backend's first command within the attempt.
const BACKEND: &str = "backend";

/// How much of a process's command line is told.
const LINE_CHARACTERS: usize = 200;

/// With less room than this a disk is full: what a worker writes for one attempt is more.
const DISK_FULL: u64 = 256 * 1024;

/// Starts the backend's command; the journal says so afterwards. A daemon that comes in between starts it again under the same
/// id, which the supervisor answers as the first time.
pub(super) async fn start(attempt: &mut Attempt, base: ObjectId) -> Result<Phase, Halt> {
    attempt.stages.enter(Stage::Execute, attempt.now());
    // Whoever cannot be started for this job is not to have a container made for it.
    let started = backend::start(attempt)?;
    let chosen = place::choose(attempt).await?;
    carry::bring(attempt, chosen).await?;
    let argv = backend::argv(attempt, started)?;
    if attempt.round() > 0 {
        place::uncover(attempt).await?;
    }
    attempt.journal.said_before = liveness::said(attempt);
    // Before the command is started: whoever finds the journal knows where to look for it.
    attempt.enter(Phase::Prepared { base: base.clone() })?;
    let (id, paths) = (backend_id(attempt.round()), attempt.paths());
    let env = environment::for_backend(attempt, &paths);
    let command = CommandSpec { env, ..command(attempt, &id, argv, attempt.deadline().work_until(), paths) };
    attempt.runner().start(&command).await?;
    if let Some(runs_on) = attempt.journal.place.as_ref().map(Place::runs_on) {
        // While the command is at work: it does not wait for the database.
        attempt.insist(|| attempt.tools.store.record_runs_on(&attempt.claimed.claim, &runs_on)).await?;
    }
    Ok(Phase::Executing { base })
}

/// Waits for the backend's command to end, and asks the backend what that end says.
pub(super) async fn wait(attempt: &mut Attempt, base: ObjectId) -> Result<Phase, Halt> {
    let (report, cut) = watched(attempt).await?;
    attempt.journal.resources = attempt.journal.before.resources.and_then(resources(&report));
    hear_usage(attempt).await?;
    note_stragglers(attempt, &report);
    backend::keep_events(attempt);
    if let Some(halt) = cut {
        return Err(halt);
    }
    let exit = exit_of(attempt, &report)?;
    match backend::read(attempt, |backend, slot, redactor| backend.judge(exit, &slot.result(), redactor)).await? {
        Verdict::Done { summary, usage, session } => Ok(Phase::Executed { base, said: Said { summary, usage, session } }),
        Verdict::Clarification { question } => Err(Halt::failed(OutcomeClass::Clarification, question)),
        Verdict::UsageLimit { message, retry_at } => {
            attempt.limited = Some(retry_at);
            Err(Halt::failed(OutcomeClass::UsageLimit, message))
        }
        Verdict::Failed { class, message } => match spending::met(attempt).await? {
            // One that keeps to what it may cost has failed by that, and no other attempt would fare better.
            Some(budget) => Err(Halt::failed(OutcomeClass::Budget, format!("{message}; {budget}"))),
            None => Err(Halt::failed(class, message + disk_note(attempt))),
        },
    }
}

/// Notes what the backend says that it used in this round, with what it used in those before.
pub(super) async fn hear_usage(attempt: &mut Attempt) -> Result<(), Halt> {
    let said = backend::read(attempt, |backend, slot, redactor| backend.usage(&slot.result(), &slot.usage(), redactor)).await?;
    attempt.journal.usage = Usage::sum(attempt.journal.before.usage.clone(), said);
    Ok(())
}

/// Waits for the backend's command to end, and ends it where it hangs, or uses more than it may: then with why that was.
async fn watched(attempt: &Attempt) -> Result<(ExitReport, Option<Halt>), Halt> {
    let id = backend_id(attempt.round());
    let mut ended = std::pin::pin!(ended(attempt, &id, Deadline::work_until));
    let command = command_id(attempt, &id);
    let (class, why) = tokio::select! {
        report = &mut ended => return Ok((report?, None)),
        why = liveness::stalled(attempt, &command) => {
            attempt.say(&format!("it is taken for hung, and ended: {why}"));
            (OutcomeClass::Stalled, why)
        }
        why = spending::exceeded(attempt) => {
            attempt.say(&format!("it is at work still, and ended: {why}"));
            (OutcomeClass::Budget, why)
        }
    };
    attempt.runner().stop(&command).await?;
    let report = ended.await?;
    // It may have come to its end by itself meanwhile.
    let stopped = report.cause == Cause::Stopped;
    Ok((report, stopped.then(|| Halt::failed(class, why))))
}

/// A word about the disk for a failure that came with no room left on it: the job's own complaint found none either.
fn disk_note(attempt: &Attempt) -> &'static str {
    match attempt.tools.state.free_space() {
        Ok(free) if free < DISK_FULL => "; no space is left on the disk of the worker's state directory",
        _ => "",
    }
}

/// A command of this attempt, for its supervisor, with what gates find in their environment. Its id is unique over attempts.
pub(super) fn command(attempt: &Attempt, id: &str, argv: Vec<String>, until: Timestamp, paths: Paths) -> CommandSpec {
    CommandSpec {
        id: command_id(attempt, id),
        argv,
        env: environment::for_gate(attempt, &paths),
        cwd: paths.tree,
        stdin: None,
        stdout: attempt.spool.stdout(),
        stderr: attempt.spool.stderr(),
        grace: attempt.tools.sandbox.grace,
        deadline: Some(by_host(attempt, until)),
        will: matches!(attempt.journal.place, Some(Place::Host)).then(|| will(attempt)),
    }
}

/// A moment by the database's clock, which deadlines go by, as one by the host's, which supervisors go by.
fn by_host(attempt: &Attempt, moment: Timestamp) -> Timestamp {
    Timestamp::now() + moment.since(attempt.now())
}

fn command_id(attempt: &Attempt, id: &str) -> String {
    format!("{}-{}-{id}", attempt.claimed.claim.job, attempt.claimed.claim.attempt)
}

/// The id of a will that is left beside the commands, which run elsewhere.
pub(super) fn will_id(attempt: &Attempt) -> String {
    command_id(attempt, BACKEND)
}

/// The ids of all commands that the attempt may have started.
pub(super) fn command_ids(attempt: &Attempt) -> Vec<String> {
    let gates = attempt.gates().len();
    let of_round = |round| std::iter::once(backend_id(round)).chain((0..gates).map(move |gate| judge::gate_id(round, gate)));
    (0..=attempt.round()).flat_map(of_round).map(|id| command_id(attempt, &id)).collect()
}

/// The id of the backend's command in a round.
fn backend_id(round: usize) -> String {
    if round == 0 { BACKEND.to_owned() } else { format!("{BACKEND}-{round}") }
}

/// What the supervisor does for the daemon when that does not come back: it salvages.
pub(super) fn will(attempt: &Attempt) -> Will {
    let executable = attempt.tools.executable.to_string_lossy().into_owned();
    let slot = attempt.slot_root().to_string_lossy().into_owned();
    let path = attempt.tools.environment.get("PATH").cloned().unwrap_or_default();
    Will {
        argv: vec![executable, SALVAGE_SUBCOMMAND.to_owned(), slot],
        env: [("PATH".to_owned(), path)].into(),
        cwd: attempt.tools.state.root().to_owned(),
    }
}

/// Waits for a command's end, and brings it about when the attempt is to stop. `until` says when the command must be over; its
/// supervisor is told of another time as soon as the deadline is moved.
pub(super) async fn ended(attempt: &Attempt, id: &str, until: impl Fn(Deadline) -> Timestamp) -> Result<ExitReport, Halt> {
    let id = command_id(attempt, id);
    let mut known = attempt.moved.at();
    let runner = attempt.runner();
    if known.is_some() {
        // A command that an earlier daemon started may not have been told.
        tell_deadline(attempt, &id, until(attempt.deadline())).await;
    }
    let mut over = std::pin::pin!(disk::exceeded(attempt));
    let waited = loop {
        tokio::select! {
            biased;
            reason = attempt.stop.stopped() => {
                runner.stop(&id).await?;
                runner.wait(&id).await?;
                return Err(Halt::Stopped(reason));
            }
            waited = runner.wait(&id) => break waited,
            why = &mut over => return Err(disk::end(attempt, why).await),
            moved = attempt.moved.moved_from(known) => {
                known = moved;
                attempt.say(&format!("the deadline was moved to {}", attempt.deadline().at()));
                tell_deadline(attempt, &id, until(attempt.deadline())).await;
            }
        }
    };
    match waited {
        Ok(report) => Ok(report),
        // The processes died with it, or were ended by the kernel after it: nothing is known of their end.
        Err(
            SandboxError::Gone { .. } | SandboxError::Refused { refusal: Refusal::Lost { .. } | Refusal::Unknown { .. }, .. },
        ) => {
            let what = match &attempt.journal.place {
                Some(Place::Container { container, .. }) => {
                    format!("container {}, in which the job ran, is gone", container.name)
                }
                Some(Place::Host) | None => "the supervisor of the job's processes is gone".to_owned(),
            };
            Err(Halt::failed(OutcomeClass::Infrastructure, what))
        }
        Err(error) => Err(error.into()),
    }
}

/// Tells the supervisor when a command must be over. One that is gone ends the waiting for the command, and not this.
async fn tell_deadline(attempt: &Attempt, id: &str, until: Timestamp) {
    if let Err(error) = attempt.runner().move_deadline(id, by_host(attempt, until)).await {
        warn!("cannot move the deadline of job {}: {error}", attempt.claimed.claim.job);
    }
}

/// What a command's end is to whoever judges it: an exit status, or a sentence about another end.
pub(super) fn exit_of(attempt: &Attempt, report: &ExitReport) -> Result<Result<i32, String>, Halt> {
    match (report.cause, &report.end) {
        (Cause::Deadline, _) => {
            let after = human::format(report.ended_at.since(report.started_at));
            Err(Halt::failed(OutcomeClass::Timeout, format!("met its deadline and was ended after {after}")))
        }
        (Cause::Orphaned, _) => Err(Halt::failed(OutcomeClass::Infrastructure, "the worker was away for longer than its lease")),
        (Cause::Stopped, _) => match attempt.stop.reason() {
            Some(reason) => Err(Halt::Stopped(reason)),
            None => Err(Halt::failed(OutcomeClass::Infrastructure, "was stopped for no reason on record")),
        },
        (Cause::Itself, _) if report.out_of_memory => {
            let victim = report.largest.as_ref().map(|line| environment::told(attempt, line, LINE_CHARACTERS));
            Err(Halt::failed(OutcomeClass::OutOfMemory, out_of_memory(report, victim.as_deref())))
        }
        (Cause::Itself, End::Exited(status)) => Ok(Ok(*status)),
        (Cause::Itself, End::Signalled(SIGKILL)) => {
            Ok(Err(format!("was ended by signal {SIGKILL} (KILL), and not for want of memory")))
        }
        (Cause::Itself, End::Signalled(signal)) => Ok(Err(format!("was ended by signal {signal}"))),
        (Cause::Itself, End::NotStarted(why)) => Ok(Err(format!("cannot be started: {why}"))),
    }
}

/// That memory ran out, with the most that there was and the process that the kernel ended: it takes the one that holds the most.
fn out_of_memory(report: &ExitReport, victim: Option<&str>) -> String {
    let peak = bytesize::ByteSize(report.peak_memory_bytes);
    let whom = match (&report.end, victim) {
        (_, None) => "a process of it, which was gone before it was seen".to_owned(),
        (End::Signalled(_), Some(line)) => line.to_owned(),
        // It was one that its main process had started, and which of them nobody was told.
        (_, Some(line)) => format!("a process of it, most likely the largest, {line}"),
    };
    format!("ran out of memory at a peak of {peak}, and the kernel killed {whom}")
}

fn resources(report: &ExitReport) -> Resources {
    Resources {
        exit_code: if let End::Exited(status) = report.end { Some(status) } else { None },
        signal: if let End::Signalled(signal) = report.end { Some(signal) } else { None },
        peak_memory_bytes: Some(report.peak_memory_bytes),
        cpu_ms: Some(report.cpu_ms),
    }
}

pub(super) fn note_stragglers(attempt: &Attempt, report: &ExitReport) {
    if !report.stragglers.is_empty() {
        let lines: Vec<String> = report.stragglers.iter().map(|line| environment::told(attempt, line, LINE_CHARACTERS)).collect();
        let list = lines.join("; ");
        attempt.say(&format!("warning: {} background processes were left behind and ended: {list}", report.stragglers.len()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_for_want_of_memory_names_the_peak_and_whom_the_kernel_killed() {
        let check = |end: End, victim: Option<&str>, expected: &str| {
            let now = Timestamp(0);
            let report = ExitReport {
                end,
                cause: Cause::Itself,
                stragglers: Vec::new(),
                peak_memory_bytes: 512 << 20,
                cpu_ms: 0,
                out_of_memory: true,
                largest: None,
                started_at: now,
                ended_at: now,
            };
            let expected = format!("ran out of memory at a peak of 512.0 MiB, and the kernel killed {expected}");
            assert_eq!(out_of_memory(&report, victim), expected);
        };
        check(End::Signalled(SIGKILL), Some("cc1plus a.cc"), "cc1plus a.cc");
        check(End::Exited(2), Some("cc1plus a.cc"), "a process of it, most likely the largest, cc1plus a.cc");
        check(End::Exited(137), None, "a process of it, which was gone before it was seen");
    }
}
