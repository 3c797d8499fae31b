//! Stage `judge`: the commit is checked (see [`super::inspect`]), and then the gates run, each a command whose exit status 0 passes, on
//! a ground of its own (see [`super::ground`]), and critics are asked (see [`super::critics`]): each only of what passed before it.

use super::counted::{self, Counted};
use super::halt::Halt;
use super::inspect::Inspection;
use super::journal::{Phase, Said};
use super::open::Attempt;
use super::place::Paths;
use super::prepare::within;
use super::revise::Rejected;
use super::{covered, critics, execute, ground, inspect, keep, printed, written};
use crate::clock::Timestamp;
use crate::git::{Committed, Worktree};
use crate::ids::ObjectId;
use crate::job::checks::Finding;
use crate::job::counts::TestCounts;
use crate::job::spec::Gate;
use crate::job::{Deadline, GateEvidence, Outcome, OutcomeClass, Stage};

/// How long a gate's output may take to reach the store before its place in the log is noted.
const SETTLE: std::time::Duration = std::time::Duration::from_secs(2);

/// What is known of a result that may be delivered.
pub(super) struct Judgement {
    pub(super) gates: Vec<GateEvidence>,
    pub(super) findings: Vec<Finding>,
}

pub(super) async fn run(attempt: &mut Attempt, base: ObjectId, said: Said, commit: Option<Committed>) -> Result<Phase, Halt> {
    attempt.stages.enter(Stage::Judge, attempt.now());
    if keep::comes_first(attempt, commit.as_ref())
        && let Some(message) = keep::kept(attempt, commit.as_ref()).await?
    {
        let rejected = Rejected::by(OutcomeClass::Gate, message);
        return Ok(rejected.phase(base, said, commit));
    }
    let Inspection { findings, rejected } = match &commit {
        Some(committed) => inspect::run(attempt, committed).await?,
        None => Inspection::default(),
    };
    if let Some(message) = rejected {
        // What is rejected is looked into most. Where a file was required, that was asked above.
        keep::kept(attempt, commit.as_ref()).await?;
        let rejected = Rejected { findings, ..Rejected::by(OutcomeClass::Gate, message) };
        return Ok(rejected.phase(base, said, commit));
    }
    if let Some(rejected) = gates(attempt, &base, commit.as_ref()).await? {
        return Ok(Rejected { findings, ..rejected }.phase(base, said, commit));
    }
    let gates = attempt.journal.passed.clone();
    // The dearest come last.
    if let Some(message) = critics::run(attempt, commit.as_ref()).await? {
        let critiques = attempt.journal.critiques.clone();
        let rejected = Rejected { gates, findings, critiques, ..Rejected::by(OutcomeClass::Gate, message) };
        return Ok(rejected.phase(base, said, commit));
    }
    Ok(Phase::Judged { base, said, commit, gates, findings })
}

/// Runs the gates, up to the first that does not pass: that rejects the result. What those saw that passed is in the journal.
async fn gates(attempt: &mut Attempt, base: &ObjectId, commit: Option<&Committed>) -> Result<Option<Rejected>, Halt> {
    let wanted = attempt.gates().to_vec();
    if wanted.is_empty() {
        return Ok(None);
    }
    let judged = match commit {
        Some(committed) => (committed.commit.clone(), committed.tree.clone()),
        None => {
            let worktree = Worktree::open(&attempt.tools.git, attempt.slot_root())?;
            (base.clone(), within(attempt, worktree.tree_of(base)).await?)
        }
    };
    // A daemon before this one may have seen some of them pass.
    for (index, gate) in wanted.iter().enumerate().skip(attempt.journal.passed.len()) {
        let paths = ground::make(attempt, index, &judged.0).await?;
        let Judged { evidence, older, cut } = judge(attempt, index, gate, paths, &judged.1).await?;
        if !evidence.passed {
            let why = cut.unwrap_or_else(|| Outcome { class: OutcomeClass::Gate, message: why(gate, &evidence, older) });
            let message = format!("gate {} {}", gate.name, why.message);
            let gates = attempt.journal.passed.iter().cloned().chain([evidence]).collect();
            let output = printed::end(attempt).await?;
            return Ok(Some(Rejected { gates, output, ..Rejected::by(why.class, message) }));
        }
        attempt.journal.passed.push(evidence);
        attempt.enter(attempt.journal.phase.clone())?;
    }
    Ok(None)
}

/// What a gate came to.
struct Judged {
    evidence: GateEvidence,
    /// How many of its reports were there before it began.
    older: usize,
    /// Why it was ended before it could say anything, where it was.
    cut: Option<Outcome>,
}

async fn judge(attempt: &mut Attempt, index: usize, gate: &Gate, paths: Paths, tree: &ObjectId) -> Result<Judged, Halt> {
    let id = gate_id(attempt.round(), index);
    let argv = gate.command.argv();
    let log_from = log_from(attempt, gate).await?;
    let attempt = &*attempt;
    let own = |begun: Timestamp| gate.timeout.map(|timeout| begun + timeout);
    let until =
        |own: Option<Timestamp>, deadline: Deadline| own.map_or(deadline.work_until(), |own| own.min(deadline.work_until()));

    let first = until(own(attempt.now()), attempt.deadline());
    let started = attempt.runner().start(&execute::command(attempt, &id, argv.clone(), first, paths)).await?;
    // A daemon before this one may have started it.
    let own = own(attempt.now() - Timestamp::now().since(started.started_at));
    let report = execute::ended(attempt, &id, |deadline| until(own, deadline)).await?;
    execute::note_stragglers(attempt, &report);
    let (exit, cut) = match execute::exit_of(attempt, &report) {
        Ok(exit) => (exit, None),
        Err(halt) => cut(halt, gate).map(|cut| (Err(cut.message.clone()), Some(cut)))?,
    };
    let log_to = attempt.shipper.settle(SETTLE).await;
    if let Err(how) = &exit {
        attempt.say(&format!("gate {} {how}", gate.name));
    }
    let exit = exit.ok();
    let Counted { tests, older } = counted::count(attempt, gate).await?;
    if let Some(counts) = &tests {
        attempt.say(&format!("gate {}: {counts}", gate.name));
    }
    // Of one that failed it says nothing.
    let coverage = if exit == Some(0) { covered::measure(attempt, gate).await? } else { None };
    if let Some(coverage) = &coverage {
        attempt.say(&format!("gate {}: coverage is {coverage}", gate.name));
    }
    let required = gate.coverage.as_ref().is_some_and(|wish| wish.required);
    let measured = !required || coverage.as_ref().is_some_and(|coverage| coverage.lines.is_some());
    let evidence = GateEvidence {
        name: gate.name.clone(),
        argv,
        tree: tree.clone(),
        exit,
        passed: exit == Some(0) && ran_all(gate, tests) && measured,
        tests,
        coverage,
        duration_ms: crate::clock::millis(report.ended_at.since(report.started_at)),
        log_from,
        log_to,
    };
    Ok(Judged { evidence, older, cut })
}

/// Where a gate's output begins in the attempt's log: where that ended before the gate was started, by whichever daemon.
async fn log_from(attempt: &mut Attempt, gate: &Gate) -> Result<u64, Halt> {
    if let Some(from) = attempt.journal.ground.and_then(|ground| ground.log_from) {
        return Ok(from);
    }
    attempt.say(&format!("gate {}: {}", gate.name, gate.command));
    let from = attempt.shipper.settle(SETTLE).await;
    if let Some(ground) = &mut attempt.journal.ground {
        ground.log_from = Some(from);
    }
    attempt.enter(attempt.journal.phase.clone())?;
    Ok(from)
}

/// Why a gate was ended, where that is a verdict on what it judged or on the gate, and there is evidence of it: it took too long, or too
/// much memory. Of anything else nothing follows for the result.
fn cut(halt: Halt, gate: &Gate) -> Result<Outcome, Halt> {
    match halt {
        Halt::Failed(outcome) if matches!(outcome.class, OutcomeClass::Timeout | OutcomeClass::OutOfMemory) => Ok(outcome),
        other => Err(in_gate(gate, other)),
    }
}

/// Whether a gate that runs tests ran some, and none failed.
fn ran_all(gate: &Gate, tests: Option<TestCounts>) -> bool {
    gate.tests.is_none() || tests.is_some_and(|counts| counts.run() > 0 && counts.failed == 0)
}

/// Why a gate did not pass.
fn why(gate: &Gate, evidence: &GateEvidence, older: usize) -> String {
    let flaw = evidence.coverage.as_ref().and_then(|coverage| coverage.flaw.as_deref());
    match (evidence.exit, flaw) {
        (Some(0), Some(flaw)) if ran_all(gate, evidence.tests) => {
            return format!("exited with status 0, and its report on coverage, which is required, cannot be used: {flaw}");
        }
        _ => {}
    }
    match (evidence.exit, evidence.tests) {
        (None, _) => "did not exit".to_owned(),
        (Some(0), None) => match written::say_older(older) {
            Some(older) => format!("exited with status 0 and did not say how many tests it ran: {older}"),
            None => {
                "exited with status 0 and did not say how many tests it ran; correct its command, or the form that its `tests` names"
                    .to_owned()
            }
        },
        (Some(0), Some(counts)) if counts.run() == 0 => {
            format!("exited with status 0 and ran no tests ({counts}); a gate that runs tests must run some")
        }
        (Some(0), Some(counts)) => format!("exited with status 0 although tests failed ({counts})"),
        (Some(status), Some(counts)) => format!("exited with status {status} ({counts})"),
        (Some(status), None) => format!("exited with status {status}"),
    }
}

/// The id of a gate's command within the attempt, in a round.
pub(super) fn gate_id(round: usize, index: usize) -> String {
    if round == 0 { format!("gate-{index}") } else { format!("gate-{index}-{round}") }
}

/// A failure in a gate says in which.
fn in_gate(gate: &Gate, halt: Halt) -> Halt {
    match halt {
        Halt::Failed(outcome) => Halt::failed(outcome.class, format!("gate {} {}", gate.name, outcome.message)),
        stopped @ Halt::Stopped(_) => stopped,
    }
}
