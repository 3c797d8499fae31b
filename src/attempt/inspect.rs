//! The checks of a commit, before any gate runs: they read it from the mirror, and cost milliseconds.

use super::halt::Halt;
use super::open::Attempt;
use super::prepare::within;
use crate::gates::{self, LOCK_NAMES, Subject};
use crate::git::{Committed, Worktree};
use crate::job::checks::{Finding, Response};

/// How many findings an outcome names; the job's log has all of them.
const NAMED: usize = 5;

/// What the checks say of a commit.
#[derive(Default)]
pub(super) struct Inspection {
    /// All that they found.
    pub(super) findings: Vec<Finding>,
    /// Why it is rejected, where it is.
    pub(super) rejected: Option<String>,
}

/// Checks a commit, and says what was found in the job's log.
///
/// # Errors
/// It cannot be read.
pub(super) async fn run(attempt: &Attempt, committed: &Committed) -> Result<Inspection, Halt> {
    let sets = &attempt.claimed.job.spec.checks;
    if sets.is_empty() {
        return Ok(Inspection::default());
    }
    let worktree = Worktree::open(&attempt.tools.git, attempt.slot_root())?;
    let changes = within(attempt, worktree.changes(&committed.commit, LOCK_NAMES)).await?;
    let redactor = attempt.redactor.clone();
    let (sets, diff) = (sets.clone(), committed.diff.clone());
    let judging = move || gates::check(&sets, Subject { changes: &changes, diff: &diff, redactor: &redactor });
    let found = tokio::task::spawn_blocking(judging).await;
    let findings = found.map_err(|error| Halt::infrastructure("the checks did not end", &error))?;
    for finding in &findings {
        let how = if finding.response == Response::Reject { "rejected" } else { "flagged" };
        attempt.say(&format!("{how}: {finding}"));
    }
    let reasons: Vec<String> =
        findings.iter().filter(|finding| finding.response == Response::Reject).map(ToString::to_string).collect();
    if reasons.is_empty() {
        return Ok(Inspection { findings, rejected: None });
    }
    let more = reasons.len().saturating_sub(NAMED);
    let more = if more > 0 { format!("; and {more} more, which are in the log") } else { String::new() };
    let named = reasons.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join("; ");
    Ok(Inspection { findings, rejected: Some(format!("rejected: {named}{more}")) })
}
