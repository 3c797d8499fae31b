//! A commit that is not to be pushed is kept in the mirror, where a person finds it.
//!
//! The one rule: it is nowhere else, so it is on the disk before anybody is told of it.

use std::fs::File;
use std::io;
use std::path::Path;

use git2::{Oid, Repository};

use super::error::{GitError, io_error};
use super::novelty;
use super::worktree::Worktree;
use crate::ids::ObjectId;
use crate::job::BranchName;

impl Worktree {
    /// Keeps a commit that is not pushed as `refs/sawmill/kept/<branch>`.
    ///
    /// # Errors
    /// The mirror cannot be written to.
    pub async fn keep(&self, commit: &ObjectId, branch: &BranchName) -> Result<(), GitError> {
        let mirror = &self.mirror;
        let name = format!("refs/sawmill/kept/{branch}");
        let (dir, kept, reference) = (mirror.dir.clone(), commit.clone(), name.clone());
        let keeping = super::blocking(move || settle(&dir, &kept).and_then(|()| set(&dir, &reference, &kept)));
        if !keeping.await.map_err(io_error("keep the commit in", &mirror.dir))? {
            mirror.git.command(format!("keep {name}"), &mirror.dir).args(["update-ref", &name, commit.as_str()]).run().await?;
        }
        self.note_delivered(commit)
    }
}

/// Has what a commit brings on the disk: each of its objects, or where those are many, or in packs, all of the file system.
fn settle(mirror: &Path, commit: &ObjectId) -> io::Result<()> {
    let objects = mirror.join("objects");
    let new = Repository::open_bare(mirror).and_then(|repository| novelty::of(&repository, commit));
    let Ok(Some(new)) = new else { return Ok(nix::unistd::syncfs(File::open(&objects)?)?) };
    for id in new {
        let id = id.to_string();
        let dir = objects.join(&id[..2]);
        match File::open(dir.join(&id[2..])) {
            Ok(object) => {
                object.sync_all()?;
                File::open(&dir)?.sync_all()?;
            }
            // It is in a pack, which git puts on the disk.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Sets a ref, and says whether that could be done; what is wrong else git says.
fn set(mirror: &Path, name: &str, commit: &ObjectId) -> io::Result<bool> {
    let set = || {
        let id = Oid::from_str(commit.as_str())?;
        Repository::open_bare(mirror)?.reference(name, id, true, "kept").map(drop)
    };
    if let Err(error) = set() {
        tracing::debug!(%error, name, "git itself sets the ref");
        return Ok(false);
    }
    let path = mirror.join(name);
    File::open(&path)?.sync_all()?;
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())?;
    Ok(true)
}
