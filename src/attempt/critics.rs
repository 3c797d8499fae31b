//! The last of stage `judge`: critics, models that are asked about the commit once all gates have passed.
//!
//! The one rule: what a critic did not judge is on record as that: nor is one asked once a budget is used up. It passes only where the critic is not required; what it judged is in
//! the journal before anything follows it, so that a daemon that comes after a crash does not ask again.

use std::time::Instant;

use super::halt::Halt;
use super::in_time::{Cut, in_time};
use super::open::Attempt;
use super::prepare::within;
use super::spending;
use crate::critic::{Asked, Critic, Question};
use crate::git::{Committed, EXCERPT_CUT, Worktree};
use crate::job::completion::Usage;
use crate::job::{Critique, CritiqueVerdict, Deadline, OutcomeClass};

/// How much of a change a critic is shown, in bytes.
const DIFF_MAX: usize = 96 * 1024;

/// Asks the job's critics, one after the other, and says why the commit is rejected, where one rejects it.
///
/// # Errors
/// One that is required could not judge, or this worker does not know it.
pub(super) async fn run(attempt: &mut Attempt, commit: Option<&Committed>) -> Result<Option<String>, Halt> {
    let wanted = attempt.claimed.job.spec.critics.clone();
    if let Some(reason) = attempt.journal.critiques.iter().find_map(rejection) {
        // A daemon before this one heard it, and ended before anything followed.
        return Ok(Some(reason));
    }
    for name in wanted.iter().skip(attempt.journal.critiques.len()) {
        let Some(committed) = commit else {
            attempt.say(&format!("critic {name} is not asked: nothing changed"));
            continue;
        };
        let Some(critic) = attempt.tools.critics.get(name).cloned() else {
            let message = format!("this worker has no critic {name:?}; give all workers the same [critics]");
            return Err(Halt::failed(OutcomeClass::Infrastructure, message));
        };
        let mut used = None;
        let budget = spending::used_up(attempt).await?;
        let lack = if budget.is_some() { OutcomeClass::Budget } else { OutcomeClass::Infrastructure };
        let asked = match budget {
            Some(budget) => Ok(skipped(&critic, committed, format!("it was not asked, for {budget}"))),
            None => ask(attempt, &critic, committed, &mut used).await,
        };
        // Also where the attempt is stopped meanwhile: what was answered is paid for. The model on record stays that of the backend.
        attempt.journal.usage = Usage::sum(used, attempt.journal.usage.take());
        let critique = asked?;
        tell(attempt, &critique);
        if critique.verdict == CritiqueVerdict::Skipped && critic.config().required {
            let why = critique.reason.unwrap_or_default();
            let message = format!("critic {name} did not judge the commit, and it is required: {why}");
            return Err(Halt::failed(lack, message));
        }
        let reason = rejection(&critique);
        attempt.journal.critiques.push(critique);
        attempt.enter(attempt.journal.phase.clone())?;
        if reason.is_some() {
            return Ok(reason);
        }
    }
    Ok(None)
}

fn rejection(critique: &Critique) -> Option<String> {
    (critique.verdict == CritiqueVerdict::Rejected).then(|| critique.reason.clone().unwrap_or_default())
}

/// A critique of one that judged nothing.
fn skipped(critic: &Critic, committed: &Committed, why: String) -> Critique {
    Critique {
        critic: critic.name().to_owned(),
        model: critic.config().model.clone(),
        tree: committed.tree.clone(),
        verdict: CritiqueVerdict::Skipped,
        reason: Some(why),
        score: None,
        min_score: critic.config().min_score,
        summary: None,
        findings: Vec::new(),
        partial: false,
        usage: None,
        duration_ms: 0,
    }
}

async fn ask(attempt: &Attempt, critic: &Critic, committed: &Committed, used: &mut Option<Usage>) -> Result<Critique, Halt> {
    let begun = Instant::now();
    let worktree = Worktree::open(&attempt.tools.git, attempt.slot_root())?;
    let diff = within(attempt, worktree.excerpt(&committed.commit, DIFF_MAX)).await?;
    let partial = diff.ends_with(EXCERPT_CUT);
    let question = Question { task: attempt.claimed.job.spec.task.clone(), diff };
    let asked = judged(attempt, critic, &question, used).await?;
    let (usage, duration_ms) = (used.clone(), crate::clock::millis(begun.elapsed()));
    let (unjudged, judged) = match asked {
        Asked::Not(why) => return Ok(Critique { partial, usage, duration_ms, ..skipped(critic, committed, why) }),
        Asked::Judged(judged) => (skipped(critic, committed, String::new()), judged),
    };
    Ok(Critique {
        verdict: if judged.rejected.is_some() { CritiqueVerdict::Rejected } else { CritiqueVerdict::Passed },
        reason: judged.rejected,
        score: Some(judged.score),
        summary: Some(judged.summary).filter(|summary| !summary.is_empty()),
        findings: judged.findings,
        partial,
        usage,
        duration_ms,
        ..unjudged
    })
}

/// Asks for as long as the attempt's deadline leaves.
async fn judged(attempt: &Attempt, critic: &Critic, question: &Question, used: &mut Option<Usage>) -> Result<Asked, Halt> {
    let asking = critic.ask(question, &attempt.tools.environment, &attempt.redactor, used);
    match in_time(attempt, Deadline::work_left, asking).await {
        Ok(asked) => Ok(asked),
        Err(Cut::Late) => Ok(Asked::Not("no time was left of the attempt's deadline".to_owned())),
        Err(Cut::Stopped(reason)) => Err(Halt::Stopped(reason)),
    }
}

/// Says in the job's log what a critic said.
fn tell(attempt: &Attempt, critique: &Critique) {
    let Critique { critic, verdict, reason, score, summary, findings, partial, .. } = critique;
    let reason = reason.as_deref().unwrap_or_default();
    if *verdict == CritiqueVerdict::Skipped {
        attempt.say(&format!("critic {critic} did not judge: {reason}"));
        return;
    }
    let part = if *partial { ", of a part of the change only" } else { "" };
    let summary = summary.as_deref().map(|summary| format!(": {summary}")).unwrap_or_default();
    attempt.say(&format!("critic {critic} gives {} of 100{part}{}", score.unwrap_or_default(), one_line(&summary)));
    for found in findings {
        let must = if found.must_fix { ", must be fixed" } else { "" };
        attempt.say(&format!("critic {critic} has found ({}{must}) {}", found.severity, one_line(&found.to_string())));
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
