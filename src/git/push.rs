//! A commit reaches the remote, on a branch that must not be there yet.
//!
//! The one rule: nothing of others on the remote is ever overwritten. Every push says that it expects no such ref, or what
//! an earlier attempt at the same job left there, and the remote itself holds that against what it has in the moment of the
//! update.

use std::time::Duration;

use super::checkout::Checkout;
use super::error::GitError;
use super::mirror::Mirror;
use super::running::Finished;
use super::worktree::Worktree;
use super::{Remote, diagnose, lfs, local_push};
use crate::ids::{AttemptNo, JobId, ObjectId};
use crate::job::{BranchName, Claim};

/// How often a push is tried while the remote has a lock on the ref, and the first wait; each further one is twice as long. Nobody
/// else writes refs of ours: it is an earlier push, which the remote goes on with after its git was ended here.
const TRIES: u32 = 6;
const WAIT: Duration = Duration::from_millis(100);
/// What git says where the remote has not what a push expects.
const STALE: &str = "(stale info)";

/// What a push did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// The branch is new.
    New,
    /// The branch was there already, at this very commit: an earlier push of ours whose answer was lost.
    Already,
    /// The branch was there with what an earlier attempt at the same job had pushed before it lost its claim. Nobody was told
    /// of that; this commit is there in its place, or where its worker took it back meanwhile.
    Superseded,
}

/// What the ref on the remote is expected to be before a push.
#[derive(Debug, Clone, Copy)]
pub(super) enum Expected<'a> {
    /// Not there.
    Absent,
    /// At this commit.
    At(&'a ObjectId),
}

impl<'a> Expected<'a> {
    pub(super) fn commit(self) -> Option<&'a ObjectId> {
        match self {
            Self::Absent => None,
            Self::At(commit) => Some(commit),
        }
    }
}

impl Worktree {
    /// Pushes `commit`, which [`Worktree::commit`] answered, as `branch`. Cancelling it leaves open whether the branch
    /// arrived; calling it again finds out.
    ///
    /// # Errors
    /// [`GitError::BranchMoved`] when the branch is there at another commit; [`GitError::PushRefused`] with the remote's
    /// reason; [`GitError::RemoteLocked`] when its lock stays there; [`GitError::BranchGone`]; [`GitError::Unreachable`], [`GitError::NeedsPassword`],
    /// [`GitError::RemoteMissing`]; LFS files that cannot be uploaded.
    pub async fn push(&self, commit: &ObjectId, branch: &BranchName) -> Result<Pushed, GitError> {
        let pushed = push_ref(&self.mirror, &self.checkout, commit, &branch.to_ref(), Expected::Absent).await?;
        self.note_delivered(commit)?;
        Ok(pushed)
    }
}

impl Worktree {
    /// As [`Worktree::push`], for an attempt that may not be the first: what an earlier one pushed, whose end was never put on
    /// record, makes way. A later attempt's does not.
    ///
    /// # Errors
    /// Those of [`Worktree::push`].
    pub async fn deliver(&self, commit: &ObjectId, branch: &BranchName, claim: &Claim) -> Result<Pushed, GitError> {
        let (found, moved) = match self.push(commit, branch).await {
            Err(GitError::BranchMoved { remote, branch, found }) => {
                (found.clone(), GitError::BranchMoved { remote, branch, found })
            }
            result => return result,
        };
        match self.mirror.author_of(&found).await? {
            Some((job, attempt)) if job == claim.job && attempt < claim.attempt => {}
            _ => return Err(moved),
        }
        match push_ref(&self.mirror, &self.checkout, commit, &branch.to_ref(), Expected::At(&found)).await {
            Ok(_) => {
                self.note_delivered(commit)?;
                Ok(Pushed::Superseded)
            }
            Err(error) => Err(error),
        }
    }
}

impl Worktree {
    /// Whether the remote has `commit` as `branch` now.
    ///
    /// # Errors
    /// The remote cannot be asked.
    pub async fn is_delivered(&self, commit: &ObjectId, branch: &BranchName) -> Result<bool, GitError> {
        self.mirror.has_on_remote(&branch.to_ref(), commit).await
    }
}

impl Mirror {
    /// The job and the attempt that made a commit on the remote, where its trailers name them.
    async fn author_of(&self, commit: &ObjectId) -> Result<Option<(JobId, AttemptNo)>, GitError> {
        self.fetch_commit(commit).await?;
        let read = async |key: &str| {
            let command = self.git.command(format!("read the trailers of {}", commit.short()), &self.dir);
            let format = format!("--format=%(trailers:key={key},valueonly)");
            let answer = command.args(["log", "--max-count=1", "--no-show-signature", &format, commit.as_str()]).run().await?;
            Ok::<String, GitError>(answer.line())
        };
        let (job, attempt) = (read("Sawmill-Job").await?, read("Sawmill-Attempt").await?);
        Ok(job.parse().ok().zip(attempt.parse().ok().map(AttemptNo)))
    }
}

/// Pushes `commit` as `target` if the remote has what is expected there. Where that, or what was in the way, has gone meanwhile, because a
/// worker took back what an earlier attempt had pushed, nothing is expected there any more.
pub(super) async fn push_ref(
    mirror: &Mirror,
    checkout: &Checkout,
    commit: &ObjectId,
    target: &str,
    mut expected: Expected<'_>,
) -> Result<Pushed, GitError> {
    lfs::upload(&mirror.git, checkout, &mirror.remote, commit, target).await?;
    let mut wait = WAIT;
    for _ in 1..TRIES {
        match push_once(mirror, checkout, commit, target, expected).await {
            Err(GitError::RemoteLocked { lock, .. }) => {
                tracing::debug!("waiting for the remote's lock {lock}");
                tokio::time::sleep(wait).await;
                wait *= 2;
            }
            Err(GitError::BranchGone { .. }) => expected = Expected::Absent,
            result => return result,
        }
    }
    push_once(mirror, checkout, commit, target, expected).await
}

async fn push_once(
    mirror: &Mirror,
    checkout: &Checkout,
    commit: &ObjectId,
    target: &str,
    expected: Expected<'_>,
) -> Result<Pushed, GitError> {
    let (answer, finished) = match local_push::push(mirror, commit, target, expected).await? {
        Some(answered) => answered,
        None => push_by_git(mirror, checkout, commit, target, expected).await?,
    };
    match answer {
        Answer::Done(pushed) => Ok(pushed),
        Answer::Rejected(reason) => why_rejected(mirror, commit, target, expected, &reason, &finished).await,
    }
}

async fn push_by_git(
    mirror: &Mirror,
    checkout: &Checkout,
    commit: &ObjectId,
    target: &str,
    expected: Expected<'_>,
) -> Result<(Answer, Finished), GitError> {
    let (git, remote) = (&mirror.git, &mirror.remote);
    let old = expected.commit().map_or("", ObjectId::as_str);
    let action = format!("push {target} to {remote}");
    let finished = checkout
        .command(git, &action)
        .origin(remote)
        .args(["push", "--porcelain", "--no-verify", "--atomic", "--no-follow-tags", "--recurse-submodules=no"])
        .arg(format!("--force-with-lease={target}:{old}"))
        .args(["origin", &format!("{commit}:{target}")])
        .finish()
        .await?;
    match Answer::read(&finished, target) {
        Some(answer) => Ok((answer, finished)),
        None => Err(diagnose::network(remote, &action, &finished.stderr)),
    }
}

/// What became of a ref.
pub(super) enum Answer {
    Done(Pushed),
    Rejected(String),
}

impl Answer {
    /// What `git push --porcelain` says of one ref: a flag, the refspec, and a remark, with tabs between.
    pub(super) fn read(finished: &Finished, target: &str) -> Option<Self> {
        let text = String::from_utf8_lossy(&finished.stdout);
        let mut fields = text.lines().map(|line| line.splitn(3, '\t')).find_map(|mut fields| {
            let flag = fields.next()?;
            let spec = fields.next()?;
            spec.ends_with(&format!(":{target}")).then(|| (flag.to_owned(), fields.next().unwrap_or_default().to_owned()))
        });
        let (flag, remark) = fields.take()?;
        match flag.as_str() {
            "=" => Some(Self::Done(Pushed::Already)),
            "!" => Some(Self::Rejected(remark)),
            _ if finished.code == Some(0) => Some(Self::Done(Pushed::New)),
            _ => None,
        }
    }
}

/// Tells a branch that moved from a remote that does not want it, by looking at what the remote has now.
async fn why_rejected(
    mirror: &Mirror,
    commit: &ObjectId,
    target: &str,
    expected: Expected<'_>,
    reason: &str,
    finished: &Finished,
) -> Result<Pushed, GitError> {
    let (remote, branch) = (mirror.remote.clone(), target.strip_prefix("refs/heads/").unwrap_or(target).to_owned());
    let now = mirror.remote_refs(&[target.to_owned()]).await?.into_iter().find(|one| one.name == target);
    match (now, expected) {
        (Some(found), _) if found.commit == *commit => return Ok(Pushed::Already),
        (Some(found), Expected::At(old)) if found.commit == *old => {}
        (Some(found), _) => return Err(GitError::BranchMoved { remote, branch, found: found.commit }),
        // Where it goes while the remote is about to change it, that says something else.
        (None, Expected::At(_)) => return Err(GitError::BranchGone { remote, branch }),
        (None, _) if reason.ends_with(STALE) => return Err(GitError::BranchGone { remote, branch }),
        (None, _) => {}
    }
    Err(refused(remote, branch, reason, finished))
}

/// A remote that does not want it, or has a lock on it.
pub(super) fn refused(remote: Remote, branch: String, reason: &str, finished: &Finished) -> GitError {
    match diagnose::lock_in_the_way(&finished.stderr) {
        Some(lock) => GitError::RemoteLocked { remote, branch, lock: lock.to_owned() },
        None => GitError::PushRefused { remote, branch, message: diagnose::why_refused(reason.to_owned(), &finished.stderr) },
    }
}
