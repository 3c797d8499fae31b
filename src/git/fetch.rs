//! Cloning and fetching: the only writers of a mirror's branches and tags, under a lock that holds between processes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::checkout::write;
use super::diagnose;
use super::error::{GitError, io_error};
use super::lock::Lock;
use super::mirror::{Mirror, RemoteRef, fetch_error, is_not_given};
use crate::ids::ObjectId;

/// Says that a mirror is whole. It is written before the mirror gets its name.
const MARKER: &str = "sawmill-mirror";
/// How the names of clones begin that are not whole yet.
pub(super) const INCOMING: &str = ".incoming-";
const ALL: [&str; 2] = ["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"];
/// How often a fetch is made again that met the leftovers of a killed one.
const TRIES: u32 = 3;

impl Mirror {
    /// Clones the remote unless some process already has. The mirror is held from here on.
    pub(super) async fn ensure_cloned(&self) -> Result<(), GitError> {
        self.hold().await?;
        if self.is_cloned() {
            return Ok(());
        }
        let _lock = self.lock("clone").await?;
        if self.is_cloned() {
            return Ok(());
        }
        self.set_aside_leftovers()?;
        match self.clone_as("sha1").await {
            Err(GitError::Unreachable { detail, .. }) if detail.contains("mismatched algorithms") => {
                self.clone_as("sha256").await
            }
            result => result,
        }
    }

    fn is_cloned(&self) -> bool {
        self.dir.join(MARKER).exists()
    }

    /// This mirror, or where there is none any more an empty one with nothing but the remote: to ask for a ref, or to remove one, no objects
    /// are needed. That goes with what comes with it, and until then nobody clones.
    pub(super) async fn or_empty(&self, of: &ObjectId) -> Result<(Self, Option<(TempDir, Lock)>), GitError> {
        self.hold().await?;
        if self.is_cloned() {
            return Ok((self.clone(), None));
        }
        let lock = self.lock("ask").await?;
        let new = self.incoming()?;
        write_bare(new.path(), if of.as_str().len() > 40 { "sha256" } else { "sha1" })?;
        Ok((Self { dir: new.path().to_owned(), ..self.clone() }, Some((new, lock))))
    }

    fn incoming(&self) -> Result<TempDir, GitError> {
        let new = tempfile::Builder::new().prefix(&self.incoming_prefix()).tempdir_in(&self.git.host.mirrors);
        new.map_err(io_error("create a directory in", &self.git.host.mirrors))
    }

    async fn lock(&self, verb: &str) -> Result<Lock, GitError> {
        let limit = self.git.host.config.network_timeout;
        Lock::acquire(&self.dir.with_extension("lock"), &format!("{verb} {}", self.remote), limit).await
    }

    async fn clone_as(&self, format: &str) -> Result<(), GitError> {
        let new = self.incoming()?;
        write_bare(new.path(), format)?;
        self.fetch_into(new.path(), &ALL, &["--prune"]).await?;
        write(&new.path().join(MARKER), format!("{}\n", self.remote))?;
        if self.dir.exists() {
            // Without its marker it is nobody's: no worktree was ever made from it.
            super::worktree::move_to_trash(&self.dir, &self.git.trash())?;
        }
        let made = new.keep();
        // Jobs that run as another user borrow the objects.
        fs::set_permissions(&made, fs::Permissions::from_mode(0o755)).map_err(io_error("open up", &made))?;
        fs::rename(&made, &self.dir).map_err(io_error("name", &self.dir))
    }

    fn incoming_prefix(&self) -> String {
        let name = self.dir.file_name().unwrap_or_default().to_string_lossy();
        format!("{INCOMING}{name}-")
    }

    /// Moves away what a killed clone of this remote left. The lock says that nobody is at it.
    fn set_aside_leftovers(&self) -> Result<(), GitError> {
        let mirrors = &self.git.host.mirrors;
        let prefix = self.incoming_prefix();
        let entries = fs::read_dir(mirrors).map_err(io_error("read", mirrors))?;
        let left = entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix));
        left.into_iter().try_for_each(|entry| super::worktree::move_to_trash(&entry.path(), &self.git.trash()))
    }

    /// Fetches one ref of the remote; everything, where its name stands in the way of one that is gone.
    pub(super) async fn fetch_ref(&self, tip: &RemoteRef) -> Result<(), GitError> {
        let _lock = self.lock("fetch").await?;
        if self.commit(&tip.commit).await?.is_some() {
            return Ok(());
        }
        let into = if tip.name == "HEAD" { "refs/sawmill/head" } else { tip.name.as_str() };
        let spec = format!("+{}:{into}", tip.name);
        match self.fetch_into(&self.dir, &[&spec], &[]).await {
            Err(GitError::Unreachable { .. } | GitError::Command { .. }) => self.fetch_into(&self.dir, &ALL, &["--prune"]).await,
            result => result,
        }
    }

    /// Fetches one commit by its id, or everything where the remote does not give out single commits.
    pub(super) async fn fetch_commit(&self, id: &ObjectId) -> Result<(), GitError> {
        let _lock = self.lock("fetch").await?;
        if self.commit(id).await?.is_some() {
            return Ok(());
        }
        let spec = format!("{id}:refs/sawmill/bases/{id}");
        let action = format!("fetch {} from {}", id.short(), self.remote);
        let fetch = self.git.command(&action, &self.dir).origin(&self.remote);
        let finished = fetch.args(["fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "origin", &spec]).finish().await?;
        if finished.code == Some(0) {
            Ok(())
        } else if is_not_given(&finished.stderr) {
            self.fetch_into(&self.dir, &ALL, &["--prune"]).await
        } else {
            Err(fetch_error(&self.remote, &action, &finished.stderr))
        }
    }

    /// Fetches all branches and tags.
    pub(super) async fn fetch_all(&self) -> Result<(), GitError> {
        let _lock = self.lock("fetch").await?;
        self.fetch_into(&self.dir, &ALL, &["--prune"]).await
    }

    /// Fetches what refs of the remote name, under no name of its own: they are young, and what is young is not pruned. So a fetch that is
    /// killed leaves no lock on refs that are written without the mirror's lock.
    pub(super) async fn fetch_objects(&self, refs: &[&str]) -> Result<(), GitError> {
        let _lock = self.lock("fetch").await?;
        self.fetch_into(&self.dir, refs, &[]).await
    }

    async fn fetch_into(&self, dir: &Path, specs: &[&str], options: &[&str]) -> Result<(), GitError> {
        let action = format!("fetch from {}", self.remote);
        let mut tries = 0;
        loop {
            tries += 1;
            let command = self.git.command(&action, dir).origin(&self.remote);
            let finished = command
                .args(["fetch", "--quiet", "--no-tags", "--no-write-fetch-head"])
                .args(options)
                .arg("origin")
                .args(specs)
                .finish()
                .await?;
            if finished.code == Some(0) {
                return Ok(());
            }
            let stale = diagnose::lock_in_the_way(&finished.stderr).is_some();
            if !stale || tries == TRIES {
                return Err(fetch_error(&self.remote, &action, &finished.stderr));
            }
            // All who write branches and tags hold the lock that we hold: what is locked was left by a killed fetch.
            remove_locks(&dir.join("refs/heads"))?;
            remove_locks(&dir.join("refs/tags"))?;
            remove_if_there(&dir.join("packed-refs.lock"))?;
        }
    }
}

/// Writes an empty bare repository.
fn write_bare(dir: &Path, format: &str) -> Result<(), GitError> {
    for part in ["objects/info", "objects/pack", "refs/heads", "refs/tags", "lfs"] {
        let path = dir.join(part);
        fs::create_dir_all(&path).map_err(io_error("create", &path))?;
    }
    let format = match format {
        "sha256" => "\trepositoryformatversion = 1\n[extensions]\n\tobjectformat = sha256\n",
        _ => "\trepositoryformatversion = 0\n",
    };
    write(&dir.join("config"), format!("[core]\n\tbare = true\n{format}[gc]\n\tauto = 0\n[maintenance]\n\tauto = false\n"))?;
    write(&dir.join("HEAD"), "ref: refs/heads/main\n")
}

fn remove_locks(directory: &Path) -> Result<(), GitError> {
    let Ok(entries) = fs::read_dir(directory) else { return Ok(()) };
    for entry in entries.flatten() {
        let path: PathBuf = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_locks(&path)?;
        } else if path.extension().is_some_and(|extension| extension == "lock") {
            remove_if_there(&path)?;
        }
    }
    Ok(())
}

pub(super) fn remove_if_there(path: &Path) -> Result<(), GitError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io_error("remove", path)(error)),
        _ => Ok(()),
    }
}
