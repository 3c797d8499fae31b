//! What a push left on the remote, although the attempt did not end as delivered, is taken back.
//!
//! No branch is to stay there that the job's record does not name. A remote holds a push against what it has, and knows nothing of claims:
//! one that slept through the end of its lease can make a branch where the attempt after it left none, or an integrator has taken it away.
//!
//! The one rule: nothing is taken back while the claim is on record. The end that delivers it may be on its way: a server goes on with a
//! statement although nobody waits for the answer any more. Once somebody else has taken the claim off the record, it comes too late.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use super::Ended;
use super::halt::{Halt, chain};
use super::journal::{Journal, JournalError};
use super::open::Attempt;
use crate::git::{Git, GitError, Mirror, Remote};
use crate::ids::ObjectId;
use crate::job::{BranchName, Claim, JobState};
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

/// What is on disk of a push, from before it is begun until it is known to be delivered or is taken back. Whatever becomes of the daemon and
/// of the slot, it is found. Like a journal it need not outlive the host.
#[derive(PartialEq, Serialize, Deserialize)]
struct Note {
    claim: Claim,
    /// With whatever secret the address has.
    repo: String,
    branch: BranchName,
    commit: ObjectId,
}

impl Note {
    fn of(attempt: &Attempt, commit: &ObjectId) -> Self {
        let (claim, job) = (attempt.claimed.claim.clone(), &attempt.claimed.job);
        Self { claim, repo: job.repo.clone(), branch: job.branch.clone(), commit: commit.clone() }
    }

    fn path(state: &StateDir, claim: &Claim) -> PathBuf {
        state.pushes().join(format!("{}-{}.json", claim.job, claim.attempt))
    }

    /// Nobody but its attempt reads it before that is over; a half one was left before the push was begun.
    fn write(&self, path: &Path) -> io::Result<()> {
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        Ok(serde_json::to_writer(file, self)?)
    }

    fn read(path: &Path) -> io::Result<Option<Self>> {
        match fs::read(path) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Writes down that the attempt is about to push this commit.
pub(super) fn announce(attempt: &Attempt, commit: &ObjectId) -> Result<(), Halt> {
    let (path, note) = (Note::path(&attempt.tools.state, &attempt.claimed.claim), Note::of(attempt, commit));
    // A daemon before this one may have pushed it already: that is not to be forgotten while it is written anew.
    if Note::read(&path).is_ok_and(|found| found.as_ref() == Some(&note)) {
        return Ok(());
    }
    let failed = |error| Halt::infrastructure(&format!("cannot write down in {} what is pushed", path.display()), &error);
    note.write(&path).map_err(failed)
}

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

fn forget(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => warn!("cannot remove {}: {error}", path.display()),
        _ => {}
    }
}
