//! A mirror: this worker's bare copy of a remote, from which all worktrees borrow their objects.
//!
//! The one rule: nothing of a mirror goes while somebody holds it or a worktree borrows from it (see [`super::prune`]). Its refs
//! are its own; no worktree has a ref in it, so that a fetch disturbs nobody. Cloning and fetching are in [`super::fetch`].

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::GitError;
use super::hold::Holds;
use super::{Git, Remote, diagnose, local_refs};
use crate::ids::ObjectId;

/// The mirror of one remote. Cheap to clone; any number of them, in any number of processes, may be used at once.
#[derive(Debug, Clone)]
pub struct Mirror {
    pub(super) git: Git,
    pub(super) remote: Remote,
    pub(super) dir: PathBuf,
    /// That it is in use, from the first look into it on.
    pub(super) holds: Holds,
}

/// A ref as the remote has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RemoteRef {
    pub(super) name: String,
    pub(super) commit: ObjectId,
}

/// How long refs of a remote on this host may take to be read: what hangs there is git's to say.
const LOCAL_WITHIN: Duration = Duration::from_secs(2);
/// How often a ref that moves while it is fetched is looked up again.
const LOOKS_MAX: u32 = 4;

impl Mirror {
    pub(super) fn new(git: Git, remote: Remote) -> Self {
        let dir = git.host.mirrors.join(format!("{}.git", name_of(&remote)));
        Self { git, remote, dir, holds: Holds::default() }
    }

    /// The mirror of a submodule, held for as long as this one is.
    pub(super) fn of_submodule(&self, remote: &Remote) -> Self {
        Self { holds: self.holds.clone(), ..Self::new(self.git.clone(), remote.clone()) }
    }

    /// Holds it until this, and whatever was cloned of it, goes.
    pub(super) async fn hold(&self) -> Result<(), GitError> {
        let limit = self.git.host.config.network_timeout;
        self.holds.take(&self.dir, &format!("use the mirror of {}", self.remote), limit).await
    }

    /// What it mirrors.
    #[must_use]
    pub fn remote(&self) -> &Remote {
        &self.remote
    }

    /// Where it is, once it was cloned.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.dir
    }

    pub(super) fn objects(&self) -> PathBuf {
        self.dir.join("objects")
    }

    /// The commit that `base` names, which the mirror has when this returns: a full commit id that it already has needs no
    /// network; a branch, a tag, a full ref, or the remote's default branch (an empty text or `HEAD`) is asked of the remote
    /// first and fetched only when its commit is new; a commit id of at least seven digits may be cut short.
    ///
    /// # Errors
    /// The remote is missing, wants credentials, is empty or away; it has no such base; the disk is full.
    pub async fn resolve(&self, base: &str) -> Result<ObjectId, GitError> {
        self.ensure_cloned().await?;
        if let Ok(id) = base.parse::<ObjectId>() {
            if let Some(commit) = self.commit(&id).await? {
                return Ok(commit);
            }
            self.fetch_commit(&id).await?;
            return match self.commit(&id).await? {
                Some(commit) => Ok(commit),
                None => Err(GitError::BaseMissing { remote: self.remote.clone(), base: base.to_owned(), near: Vec::new() }),
            };
        }
        for _ in 0..LOOKS_MAX {
            let Some(tip) = self.look_up(base).await? else { return self.resolve_otherwise(base).await };
            if let Some(commit) = self.commit(&tip.commit).await? {
                return Ok(commit);
            }
            self.fetch_ref(&tip).await?;
            if let Some(commit) = self.commit(&tip.commit).await? {
                return Ok(commit);
            }
        }
        let detail = format!("{base} moves faster than it can be fetched");
        Err(GitError::Unreachable { remote: self.remote.clone(), detail })
    }

    /// The commit with this id, or that the tag object with this id leads to, where the mirror has it.
    pub(super) async fn commit(&self, id: &ObjectId) -> Result<Option<ObjectId>, GitError> {
        let (dir, wanted) = (self.dir.clone(), id.clone());
        if let Some(found) = super::blocking(move || find_commit(&dir, wanted.as_str())).await {
            return Ok(found);
        }
        self.parse_revision(id.as_str()).await
    }

    async fn parse_revision(&self, text: &str) -> Result<Option<ObjectId>, GitError> {
        let action = format!("look for {text} in {}", self.dir.display());
        let wanted = format!("{text}^{{commit}}");
        let finished = self.git.command(action, &self.dir).args(["rev-parse", "--verify", "--quiet", &wanted]).finish().await?;
        Ok(finished.line().parse().ok().filter(|_| finished.code == Some(0)))
    }

    /// Asks the remote for exactly the refs that `base` may mean.
    async fn look_up(&self, base: &str) -> Result<Option<RemoteRef>, GitError> {
        let names = match base {
            "" | "HEAD" => vec!["HEAD".to_owned()],
            name if !is_ref_name(name) => return Ok(None),
            name if name.starts_with("refs/") => vec![name.to_owned()],
            name => vec![format!("refs/heads/{name}"), format!("refs/tags/{name}")],
        };
        let found = self.remote_refs(&names).await?;
        // A tag's own object is followed by the commit that it leads to, under the same name with `^{}`.
        Ok(names.iter().find_map(|name| {
            let peeled = found.iter().find(|one| one.name.strip_suffix("^{}") == Some(name));
            let plain = found.iter().find(|one| one.name == *name);
            peeled.or(plain).map(|one| RemoteRef { name: name.clone(), commit: one.commit.clone() })
        }))
    }

    /// The refs of these names that the remote has now; all branches and tags when none is named.
    pub(super) async fn remote_refs(&self, names: &[String]) -> Result<Vec<RemoteRef>, GitError> {
        if let Some(path) = self.remote.path().filter(|_| !names.is_empty()) {
            let names = names.to_owned();
            let reading = super::blocking(move || local_refs::read(&path, &names));
            if let Ok(Some(refs)) = tokio::time::timeout(LOCAL_WITHIN, reading).await {
                return Ok(refs);
            }
        }
        let mut command = self.git.command(format!("ask {} for its refs", self.remote), &self.dir).origin(&self.remote);
        command = command.arg("ls-remote");
        command = if names.is_empty() { command.args(["--heads", "--tags"]) } else { command };
        command = command.args(["--", "origin"]).args(names).args(names.iter().map(|name| format!("{name}^{{}}")));
        let answer = command.stdout_max(256 * 1024 * 1024).run().await?;
        let text = String::from_utf8_lossy(&answer.stdout);
        let line = |line: &str| {
            let (id, name) = line.split_once('\t')?;
            Some(RemoteRef { name: name.to_owned(), commit: id.parse().ok()? })
        };
        Ok(text.lines().filter_map(line).collect())
    }

    /// What is left when no ref has the name: a commit id cut short, or an error that says what there is.
    async fn resolve_otherwise(&self, base: &str) -> Result<ObjectId, GitError> {
        if base.len() >= 7 && base.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            if let Some(commit) = self.parse_revision(base).await? {
                return Ok(commit);
            }
            self.fetch_all().await?;
            if let Some(commit) = self.parse_revision(base).await? {
                return Ok(commit);
            }
        }
        let all = self.remote_refs(&[]).await?;
        if all.is_empty() {
            return Err(GitError::EmptyRemote { remote: self.remote.clone() });
        }
        let wanted = if base.is_empty() { "HEAD" } else { base };
        Err(GitError::BaseMissing { remote: self.remote.clone(), base: wanted.to_owned(), near: near(wanted, &all) })
    }
}

/// The name of a remote's mirror, which no two remotes share.
pub(super) fn name_of(remote: &Remote) -> String {
    format!("{}-{}", remote.short_name(), hash(remote.secret_url()))
}

/// At most three names that look like `base`; any branches where the remote's default branch is what is missing.
fn near(base: &str, all: &[RemoteRef]) -> Vec<String> {
    let short = |one: &RemoteRef| {
        let name = one.name.strip_prefix("refs/heads/").or_else(|| one.name.strip_prefix("refs/tags/"))?;
        (!name.ends_with("^{}")).then(|| name.to_owned())
    };
    let names = all.iter().filter_map(short);
    let likeness = |name: &str| if base == "HEAD" { 1.0 } else { strsim::jaro_winkler(base, name) };
    let mut rated: Vec<(f64, String)> = names.map(|name| (likeness(&name), name)).filter(|(rate, _)| *rate > 0.75).collect();
    rated.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    rated.into_iter().map(|(_, name)| name).take(3).collect()
}

/// Whether git would take the text for the name of a ref, and not for a pattern or an option.
fn is_ref_name(name: &str) -> bool {
    !name.starts_with('-')
        && !name.contains("..")
        && !name.contains("@{")
        && !name.contains(|c: char| c.is_control() || " ~^:?*[\\".contains(c))
        && name.split('/').all(|part| !part.is_empty() && !part.starts_with('.'))
}

/// Sixteen digits that no two addresses, or paths, share.
pub(super) fn hash(address: &str) -> String {
    let id = git2::Oid::hash_object(git2::ObjectType::Blob, address.as_bytes());
    id.map_or_else(|_| format!("{:08x}", crc32fast::hash(address.as_bytes())), |id| id.to_string()[..16].to_owned())
}

/// Looks in process, which takes a tenth of the time of starting git. Nothing when that cannot be done.
fn find_commit(dir: &Path, id: &str) -> Option<Option<ObjectId>> {
    let repository = git2::Repository::open_bare(dir).ok()?;
    let id = git2::Oid::from_str(id).ok()?;
    match repository.find_object(id, None) {
        Ok(object) => Some(object.peel_to_commit().ok().and_then(|commit| commit.id().to_string().parse().ok())),
        Err(error) if error.code() == git2::ErrorCode::NotFound => Some(None),
        Err(_) => None,
    }
}

/// Whether what a fetch printed says that the remote does not give the commit out.
pub(super) fn is_not_given(stderr: &str) -> bool {
    ["not our ref", "unadvertised object", "couldn't find remote ref", "no such remote ref", "bad object"]
        .iter()
        .any(|words| stderr.contains(words))
}

/// What a failed fetch means.
pub(super) fn fetch_error(remote: &Remote, action: &str, stderr: &str) -> GitError {
    diagnose::network(remote, action, stderr)
}
