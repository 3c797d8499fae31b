//! What follows a rejection: the backend hears within the same attempt what was wrong, and goes on from there; or the attempt ends by it.
//!
//! The one rule: a rejection is in the journal before anything follows it, and a round has ids of its own for its commands. So whatever
//! moment a daemon is killed in, no round is done twice, and none is left out. What a round may be given is decided here alone.

use super::halt::Halt;
use super::journal::{Phase, Said, Used};
use super::open::Attempt;
use super::prepare;
use super::spending;
use crate::backends::Revision;
use crate::git::{Committed, Worktree};
use crate::ids::ObjectId;
use crate::job::checks::Finding;
use crate::job::completion::Usage;
use crate::job::{Critique, GateEvidence, OutcomeClass, Rejection};

/// How much of the change so far a backend is shown, in bytes.
const DIFF_MAX: usize = 48 * 1024;

/// Why a result is not to be delivered, by who has judged it.
pub(super) struct Rejected {
    pub(super) class: OutcomeClass,
    pub(super) message: String,
    pub(super) gates: Vec<GateEvidence>,
    pub(super) findings: Vec<Finding>,
    pub(super) critiques: Vec<Critique>,
    pub(super) output: Option<String>,
}

impl Rejected {
    /// For this reason, with nothing else to tell.
    pub(super) const fn by(class: OutcomeClass, message: String) -> Self {
        Self { class, message, gates: Vec::new(), findings: Vec::new(), critiques: Vec::new(), output: None }
    }

    /// The phase that an attempt is in by it.
    pub(super) fn phase(self, base: ObjectId, said: Said, commit: Option<Committed>) -> Phase {
        let Self { class, message, gates, findings, critiques, output } = self;
        let (commit, tree) = commit.map(|Committed { commit, tree, .. }| (commit, tree)).unzip();
        let (summary, usage) = (said.summary.clone(), said.usage.clone());
        let rejection = Rejection { class, message, tree, gates, findings, critiques, output, summary, usage };
        Phase::Rejected { base, said, commit, rejection }
    }
}

/// The phase of a round that came to the very tree that was rejected in the round before it: nobody need look at that again.
pub(super) fn rejected_before(attempt: &Attempt, base: &ObjectId, said: &Said, commit: Option<&Committed>) -> Option<Phase> {
    let (before, committed) = (attempt.journal.rejections.last()?, commit?);
    let rejection = Rejection { summary: said.summary.clone(), usage: said.usage.clone(), ..before.clone() };
    (before.tree.as_ref() == Some(&committed.tree)).then(|| Phase::Rejected {
        base: base.clone(),
        said: said.clone(),
        commit: Some(committed.commit.clone()),
        rejection,
    })
}

/// Begins a further round, or ends the attempt.
pub(super) async fn follow(
    attempt: &mut Attempt,
    base: ObjectId,
    said: Said,
    commit: Option<ObjectId>,
    rejection: Rejection,
) -> Result<Phase, Halt> {
    let of = allowed(attempt);
    let over = over(attempt, &rejection, of).await?;
    let all: Vec<Rejection> = attempt.journal.rejections.iter().chain([&rejection]).cloned().collect();
    attempt.insist(|| attempt.tools.store.record_rejections(&attempt.claimed.claim, &all)).await?;
    if let Some(why) = over {
        return Err(Halt::failed(rejection.class, rejection.message + &why));
    }
    let diff = match &commit {
        Some(commit) => {
            let worktree = Worktree::open(&attempt.tools.git, attempt.slot_root())?;
            Some(prepare::within(attempt, worktree.excerpt(commit, DIFF_MAX)).await?)
        }
        None => None,
    };
    let number = u32::try_from(all.len()).unwrap_or(u32::MAX);
    let told = format!("revision {number} of {of}: {}{}", rejection.message, how(attempt, said.session.as_deref()));
    attempt.stages.end(rejection.class, Some(told.clone()), attempt.now());
    attempt.say(&told);

    take_away(attempt)?;
    let journal = &mut attempt.journal;
    // Where it goes on in the session that it was in before, that has used what it had used then, too.
    let before = journal.revision.take().filter(|before| before.session == said.session);
    let session_usage = Usage::sum(before.and_then(|before| before.session_usage), said.usage);
    let session = said.session;
    journal.before = Used { resources: journal.resources, usage: journal.usage.clone() };
    journal.rejections = all;
    journal.revision = Some(Revision { number, of, rejection, diff, session, session_usage });
    (journal.ground, journal.passed, journal.critiques, journal.artifacts) = (None, Vec::new(), Vec::new(), None);
    attempt.journal.left = spending::left(attempt).await?;
    prepare::write_spec(attempt, &attempt.slot.spec())?;
    Ok(Phase::Prepared { base })
}

/// How many revisions the attempt may have.
fn allowed(attempt: &Attempt) -> u32 {
    let wanted = attempt.claimed.job.spec.revisions.or(attempt.backend.revisions()).unwrap_or(attempt.tools.config.revisions);
    if attempt.backend.abilities().revises { wanted } else { 0 }
}

/// Why there is no further round, as an addition to the reason of the rejection; empty where nobody would expect one.
async fn over(attempt: &Attempt, rejection: &Rejection, of: u32) -> Result<Option<String>, Halt> {
    let done = attempt.round();
    if !matches!(rejection.class, OutcomeClass::Gate | OutcomeClass::NoChange) {
        // A gate was ended before it said anything that could be made better.
        return Ok(Some(String::new()));
    }
    if of == 0 {
        let asked = attempt.claimed.job.spec.revisions.is_some_and(|wanted| wanted > 0);
        let name = attempt.backend.name();
        return Ok(Some(if asked { format!("; {name} cannot be told, so there is no revision") } else { String::new() }));
    }
    if attempt.journal.rejections.last().is_some_and(|before| rejection.is_alike(before)) {
        return Ok(Some(format!("; revision {done} of {of} ended as the round before it")));
    }
    if done >= of as usize {
        return Ok(Some(format!("; that was revision {done} of {of}")));
    }
    if attempt.deadline().work_until() <= attempt.now() {
        return Ok(Some("; no time is left to revise it".to_owned()));
    }
    let met = spending::used_up(attempt).await?;
    Ok(met.map(|budget| format!("; it is not revised, for {budget}")))
}

/// How a backend that could go on in its session is told.
fn how(attempt: &Attempt, session: Option<&str>) -> String {
    match (attempt.backend.abilities().resumes, session) {
        (true, Some(session)) => format!("; in session {session}"),
        (true, None) => "; in a new session, since it did not say which was the one before".to_owned(),
        (false, _) => String::new(),
    }
}

/// Takes what the round left beside the worktree, so that nothing of it is taken for the next one's.
fn take_away(attempt: &Attempt) -> Result<(), Halt> {
    let (slot, trash) = (&attempt.slot, attempt.tools.state.trash());
    let left = [slot.result(), slot.usage(), slot.events(), slot.order(), slot.spec()];
    left.iter()
        .try_for_each(|path| trash.take(path))
        .map_err(|error| Halt::infrastructure("cannot make room for a revision", &error))
}
