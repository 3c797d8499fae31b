//! What a push left on the remote, although the attempt did not end as delivered, is taken back.
//!
//! No branch is to stay there that the job's record does not name. A remote holds a push against what it has, and knows nothing of claims:
//! one that slept through the end of its lease can make a branch where the attempt after it left none, or an integrator has taken it away.
//!
//! The one rule: nothing is taken back while the claim is on record. The end that delivers it may be on its way: a server goes on with a
//! statement although nobody waits for the answer any more. Once somebody else has taken the claim off the record, it comes too late.

use std::time::Duration;

use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use super::Ended;
use super::halt::chain;
use super::journal::{Journal, Phase};
use super::open::Attempt;
use crate::git::{Git, GitError, Mirror, Remote};
use crate::ids::ObjectId;
use crate::job::{BranchName, Claim, JobState, Stage};
use crate::store::{Store, StoreError};
use crate::workspace::SlotDir;

/// How often it is looked whether the claim is on record still: whoever takes it off looks for that now and then, too. So it is for a
/// database, and for a remote, that is away.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// For how long at least. A lease that its worker has given up is over soon, and then for as long again nothing may expire.
const WITHIN: Duration = Duration::from_secs(60);

/// A commit that an attempt has pushed, or was about to.
pub struct Withdrawal {
    store: Store,
    mirror: Mirror,
    within: Duration,
    claim: Claim,
    commit: ObjectId,
    branch: BranchName,
}

impl Withdrawal {
    /// What there may be to take back of an attempt.
    pub(super) fn of(attempt: &Attempt) -> Option<Self> {
        let commit = judged(&attempt.journal.phase)?;
        let (job, tools) = (&attempt.claimed.job, &attempt.tools);
        let was_pushing = attempt.stages.records().iter().any(|record| record.stage == Stage::Publish);
        (was_pushing && job.spec.deliver.push).then(|| Self {
            store: tools.store.clone(),
            mirror: tools.git.mirror(&attempt.remote),
            within: within(&tools.store, tools.config.close_timeout),
            claim: attempt.claimed.claim.clone(),
            commit: commit.clone(),
            branch: job.branch.clone(),
        })
    }

    /// What there may be to take back of an attempt that an earlier daemon left in a slot, and that nobody goes on with.
    ///
    /// # Errors
    /// When the database cannot be asked for its job.
    pub async fn left_in(slot: &SlotDir, store: &Store, git: &Git, close_timeout: Duration) -> Result<Option<Self>, StoreError> {
        let Some(journal) = Journal::read(&slot.journal()).ok().flatten() else { return Ok(None) };
        // Whether it was pushed already is not told by what is in the slot.
        let Some(commit) = judged(&journal.phase) else { return Ok(None) };
        let job = match store.job(journal.claim.job).await {
            Ok(job) if job.spec.deliver.push => job,
            Ok(_) | Err(StoreError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let remote = job.repo.parse::<Remote>().ok();
        Ok(remote.map(|remote| Self {
            store: store.clone(),
            mirror: git.mirror(&remote),
            within: within(store, close_timeout),
            claim: journal.claim.clone(),
            commit: commit.clone(),
            branch: job.branch,
        }))
    }

    /// Takes it back after such an end, where it is on the remote and not on record.
    pub(super) async fn after(self, ended: &Ended) {
        match ended {
            Ended::Recorded(job) if job.commit.as_ref() == Some(&self.commit) => {}
            // The next daemon puts it on record.
            Ended::Unrecorded => {}
            Ended::Recorded(_) | Ended::Lost => self.make().await,
        }
    }

    /// Takes it back once its claim is off the record, where it is on the remote and not on record. Who drops this before it is through
    /// leaves it there.
    pub async fn make(&self) {
        let (job, branch, commit) = (self.claim.job, &self.branch, self.commit.short());
        match timeout(self.within, self.insist()).await {
            Ok(Ok(false)) => {}
            Ok(Ok(true)) => info!("took back {branch}, which job {job} had pushed and did not deliver"),
            Ok(Err(error)) => warn!("cannot take {commit} back, should job {job} have left it as {branch}: {}", chain(&*error)),
            Err(_) => warn!(
                "cannot tell within {:?} whether job {job} left {commit} as {branch}: its claim is on record still, or nobody answers",
                self.within
            ),
        }
    }

    /// Looks until it can be told.
    async fn insist(&self) -> Result<bool, Box<dyn std::error::Error + Send + Sync>> {
        loop {
            match self.store.job(self.claim.job).await {
                // Its end may be on record, and only the answer was lost.
                Ok(job) if job.commit.as_ref() == Some(&self.commit) => return Ok(false),
                Ok(job) if job.state == JobState::Running && job.attempt == Some(self.claim.attempt) => {}
                Ok(_) => match self.mirror.withdraw(&self.commit, &self.branch).await {
                    Err(error @ GitError::Unreachable { .. }) => debug!("{}", chain(&error)),
                    looked => return Ok(looked?),
                },
                Err(error) if error.is_transient() => debug!("{}", chain(&error)),
                Err(error) => return Err(error.into()),
            }
            sleep(LOOK_EVERY).await;
        }
    }
}

/// The commit that an attempt may push.
const fn judged(phase: &Phase) -> Option<&ObjectId> {
    if let Phase::Judged { commit: Some(committed), .. } = phase { Some(&committed.commit) } else { None }
}

fn within(store: &Store, close_timeout: Duration) -> Duration {
    WITHIN.max(store.lease() * 2).min(close_timeout)
}
