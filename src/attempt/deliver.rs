//! Stages `commit` and `publish`: the tree becomes one commit, and the commit reaches the remote.

use std::pin::pin;
use std::time::Duration;

use super::carry;
use super::halt::Halt;
use super::journal::{Phase, Said};
use super::judge::Judgement;
use super::keep;
use super::open::Attempt;
use super::place::Place;
use super::prepare::within;
use super::push_note;
use super::revise::{self, Rejected};
use super::stop::StopReason;
use crate::git::{Change, Committed, Pushed, Worktree};
use crate::ids::{CompletionId, ObjectId};
use crate::job::message::commit_message;
use crate::job::spec::Changes;
use crate::job::{Artifact, Completion, DiffSummary, Outcome, OutcomeClass, Stage};

/// How long a push that is under way goes on when the job is to be cancelled. What a remote has begun to take it takes, so a
/// push that is cut off may arrive all the same.
const LAST_MOMENT: Duration = Duration::from_secs(10);

pub(super) async fn commit(attempt: &mut Attempt, base: ObjectId, said: Said) -> Result<Phase, Halt> {
    attempt.stages.enter(Stage::Commit, attempt.now());
    let worktree = Worktree::open(&attempt.tools.git, attempt.slot_root())?;
    let spec = &attempt.claimed.job.spec;
    let message = commit_message(&attempt.claimed.claim, spec, attempt.backend.name(), said.summary.as_deref());
    let worktree = worktree.keeping_out(carry::take_out(attempt).await?);
    let change = within(attempt, worktree.commit(&message)).await?;
    // What was built may be kept, or be gone on with.
    carry::put_back(attempt).await;
    let name = attempt.backend.name();
    let (commit, wrong) = match (change, spec.changes) {
        (Change::None, Changes::Required) => {
            (None, Some((OutcomeClass::NoChange, format!("{name} changed nothing, and a change was required"))))
        }
        (Change::None, Changes::Optional | Changes::None) => (None, None),
        (Change::Commit(committed), Changes::None) => {
            let message = format!("{name} changed files ({}), and none were to change", committed.diff);
            (Some(committed), Some((OutcomeClass::Gate, message)))
        }
        (Change::Commit(committed), Changes::Required | Changes::Optional) => (Some(committed), None),
    };
    if let Some((class, message)) = wrong {
        return Ok(Rejected::by(class, message).phase(base, said, commit));
    }
    if let Some(phase) = revise::rejected_before(attempt, &base, &said, commit.as_ref()) {
        return Ok(phase);
    }
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
    judgement: Judgement,
) -> Result<Completion, Halt> {
    attempt.stages.enter(Stage::Publish, attempt.now());
    match &commit {
        Some(committed) => keep::beside(attempt, committed, async |attempt| push(attempt, &committed.commit).await).await?,
        None => attempt.check_stop()?,
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
        runs_on: attempt.journal.place.as_ref().map(Place::runs_on),
        gates: judgement.gates,
        findings: judgement.findings,
        critiques: attempt.journal.critiques.clone(),
        artifacts: attempt.journal.artifacts.iter().flatten().filter_map(Artifact::delivered).collect(),
        rejections: attempt.journal.rejections.clone(),
        summary: said.summary,
        usage: attempt.journal.usage.clone(),
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
    attempt.insist(|| attempt.tools.store.assure_claim(&attempt.claimed.claim)).await?;
    push_note::announce(attempt, commit)?;
    let pushed = if let Some(reason @ StopReason::Cancelled(_)) = attempt.stop.reason() {
        find_pushed(attempt, &worktree, commit, Halt::Stopped(reason)).await?
    } else {
        let mut pushing = pin!(worktree.deliver(commit, branch, &attempt.claimed.claim));
        match within(attempt, pushing.as_mut()).await {
            Err(halt @ Halt::Stopped(StopReason::Cancelled(_))) => in_the_last_moment(attempt, pushing, halt).await?,
            pushed => pushed?,
        }
    };
    attempt.say(match pushed {
        Pushed::New => "pushed",
        Pushed::Already => "already on the remote",
        Pushed::Superseded => "pushed, in place of what an earlier attempt had pushed before it lost its claim",
    });
    Ok(())
}

/// Looks whether a daemon before this one has pushed the commit of a job that is to be cancelled. Then the request came too
/// late: a job that is cancelled leaves no branch.
async fn find_pushed(attempt: &Attempt, worktree: &Worktree, commit: &ObjectId, halt: Halt) -> Result<Pushed, Halt> {
    let looking = async {
        let found = worktree.is_delivered(commit, &attempt.claimed.job.branch).await?;
        if found { Ok(Pushed::Already) } else { Err(halt.clone()) }
    };
    in_the_last_moment(attempt, looking, halt.clone()).await
}

/// Lets git end what the remote may have taken already, for a while that nobody notices; else the attempt halts as it was to.
async fn in_the_last_moment<E: Into<Halt>>(
    attempt: &Attempt,
    step: impl Future<Output = Result<Pushed, E>>,
    halt: Halt,
) -> Result<Pushed, Halt> {
    tokio::select! {
        biased;
        () = attempt.stop.lease_lost() => Err(Halt::Stopped(StopReason::LeaseLost)),
        result = step => result.map_err(Into::into),
        () = tokio::time::sleep(LAST_MOMENT) => Err(halt),
    }
}
