//! Nothing is lost: what a job left uncommitted is kept on a ref of its own before its worktree goes.
//!
//! The one rule: salvage never refuses for what the tree contains. What git will not take as it is (a nested repository, a
//! submodule with changes, an attribute that cannot be obeyed) is taken as plain files; what cannot be read is left out.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;

use super::checkout::Checkout;
use super::diagnose;
use super::diff::Changes;
use super::error::{GitError, io_error};
use super::fetch::remove_if_there;
use super::journal::Identity;
use super::mirror::Mirror;
use super::nested;
use super::push::{Expected, push_ref};
use super::stage::Stage;
use super::submodules::{State, inspect};
use super::worktree::Worktree;
use crate::ids::{AttemptNo, JobId, ObjectId};

/// How far a salvage goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SalvagePush {
    /// Into this worker's mirror.
    Local,
    /// To the remote as well, where other workers find it.
    Remote,
}

/// The name of the file with the commit that reached the remote.
const DELIVERED: &str = "delivered";

impl Worktree {
    /// Commits everything that differs from the base, and from what was already pushed from here, and keeps it as
    /// `refs/sawmill/salvage/<job>/<attempt>`. It works whatever the job did to its own `.git`. Called again for the same
    /// attempt it answers the same commit, or one on top of it where the tree changed since.
    ///
    /// # Errors
    /// Never for what the tree contains. The mirror's disk is full, or the remote does not take it: then the mirror has it.
    pub async fn salvage(&self, job: JobId, attempt: AttemptNo, push: SalvagePush) -> Result<Option<ObjectId>, GitError> {
        if Identity::of(self.tree()).is_none() {
            tracing::warn!(job.id = %job, tree = %self.tree().display(), "there is no tree to salvage from");
            return Ok(None);
        }
        if self.has_nothing_to_salvage().await? {
            return Ok(None);
        }
        let tree = match self.salvage_tree().await {
            Err(error @ (GitError::DiskFull { .. } | GitError::Timeout { .. } | GitError::Program { .. })) => return Err(error),
            Err(error) => {
                tracing::warn!(job.id = %job, %error, "salvaging byte by byte, without attributes");
                let _without = WithoutAttributes::set(&self.checkout)?;
                self.salvage_tree().await?
            }
            Ok(tree) => tree,
        };
        let Some(tree) = tree else { return Ok(None) };
        let name = salvage_ref(job, attempt);
        let mirror = &self.mirror;
        let before = mirror.salvages_here(&name).await?.into_iter().next().map(|(_, commit)| commit);
        let stage = Stage::empty(&mirror.git, &self.checkout, self.tree());
        let commit = match &before {
            Some(before) if stage.tree_of(before).await? == tree => before.clone(),
            _ => {
                let message = format!(
                    "Salvage of what attempt {attempt} left uncommitted\n\nSawmill-Job: {job}\nSawmill-Attempt: {attempt}\n"
                );
                let parents: Vec<&ObjectId> = std::iter::once(self.base()).chain(&before).collect();
                let commit = self.commit_tree(&self.checkout.durable(), &tree, &parents, &message).await?;
                self.keep_salvage(&name, &commit).await?;
                commit
            }
        };
        if push == SalvagePush::Remote {
            match self.push_salvage(&commit, &name).await {
                // An earlier push of it was under way, whose git was killed here.
                Err(GitError::BranchMoved { .. }) => self.push_salvage(&commit, &name).await?,
                result => result?,
            }
            mirror.note_origin()?;
        }
        Ok(Some(commit))
    }

    /// Has the remote's ref name the commit, whatever it named.
    async fn push_salvage(&self, commit: &ObjectId, name: &str) -> Result<(), GitError> {
        let names = [name.to_owned()];
        let there = self.mirror.remote_refs(&names).await?.into_iter().find(|one| one.name == name);
        let expected = there.as_ref().map_or(Expected::Absent, |one| Expected::At(&one.commit));
        push_ref(&self.mirror, &self.checkout, commit, name, expected).await.map(drop)
    }

    /// Whether the layer of an overlay shows, without a look at the rest of the tree, that all is the base's, or reached the
    /// remote. What is to be kept is written by git, which sees to it that it is on the disk.
    async fn has_nothing_to_salvage(&self) -> Result<bool, GitError> {
        let Ok(made) = self.tree_from_layer().await else { return Ok(false) };
        let Some(delivered) = self.delivered().filter(|_| made.changed) else { return Ok(!made.changed) };
        let stage = Stage::empty(&self.mirror.git, &self.checkout, self.tree());
        Ok(stage.tree_of(&delivered).await? == made.tree)
    }

    /// Has the attempt's ref in the mirror name the commit. Nobody writes that ref at the same time: a lock on it was left by a
    /// git that was killed with its host's other processes.
    async fn keep_salvage(&self, name: &str, commit: &ObjectId) -> Result<(), GitError> {
        let mirror = &self.mirror;
        let update = async || {
            let update = mirror.git.command(format!("keep {name}"), &mirror.dir).durable();
            update.args(["update-ref", name, commit.as_str()]).finish().await
        };
        let first = update().await?;
        let is_locked = diagnose::lock_in_the_way(&first.stderr).is_some();
        if first.success().is_ok() {
            return Ok(());
        }
        if is_locked {
            remove_if_there(&mirror.dir.join(format!("{name}.lock")))?;
        }
        // Whoever removes another ref meanwhile takes the empty directories away, and git puts up with that only so often.
        update().await?.success().map(drop)
    }

    /// The tree to keep; nothing when it is the base's, or that of a commit that already reached the remote.
    async fn salvage_tree(&self) -> Result<Option<ObjectId>, GitError> {
        let git = &self.mirror.git;
        let checkout = self.checkout.durable();
        let stage = Stage::open(git, &checkout)?;
        let own = self.kept_out();
        let mut kept_out = own.clone();
        let mut changed = Vec::new();
        for submodule in &self.journal.submodules {
            match inspect(git, &self.checkout, submodule, &own).await {
                Ok(State::Gone) => continue,
                Ok(State::Unchanged) => {}
                Ok(State::Moved(_) | State::Dirty(_)) => changed.push(submodule.path.clone()),
                Err(error) => {
                    tracing::warn!(path = %submodule.path.display(), %error, "a submodule is salvaged as plain files");
                    changed.push(submodule.path.clone());
                }
            }
            kept_out.push(submodule.path.as_os_str().as_bytes().to_vec());
        }
        let unborn = stage.add_what_can_be(&kept_out).await?;
        let linked = Changes::parse(&stage.listing(self.base().as_str()).await?).gitlinks;
        for path in nested::all(unborn, linked).iter().chain(&changed) {
            nested::flatten(&stage, &checkout, path, &own, 0).await?;
        }
        let tree = stage.write_tree().await?;
        let known = tree == stage.tree_of(self.base()).await?;
        let delivered = match self.delivered() {
            Some(commit) => tree == stage.tree_of(&commit).await?,
            None => false,
        };
        Ok((!known && !delivered).then_some(tree))
    }

    /// Notes that a commit of this tree reached the remote, so that it need not be salvaged.
    pub(super) fn note_delivered(&self, commit: &ObjectId) -> Result<(), GitError> {
        super::checkout::write(&self.checkout.git_dir.join(DELIVERED), commit.as_str())
    }

    fn delivered(&self) -> Option<ObjectId> {
        std::fs::read_to_string(self.checkout.git_dir.join(DELIVERED)).ok()?.parse().ok()
    }
}

impl Mirror {
    /// The salvages of a job's attempts, in order, from this mirror and from the remote, whose own are fetched. A remote that
    /// does not answer is passed over with a warning: what is here is still good. Of an attempt that has one here and there it is
    /// the one here: that attempt ran here, and made the other.
    ///
    /// # Errors
    /// The mirror cannot be made or read, or what the remote has cannot be fetched.
    pub async fn salvages(&self, job: JobId) -> Result<Vec<(AttemptNo, ObjectId)>, GitError> {
        self.ensure_cloned().await?;
        let pattern = format!("refs/sawmill/salvage/{job}/*");
        let mut found: BTreeMap<AttemptNo, ObjectId> = self.salvages_here(&pattern).await?.into_iter().collect();
        let there = match self.remote_refs(std::slice::from_ref(&pattern)).await {
            Ok(there) => there,
            Err(error) => {
                tracing::warn!(job.id = %job, %error, "salvages on the remote cannot be seen");
                Vec::new()
            }
        };
        let mut wanted = Vec::new();
        for one in &there {
            let Some(attempt) = attempt_in(&one.name).filter(|attempt| !found.contains_key(attempt)) else { continue };
            found.insert(attempt, one.commit.clone());
            if self.commit(&one.commit).await?.is_none() {
                wanted.push(one.name.as_str());
            }
        }
        if !wanted.is_empty() {
            self.fetch_objects(&wanted).await?;
        }
        Ok(found.into_iter().collect())
    }

    async fn salvages_here(&self, pattern: &str) -> Result<Vec<(AttemptNo, ObjectId)>, GitError> {
        if !self.dir.is_dir() {
            return Err(io_error("find", &self.dir)(std::io::ErrorKind::NotFound.into()));
        }
        let command = self.git.command("list salvages", &self.dir);
        let answer = command.args(["for-each-ref", "--format=%(objectname) %(refname)", pattern]).run().await?;
        let text = String::from_utf8_lossy(&answer.stdout);
        let mut found: Vec<_> = text.lines().filter_map(parse_salvage).collect();
        found.sort();
        Ok(found)
    }
}

/// While this lives, the host's git directory overrules every attribute of the tree: files are taken byte by byte.
struct WithoutAttributes<'a>(&'a Checkout);

impl<'a> WithoutAttributes<'a> {
    fn set(checkout: &'a Checkout) -> Result<Self, GitError> {
        let path = checkout.attributes();
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(io_error("create", parent))?;
        }
        super::checkout::write(&path, "* -text !eol !crlf !filter !ident !working-tree-encoding\n")?;
        Ok(Self(checkout))
    }
}

impl Drop for WithoutAttributes<'_> {
    fn drop(&mut self) {
        self.0.obey_attributes();
    }
}

fn parse_salvage(line: &str) -> Option<(AttemptNo, ObjectId)> {
    let (id, name) = line.split_once(' ')?;
    Some((attempt_in(name)?, id.parse().ok()?))
}

/// The attempt that the name of a salvage's ref ends with.
fn attempt_in(name: &str) -> Option<AttemptNo> {
    name.rsplit('/').next()?.parse().ok().map(AttemptNo)
}

/// The ref that keeps what an attempt left.
fn salvage_ref(job: JobId, attempt: AttemptNo) -> String {
    format!("refs/sawmill/salvage/{job}/{attempt}")
}
