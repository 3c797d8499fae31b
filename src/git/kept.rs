//! A commit that is not to be pushed is kept in the mirror, where a person finds it.
//!
//! The one rule: it is nowhere else, so it is on the disk before anybody is told of it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::Path;

use git2::{Config, ConfigLevel, Oid, Repository};

use super::error::{GitError, io_error};
use super::novelty;
use super::worktree::Worktree;
use crate::ids::ObjectId;
use crate::job::BranchName;

/// More objects than this are not put on the disk one by one.
const ONE_BY_ONE_MAX: usize = 64;

impl Worktree {
    /// Keeps a commit that is not pushed as `refs/sawmill/kept/<branch>`.
    ///
    /// # Errors
    /// The mirror cannot be written to.
    pub async fn keep(&self, commit: &ObjectId, branch: &BranchName) -> Result<(), GitError> {
        let mirror = &self.mirror;
        let name = format!("refs/sawmill/kept/{branch}");
        let (dir, kept, reference) = (mirror.dir.clone(), commit.clone(), name.clone());
        let durable = mirror.git.host.durable.clone();
        let keeping = super::blocking(move || settle(&dir, &kept).and_then(|()| set(&dir, &reference, &kept, &durable)));
        if !keeping.await.map_err(io_error("keep the commit in", &mirror.dir))? {
            let command = mirror.git.command(format!("keep {name}"), &mirror.dir).durable();
            command.args(["update-ref", &name, commit.as_str()]).run().await?;
        }
        self.note_delivered(commit)
    }
}

/// Has what a commit brings on the disk: each of its loose objects, or where those are many all of the file system.
fn settle(mirror: &Path, commit: &ObjectId) -> io::Result<()> {
    let objects = mirror.join("objects");
    let new = Repository::open_bare(mirror).and_then(|repository| novelty::of(&repository, commit));
    let Some(new) = new.ok().flatten().filter(|new| new.len() <= ONE_BY_ONE_MAX) else {
        return Ok(nix::unistd::syncfs(File::open(&objects)?)?);
    };
    let mut dirs = BTreeSet::from([objects.clone()]);
    for id in new {
        let id = id.to_string();
        let dir = objects.join(&id[..2]);
        sync(&dir.join(&id[2..]))?;
        dirs.insert(dir);
    }
    dirs.iter().try_for_each(|dir| sync(dir))
}

/// Sets a ref, and says whether that could be done; what is wrong else git says. By the settings in `durable` it is on the disk before it has
/// its name.
fn set(mirror: &Path, name: &str, commit: &ObjectId, durable: &Path) -> io::Result<bool> {
    let set = || {
        let repository = Repository::open_bare(mirror)?;
        let mut config = Config::new()?;
        config.add_file(&mirror.join("config"), ConfigLevel::Local, false)?;
        config.add_file(durable, ConfigLevel::App, true)?;
        repository.set_config(&config)?;
        repository.reference(name, Oid::from_str(commit.as_str())?, true, "kept").map(drop)
    };
    if let Err(error) = set() {
        tracing::debug!(%error, name, "git itself sets the ref");
        return Ok(false);
    }
    // Those of the ref that are new, up to what is there for long.
    mirror.join(name).ancestors().skip(1).take_while(|dir| dir.starts_with(mirror)).try_for_each(sync)?;
    Ok(true)
}

/// Has a file or a directory on the disk. What is not there any more git has packed, which puts that on the disk.
fn sync(path: &Path) -> io::Result<()> {
    match File::open(path) {
        Ok(file) => file.sync_all(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}
