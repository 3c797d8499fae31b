//! What a push left on the remote, although its claim is lost or its attempt was stopped, is taken back.
//!
//! No branch stays there that the job's record does not name. A remote holds a push against what it has, and knows nothing of claims: one
//! that slept through the end of its lease can make a branch where the attempt after it left none, or an integrator has taken it away.
//!
//! The one rule: nothing is taken back while the claim is on record. The end that delivers it may be on its way: a server goes on with a
//! statement although nobody waits for the answer any more. Once somebody else has taken the claim off the record, it comes too late.

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::halt::Halt;
use super::journal::Phase;
use super::open::Attempt;
use crate::git::{Git, Worktree};
use crate::ids::ObjectId;
use crate::job::{BranchName, Claim, JobState, Stage};
use crate::store::Store;

/// How often it is looked whether the claim is on record still: whoever takes it off looks for that now and then, too.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// For how long: whoever takes lost claims off the record has done so by then, if anybody is there.
const WITHIN: Duration = Duration::from_secs(60);

/// A commit that an attempt has pushed, or was about to.
pub(super) struct Withdrawal {
    store: Store,
    git: Git,
    slot: PathBuf,
    within: Duration,
    claim: Claim,
    commit: ObjectId,
    branch: BranchName,
}

impl Withdrawal {
    /// What there may be to take back of an attempt.
    pub(super) fn of(attempt: &Attempt) -> Option<Self> {
        let Phase::Judged { commit: Some(committed), .. } = &attempt.journal.phase else { return None };
        let job = &attempt.claimed.job;
        let was_pushing = attempt.stages.records().iter().any(|record| record.stage == Stage::Publish);
        (was_pushing && job.spec.deliver.push).then(|| Self {
            store: attempt.tools.store.clone(),
            git: attempt.tools.git.clone(),
            slot: attempt.slot_root().to_owned(),
            within: attempt.tools.config.close_timeout.min(WITHIN),
            claim: attempt.claimed.claim.clone(),
            commit: committed.commit.clone(),
            branch: job.branch.clone(),
        })
    }

    /// Takes it back where it is on the remote and not on record. Waits until the claim is not on record any more.
    pub(super) async fn make(&self) {
        let (job, branch, commit) = (self.claim.job, &self.branch, self.commit.short());
        match timeout(self.within, self.try_to()).await {
            Ok(Ok(false)) => {}
            Ok(Ok(true)) => info!("took back {branch}, which job {job} had pushed although it was stopped"),
            Ok(Err(halt)) => {
                let why = halt.outcome().map_or_else(|| "the claim is lost".to_owned(), |outcome| outcome.message);
                warn!("cannot tell whether job {job} left {commit} as {branch} when it was stopped: {why}");
            }
            Err(_) => warn!("looking whether job {job} left {commit} as {branch} when it was stopped took too long"),
        }
    }

    async fn try_to(&self) -> Result<bool, Halt> {
        loop {
            let job = self.store.job(self.claim.job).await?;
            if job.commit.as_ref() == Some(&self.commit) {
                return Ok(false);
            }
            if job.state != JobState::Running || job.attempt != Some(self.claim.attempt) {
                break;
            }
            sleep(LOOK_EVERY).await;
        }
        Ok(Worktree::open(&self.git, &self.slot)?.withdraw(&self.commit, &self.branch).await?)
    }
}
