//! Stage `prepare`: the mirror has the base commit, the worktree stands at it, and the backend's document is written.

use std::fs;
use std::path::Path;

use super::halt::Halt;
use super::in_time::in_time;
use super::journal::Phase;
use super::open::Attempt;
use super::place;
use super::spending;
use crate::backends::SpecDocument;
use crate::gates::{self, OWN_GATES, OWN_GATES_SIZE};
use crate::git::{BaseFile, GitError, Mirror, TakenOver, Worktree};
use crate::ids::ObjectId;
use crate::job::spec::Gate;
use crate::job::{Deadline, OutcomeClass, PreviousAttempt, RetryFrom, Stage};

pub(super) async fn run(attempt: &mut Attempt) -> Result<Phase, Halt> {
    attempt.stages.enter(Stage::Prepare, attempt.now());
    let claim = attempt.claimed.claim.clone();
    attempt.say(&format!("attempt {} on worker {}", claim.attempt, claim.worker));

    let base = match Worktree::open(&attempt.tools.git, attempt.slot_root()) {
        // A daemon before this one came so far, and may not have come to say where it begins.
        Ok(worktree) => {
            let base = worktree.base().clone();
            record_base(attempt, &base).await?;
            base
        }
        Err(GitError::NoWorktree { .. }) => provision(attempt).await?,
        Err(error) => return Err(error.into()),
    };
    attempt.say(&format!("worktree of {} at {} on branch {}", attempt.remote, base.short(), attempt.claimed.job.branch));

    if let Some(limit) = attempt.journal.time_limit.clone() {
        attempt.insist(|| attempt.tools.store.record_time_limit(&attempt.claimed.claim, &limit)).await?;
    }
    attempt.journal.gates = Some(gates(attempt, &base).await?);
    find_salvage(attempt).await?;
    if let Some(previous) = &attempt.claimed.previous {
        let how = previous.outcome.as_ref().map_or_else(|| "without a word".to_owned(), ToString::to_string);
        let salvage = previous.salvage.as_ref().map_or_else(String::new, |commit| format!("; what it left is in {commit}"));
        attempt.say(&format!("attempt {} ended {how}{salvage}", previous.attempt));
    }
    attempt.journal.previous = match attempt.claimed.previous.clone() {
        Some(mut previous) => {
            previous.rejections = attempt.insist(|| attempt.tools.store.rejections(claim.job, previous.attempt)).await?;
            previous.taken_over = take_over(attempt, &base, &previous).await?;
            Some(previous)
        }
        None => None,
    };
    attempt.journal.answers = match &attempt.claimed.previous {
        Some(_) => attempt.insist(|| attempt.tools.store.answers(claim.job)).await?,
        None => Vec::new(),
    };
    attempt.journal.left = spending::left(attempt).await?;
    write_spec(attempt, &attempt.slot.spec())?;
    Ok(Phase::Prepared { base })
}

/// What judges the results: the gates of the job, and those that the base commit has. What the job makes of that file counts for those
/// who begin at its commit.
async fn gates(attempt: &Attempt, base: &ObjectId) -> Result<Vec<Gate>, Halt> {
    let worktree = Worktree::open(&attempt.tools.git, attempt.slot_root())?;
    let malformed = |why: String| {
        let message = format!("{OWN_GATES} of the base commit {} is no list of gates: {why}", base.short());
        Halt::failed(OutcomeClass::Invalid, message)
    };
    let own = match within(attempt, worktree.base_file(OWN_GATES, OWN_GATES_SIZE)).await? {
        BaseFile::Missing => Vec::new(),
        BaseFile::Content(content) => gates::own(&content).map_err(malformed)?,
        BaseFile::NoFile => return Err(malformed("it is no plain file".to_owned())),
        BaseFile::TooLarge(size) => {
            return Err(malformed(format!("it has {size} bytes, and {OWN_GATES_SIZE} is the most")));
        }
    };
    if !own.is_empty() {
        let names: Vec<&str> = own.iter().map(|gate| gate.name.as_str()).collect();
        attempt.say(&format!("gates of the base commit: {}", names.join(", ")));
    }
    Ok(attempt.claimed.job.spec.gates.iter().cloned().chain(own).collect())
}

/// Makes the worktree at the commit that the job's base is now.
async fn provision(attempt: &Attempt) -> Result<ObjectId, Halt> {
    let mirror = attempt.tools.git.mirror(&attempt.remote);
    let base = within(attempt, mirror.resolve(&attempt.claimed.job.base)).await?;
    // Neither waits for the other; where both fail, it is said first that the claim is lost.
    let (recorded, provisioned) = tokio::join!(record_base(attempt, &base), provision_at(attempt, &mirror, &base));
    recorded?;
    provisioned?;
    Ok(base)
}

async fn record_base(attempt: &Attempt, base: &ObjectId) -> Result<(), Halt> {
    attempt.insist(|| attempt.tools.store.record_base(&attempt.claimed.claim, base)).await
}

async fn provision_at(attempt: &Attempt, mirror: &Mirror, base: &ObjectId) -> Result<(), Halt> {
    let branch = &attempt.claimed.job.branch;
    let mut provisioner = attempt.tools.provisioner.clone();
    if provisioner.is_private() && place::may_be_container(attempt).await {
        provisioner = provisioner.for_others();
        attempt.say(&format!("the worktree is recycled, and no overlay: {}", provisioner.reason()));
    }
    within(attempt, mirror.provision(base, branch, attempt.slot_root(), &provisioner)).await.map(drop)
}

/// Puts what the attempt before this one left over the files of the base, where that is wanted and can be, and says whether it did.
async fn take_over(attempt: &Attempt, base: &ObjectId, previous: &PreviousAttempt) -> Result<bool, Halt> {
    if attempt.claimed.job.spec.retry_from.unwrap_or(attempt.tools.config.retry_from) == RetryFrom::Clean {
        return Ok(false);
    }
    let number = previous.attempt;
    let Some(salvage) = &previous.salvage else {
        attempt.say(&format!("begins clean: there is nothing that attempt {number} left"));
        return Ok(false);
    };
    let worktree = Worktree::open(&attempt.tools.git, attempt.slot_root())?;
    let taken = within(attempt, worktree.take_over(salvage)).await?;
    let why = match taken {
        TakenOver::Whole => {
            attempt.say(&format!("begins with what attempt {number} left, {}", salvage.short()));
            return Ok(true);
        }
        TakenOver::Not(why) => why,
        TakenOver::Part(why) => {
            // Between the one worktree and the next, the mirror would be nobody's.
            let mirror = attempt.tools.git.mirror(&attempt.remote);
            within(attempt, mirror.resolve(base.as_str())).await?;
            worktree.discard(attempt.tools.state.trash().dir()).await?;
            provision_at(attempt, &mirror, base).await?;
            why
        }
    };
    attempt.say(&format!("begins clean, and not with what attempt {number} left: {why}"));
    Ok(false)
}

/// Fetches what the attempt before this one left. When its worker was gone for good, its supervisor salvaged, and could put
/// that on no record but the remote.
async fn find_salvage(attempt: &mut Attempt) -> Result<(), Halt> {
    let Some(number) = attempt.claimed.previous.as_ref().map(|previous| previous.attempt) else { return Ok(()) };
    let mirror = attempt.tools.git.mirror(&attempt.remote);
    let found = within(attempt, mirror.salvages(attempt.claimed.claim.job)).await?;
    let newest = found.into_iter().find(|(of, _)| *of == number).map(|(_, commit)| commit);
    if let Some(previous) = &mut attempt.claimed.previous {
        previous.salvage = newest.or(previous.salvage.take());
    }
    Ok(())
}

/// Runs a step of git's under the attempt's deadline and its requests to stop.
pub(super) async fn within<T>(attempt: &Attempt, step: impl Future<Output = Result<T, crate::git::GitError>>) -> Result<T, Halt> {
    let late = || Halt::failed(OutcomeClass::Timeout, "the attempt met its deadline while git was at work");
    Ok(in_time(attempt, Deadline::left, step).await.map_err(|cut| cut.or(late))??)
}

/// What the backend is told of the job.
pub(super) fn document(attempt: &Attempt) -> SpecDocument {
    SpecDocument {
        schema: 1,
        job: attempt.claimed.claim.job,
        attempt: attempt.claimed.claim.attempt,
        task: attempt.claimed.job.spec.task.clone(),
        deadline_ms: attempt.deadline().work_until(),
        budget: attempt.journal.left.clone(),
        previous: attempt.journal.previous.clone(),
        revision: attempt.journal.revision.clone(),
        answers: attempt.journal.answers.clone(),
    }
}

/// Writes the backend's document, which gates get too. It is moved there: a job may have put anything in its place.
pub(super) fn write_spec(attempt: &Attempt, path: &Path) -> Result<(), Halt> {
    let failed = |error: &dyn std::error::Error| Halt::infrastructure("cannot write the backend's document", error);
    let bytes = serde_json::to_vec_pretty(&document(attempt)).map_err(|error| failed(&error))?;
    let draft = attempt.slot.run().join("spec.json");
    fs::write(&draft, bytes).and_then(|()| fs::rename(&draft, path)).map_err(|error| failed(&error))
}
