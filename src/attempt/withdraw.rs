//! What a push left on the remote, although the attempt did not end as delivered, is taken back.
//!
//! No branch is to stay there that the job's record does not name. A remote holds a push against what it has, and knows nothing of claims:
//! one that slept through the end of its lease can make a branch where the attempt after it left none, or an integrator has taken it away.
//!
//! The one rule: nothing is taken back while the claim is on record. The end that delivers it may be on its way: a server goes on with a
//! statement although nobody waits for the answer any more. Once somebody else has taken the claim off the record, it comes too late.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;
use std::{fs, io};

use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use super::Ended;
use super::halt::chain;
use super::journal::{Journal, JournalError};
use super::open::Attempt;
use super::push_note::{Note, forget};
use crate::git::{Git, GitError, Mirror, Remote};
use crate::job::JobState;
use crate::store::{Store, StoreError};
use crate::workspace::StateDir;

/// How often it is looked whether the claim is on record still: whoever takes it off looks for that now and then, too. So it is for a
/// database, and for a remote, that is away.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// For how long at least. A lease that its worker has given up is over soon, and then for as long again nothing may expire.
const WITHIN: Duration = Duration::from_secs(60);
/// After so long nobody tries any more to take back what the remote, or the database, does not let be looked for.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(7 * 24 * 3600);
/// For so long each of these failures is said.
const SAID_FOR: Duration = Duration::from_secs(3600);

/// A commit that an attempt has pushed, or was about to.
pub struct Withdrawal {
    store: Store,
    mirror: Mirror,
    within: Duration,
    note: Note,
    path: PathBuf,
}

impl Withdrawal {
    /// What there may be to take back of an attempt.
    pub(super) fn of(attempt: &Attempt) -> Option<Self> {
        let tools = &attempt.tools;
        let path = Note::path(&tools.state, &attempt.claimed.claim);
        Self::read(path, (&tools.store, &tools.git, tools.config.close_timeout))
    }

    /// What there may be to take back of attempts of this worker that are in no slot any more, whichever daemon made them.
    ///
    /// # Errors
    /// A directory cannot be read.
    pub fn left(state: &StateDir, by: (&Store, &Git, Duration)) -> io::Result<Vec<Self>> {
        let mut paths = fs::read_dir(state.pushes())?.map(|entry| Ok(entry?.path())).collect::<io::Result<BTreeSet<_>>>()?;
        // After those were listed: an attempt has a journal before it has anything else, and what it pushes is its own affair until that goes.
        for slot in state.slots()? {
            match Journal::read(&slot.journal()) {
                Ok(Some(journal)) => {
                    paths.remove(&Note::path(state, &journal.claim));
                }
                // Nobody goes on with one that is malformed.
                Ok(None) | Err(JournalError::Malformed { .. }) => {}
                Err(JournalError::Io { source, .. }) => return Err(source),
            }
        }
        Ok(paths.into_iter().filter_map(|path| Self::read(path, by)).collect())
    }

    /// Nothing where there is none, or it cannot be read now; one that never can be is removed.
    fn read(path: PathBuf, (store, git, close_timeout): (&Store, &Git, Duration)) -> Option<Self> {
        let usable = Note::read(&path).and_then(|note| {
            let remote =
                |note: &Note| note.repo.parse::<Remote>().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error));
            note.map(|note| Ok((remote(&note)?, note))).transpose()
        });
        let (remote, note) = match usable {
            Ok(found) => found?,
            Err(error) if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) => {
                warn!("{} does not tell what was pushed, and is removed: {error}", path.display());
                forget(&path);
                return None;
            }
            Err(error) => {
                warn!("cannot read in {} what was pushed: {error}", path.display());
                return None;
            }
        };
        let within = WITHIN.max(store.lease() * 2).min(close_timeout);
        Some(Self { store: store.clone(), mirror: git.mirror(&remote), within, note, path })
    }

    /// Takes it back after such an end, where it is on the remote and not on record.
    pub(super) async fn after(self, ended: &Ended) {
        match ended {
            Ended::Recorded(job) if job.commit.as_ref() == Some(&self.note.commit) => forget(&self.path),
            // The next daemon puts it on record.
            Ended::Unrecorded => {}
            Ended::Recorded(_) | Ended::Lost => self.make().await,
        }
    }

    /// Takes it back once its claim is off the record, where it is on the remote and not on record. Where that cannot be told now, and where
    /// this is dropped before it is through, somebody is to try again.
    pub async fn make(&self) {
        let Note { claim, branch, commit, .. } = &self.note;
        let (job, commit) = (claim.job, commit.short());
        let why = match timeout(self.within, self.insist()).await {
            Ok(Ok(false)) => return forget(&self.path),
            Ok(Ok(true)) => {
                info!("took back {branch}, which job {job} had pushed and did not deliver");
                return forget(&self.path);
            }
            Ok(Err(error)) => chain(&*error),
            Err(_) => format!("its claim is on record still, or nobody answers within {:?}", self.within),
        };
        let age = fs::metadata(&self.path).and_then(|found| found.modified()).ok().and_then(|at| at.elapsed().ok());
        if age.is_some_and(|age| age > GIVEN_UP_AFTER) {
            warn!("should job {job} have left {commit} as {branch}, it stays, since that is more than a week ago: {why}");
            return forget(&self.path);
        }
        let said = format!("cannot take {commit} back, should job {job} have left it as {branch}; trying again: {why}");
        if age.is_some_and(|age| age > SAID_FOR) {
            debug!("{said}");
        } else {
            warn!("{said}");
        }
    }

    /// Looks until it can be told.
    async fn insist(&self) -> Result<bool, Box<dyn std::error::Error + Send + Sync>> {
        let Note { claim, branch, commit, .. } = &self.note;
        loop {
            match self.store.job(claim.job).await {
                // Its end may be on record, and only the answer was lost.
                Ok(job) if job.commit.as_ref() == Some(commit) => return Ok(false),
                Ok(job) if job.state == JobState::Running && job.attempt == Some(claim.attempt) => {}
                Ok(_) => match self.mirror.withdraw(commit, branch).await {
                    Err(error @ (GitError::Unreachable { .. } | GitError::RemoteLocked { .. })) => debug!("{}", chain(&error)),
                    looked => return Ok(looked?),
                },
                // Whether it was delivered went with it.
                Err(StoreError::NotFound { .. }) => return Ok(false),
                Err(error) if error.is_transient() => debug!("{}", chain(&error)),
                Err(error) => return Err(error.into()),
            }
            sleep(LOOK_EVERY).await;
        }
    }
}
