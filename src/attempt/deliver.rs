//! Stages `commit` and `publish`: the tree becomes one commit, and the commit reaches the remote.

use super::halt::Halt;
use super::journal::{Phase, Said};
use super::open::Attempt;
use super::prepare::within;
use crate::git::{Change, Committed, Pushed, Worktree};
use crate::ids::{CompletionId, ObjectId};
use crate::job::message::commit_message;
use crate::job::spec::Changes;
use crate::job::{Completion, DiffSummary, GateEvidence, Outcome, OutcomeClass, Stage};

pub(super) async fn commit(attempt: &mut Attempt, base: ObjectId, said: Said) -> Result<Phase, Halt> {
    attempt.stages.enter(Stage::Commit, attempt.now());
    let worktree = Worktree::open(&attempt.tools.git, attempt.slot_root())?;
    let spec = &attempt.claimed.job.spec;
    let message = commit_message(&attempt.claimed.claim, spec, attempt.backend.name(), said.summary.as_deref());
    let change = within(attempt, worktree.commit(&message)).await?;
    let commit = match (change, spec.changes) {
        (Change::None, Changes::Required) => {
            let message = format!("{} changed nothing, and a change was required", attempt.backend.name());
            return Err(Halt::failed(OutcomeClass::NoChange, message));
        }
        (Change::None, Changes::Optional | Changes::None) => None,
        (Change::Commit(committed), Changes::None) => {
            let message = format!("{} changed files ({}), and none were to change", attempt.backend.name(), committed.diff);
            return Err(Halt::failed(OutcomeClass::Gate, message));
        }
        (Change::Commit(committed), Changes::Required | Changes::Optional) => Some(committed),
    };
    match &commit {
        Some(Committed { commit, diff, .. }) => attempt.say(&format!("commit {}: {diff}", commit.short())),
        None => attempt.say("nothing changed"),
    }
    Ok(Phase::Committed { base, said, commit })
}

pub(super) async fn publish(
    attempt: &mut Attempt,
    base: ObjectId,
    said: Said,
    commit: Option<Committed>,
    gates: Vec<GateEvidence>,
) -> Result<Completion, Halt> {
    attempt.stages.enter(Stage::Publish, attempt.now());
    if let Some(committed) = &commit {
        push(attempt, &committed.commit).await?;
    }
    let job = &attempt.claimed.job;
    let message = match &commit {
        Some(committed) => format!("delivered {} on {}", committed.commit.short(), job.branch),
        None => "done without a change".to_owned(),
    };
    let (commit, tree, diff) = match commit {
        Some(Committed { commit, tree, diff }) => (Some(commit), Some(tree), diff),
        None => (None, None, DiffSummary::default()),
    };
    Ok(Completion {
        id: CompletionId::generate(),
        job: job.id,
        attempt: attempt.claimed.claim.attempt,
        project: job.spec.project.clone(),
        repo: job.repo.clone(),
        base,
        branch: commit.as_ref().map(|_| job.branch.to_string()),
        commit,
        tree,
        diff,
        gates,
        summary: said.summary,
        usage: said.usage,
        outcome: Outcome::new(OutcomeClass::Succeeded, message),
        created_at: attempt.now(),
    })
}

async fn push(attempt: &Attempt, commit: &ObjectId) -> Result<(), Halt> {
    let worktree = Worktree::open(&attempt.tools.git, attempt.slot_root())?;
    let branch = &attempt.claimed.job.branch;
    if !attempt.claimed.job.spec.deliver.push {
        within(attempt, worktree.keep(commit, branch)).await?;
        attempt.say(&format!("kept on the worker's mirror as {branch}"));
        return Ok(());
    }
    attempt.insist(|| attempt.tools.store.check_claim(&attempt.claimed.claim)).await?;
    let pushed = within(attempt, worktree.deliver(commit, branch, &attempt.claimed.claim)).await?;
    attempt.say(match pushed {
        Pushed::New => "pushed",
        Pushed::Already => "already on the remote",
        Pushed::Superseded => "pushed, in place of what an earlier attempt had pushed before it lost its claim",
    });
    Ok(())
}
