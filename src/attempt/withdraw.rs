//! What a push left on the remote, although its claim is lost or its attempt was stopped, is taken back.
//!
//! The one rule: no branch stays there that the job's record does not name. A remote holds a push against what it has, and knows nothing
//! of claims: one that slept through the end of its lease can make a branch where the attempt after it left none, or an integrator has
//! taken it away.

use std::path::PathBuf;
use std::time::Duration;

use tracing::{info, warn};

use super::halt::Halt;
use super::journal::Phase;
use super::open::Attempt;
use crate::git::{Git, Worktree};
use crate::ids::{JobId, ObjectId};
use crate::job::{BranchName, Stage};
use crate::store::Store;

/// A commit that an attempt has pushed, or was about to.
pub(super) struct Withdrawal {
    store: Store,
    git: Git,
    slot: PathBuf,
    within: Duration,
    job: JobId,
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
            within: attempt.tools.config.close_timeout,
            job: job.id,
            commit: committed.commit.clone(),
            branch: job.branch.clone(),
        })
    }

    /// Takes it back where it is on the remote and not on record.
    pub(super) async fn make(&self) {
        let (job, branch, commit) = (self.job, &self.branch, self.commit.short());
        match tokio::time::timeout(self.within, self.try_to()).await {
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
        // Its end may be on record, and only the answer was lost.
        if self.store.job(self.job).await?.commit.as_ref() == Some(&self.commit) {
            return Ok(false);
        }
        Ok(Worktree::open(&self.git, &self.slot)?.withdraw(&self.commit, &self.branch).await?)
    }
}
