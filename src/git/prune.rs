//! Taking from mirrors what nobody needs: old objects that no ref reaches, and mirrors that no job has used for long.
//!
//! The one rule: only of a mirror that nobody holds and from which nothing borrows (see [`super::hold`] and [`super::borrowers`]). Whoever
//! comes to it meanwhile finds it as it is afterwards, and has not to wait: pruning is given up then. What is gone is fetched again.
//! Objects stay that a ref reaches, a base begins at, or something younger than `git.prune` leads to; mirrors stay that have a ref for
//! people.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::Git;
use super::bases::{Base, directories};
use super::error::{GitError, io_error};
use super::fetch::remove_if_there;
use super::hold::{Alone, last_used};
use super::lock::Lock;
use super::worktree::trash_place;
use crate::clock::human;
use crate::janitor::{Lease, Space, measure};

/// When it was last written to, the mirror was last pruned.
const MARKER: &str = "sawmill-pruned";
/// Each mirror is pruned so often at most: all of its objects are read for it.
const EVERY: Duration = Duration::from_secs(7 * 24 * 3600);
/// How often it is looked, while a mirror is pruned, whether somebody waits for it.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How many files of a mirror are counted.
const ENTRIES_MAX: u64 = 500_000;
/// Refs of commits that were fetched by their ids: they stay while a base begins there.
const BASES: &str = "refs/sawmill/bases/";

/// A mirror as it is accounted for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MirrorUse {
    /// Where it is.
    pub path: PathBuf,
    /// What it takes of the disk.
    pub space: Space,
    /// When it was last used.
    pub last_used: SystemTime,
}

impl Git {
    /// All mirrors, each with what explains that it stays, or why it goes: no job has used it for `git.mirror_ttl`; or `wanted` is lacking
    /// on the disk, and no other was unused for longer. Blocks.
    #[must_use]
    pub fn judged_mirrors(&self, wanted: Space) -> Vec<(MirrorUse, Lease)> {
        let mut wanted = wanted;
        let judged = self.by_last_use().into_iter().map(|(last_used, path)| {
            let space = measure(&path, ENTRIES_MAX).space();
            let lease = self.judge_mirror(&path, last_used, wanted);
            if matches!(lease, Lease::Over(_)) {
                wanted = wanted.without(space);
            }
            (MirrorUse { path, space, last_used }, lease)
        });
        judged.collect()
    }

    fn by_last_use(&self) -> Vec<(SystemTime, PathBuf)> {
        let mut all: Vec<_> = self.mirrors().into_iter().map(|path| (last_used(&path), path)).collect();
        all.sort();
        all
    }

    fn judge_mirror(&self, path: &Path, last_used: SystemTime, wanted: Space) -> Lease {
        let ttl = self.host.config.mirror_ttl;
        let unused = SystemTime::now().duration_since(last_used).unwrap_or_default();
        let old = !ttl.is_zero() && unused >= ttl;
        if !old && wanted.is_none() {
            return Lease::Held("the next job on its repository need not wait for it, and the disk has room".to_owned());
        }
        let Some(_alone) = Alone::with(path) else { return Lease::Held("an attempt uses it".to_owned()) };
        if let Some(who) = self.borrower_of(path) {
            return Lease::Held(who);
        }
        match keeps_something(path) {
            Ok(false) if old => Lease::Over(format!("no job has used it for {} (git.mirror_ttl)", human::format(ttl))),
            Ok(false) => Lease::Over(format!("the disk lacks {wanted}; no other was unused for longer")),
            Ok(true) => Lease::Held("there are refs in it that are kept for people".to_owned()),
            Err(error) => Lease::Unknown(format!("its refs cannot be read: {error}")),
        }
    }

    /// Moves a mirror to the trash unless somebody uses or needs it by now. Says whether. Blocks.
    ///
    /// # Errors
    /// It cannot be moved.
    pub fn evict_mirror(&self, mirror: &Path) -> Result<bool, GitError> {
        let Some(_alone) = Alone::with(mirror) else { return Ok(false) };
        if self.borrower_of(mirror).is_some() || keeps_something(mirror).unwrap_or(true) {
            return Ok(false);
        }
        match fs::rename(mirror, trash_place(mirror, &self.trash())?) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            moved => moved.map(|()| true).map_err(io_error("move", mirror)),
        }
    }

    /// Moves to the trash what goes (see [`Git::judged_mirrors`]); answers which. Blocks.
    ///
    /// # Errors
    /// A mirror cannot be moved.
    pub fn shrink_mirrors_once(&self, wanted: Space) -> Result<Vec<PathBuf>, GitError> {
        let (mut gone, mut wanted) = (Vec::new(), wanted);
        for (last_used, path) in self.by_last_use() {
            let Lease::Over(why) = self.judge_mirror(&path, last_used, wanted) else { continue };
            if !wanted.is_none() {
                wanted = wanted.without(measure(&path, ENTRIES_MAX).space());
            }
            if self.evict_mirror(&path)? {
                tracing::info!(path = %path.display(), "mirror removed: {why}");
                gone.push(path);
            }
        }
        Ok(gone)
    }

    /// The mirrors that may have objects which nobody needs, and were not looked through lately.
    #[must_use]
    pub fn unpruned(&self) -> Vec<PathBuf> {
        if self.host.config.prune.is_zero() {
            return Vec::new();
        }
        let mut due = self.mirrors();
        let age = |path: &Path| SystemTime::now().duration_since(path.metadata().ok()?.modified().ok()?).ok();
        due.retain(|mirror| age(&mirror.join(MARKER)).is_none_or(|age| age >= EVERY));
        due
    }

    /// Takes objects from a mirror that no ref reaches and that are older than `git.prune`, with the lowest priority; says whether it
    /// could, since nobody uses it.
    ///
    /// # Errors
    /// git fails, or takes longer than `git.network_timeout`: what was done until then is good.
    pub async fn prune(&self, mirror: &Path) -> Result<bool, GitError> {
        let Some(_alone) = Alone::with(mirror) else { return Ok(false) };
        let since = last_used(mirror);
        let (git, of) = (self.clone(), mirror.to_owned());
        if super::blocking(move || git.borrower_of(&of)).await.is_some() {
            return Ok(false);
        }
        let action = format!("prune {}", mirror.display());
        // git's processes are ended with it.
        tokio::select! {
            pruned = self.prune_alone(mirror, &action) => pruned.map(|()| true),
            () = wanted(mirror, since) => Ok(false),
        }
    }

    async fn prune_alone(&self, mirror: &Path, action: &str) -> Result<(), GitError> {
        let _lock = Lock::acquire(&mirror.with_extension("lock"), action, self.host.config.network_timeout).await?;
        self.name_bases(mirror, action).await?;
        let seconds = SystemTime::now() - self.host.config.prune;
        let seconds = seconds.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        // One that names what is gone would be believed.
        remove_graphs(mirror)?;
        // Younger ones go into a pack of their own, which keeps the time of each.
        let command = self.command(action, mirror).patient().idle().setting("gc.writeCommitGraph", "false");
        command.args(["gc", "--quiet", "--cruft"]).arg(format!("--prune=@{seconds}")).run().await?;
        let command = self.command(action, mirror).patient().idle();
        command.args(["commit-graph", "write", "--reachable", "--split=replace", "--no-progress"]).run().await?;
        super::checkout::write(&mirror.join(MARKER), "")
    }

    /// Has refs name the commits at which bases begin, and none else that was fetched by its id.
    async fn name_bases(&self, mirror: &Path, action: &str) -> Result<(), GitError> {
        let dirs = directories(&self.bases().join(mirror.file_stem().unwrap_or_default()))?;
        let records = dirs.iter().filter_map(|dir| Base::at(dir).record().ok());
        let bases: Vec<String> = records.map(|record| record.commit.to_string()).collect();
        let answer = self.command(action, mirror).args(["for-each-ref", "--format=%(refname)", BASES]).run().await?;
        let mut orders = String::new();
        for name in String::from_utf8_lossy(&answer.stdout).lines() {
            if !bases.iter().any(|base| name.strip_prefix(BASES) == Some(base)) {
                orders += &format!("delete {name}\n");
            }
        }
        for base in bases {
            let there = self.command(action, mirror).args(["cat-file", "-e", &base]).finish().await?;
            if there.code == Some(0) {
                orders += &format!("update {BASES}{base} {base}\n");
            }
        }
        self.command(action, mirror).args(["update-ref", "--stdin"]).stdin(orders.into_bytes()).run().await.map(drop)
    }
}

/// Waits until somebody wants a mirror that is had alone.
async fn wanted(mirror: &Path, since: SystemTime) {
    while last_used(mirror) <= since {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Whether a mirror has a ref that keeps something for people or later attempts.
fn keeps_something(mirror: &Path) -> Result<bool, git2::Error> {
    let repository = git2::Repository::open_bare(mirror)?;
    for pattern in ["refs/sawmill/salvage/*", "refs/sawmill/kept/*"] {
        if repository.references_glob(pattern)?.next().transpose()?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn remove_graphs(mirror: &Path) -> Result<(), GitError> {
    let info = mirror.join("objects/info");
    remove_if_there(&info.join("commit-graph"))?;
    match fs::remove_dir_all(info.join("commit-graphs")) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io_error("remove", &info)(error)),
        _ => Ok(()),
    }
}
