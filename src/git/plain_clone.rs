//! Plain repositories: a remote made from files or from another repository, and the clone that an integrator has of one.
//!
//! Nothing of this is on a job's path; it serves the demonstration and the tests of whole deliveries.

use std::path::{Path, PathBuf};

use git2::{FileMode, IndexEntry, IndexTime, Repository, Signature};

use super::Git;
use super::error::GitError;
use super::remote::Remote;
use crate::ids::ObjectId;

/// A bare clone of a remote, with its branches under `refs/remotes/origin/`.
#[derive(Debug, Clone)]
pub struct PlainClone {
    git: Git,
    dir: PathBuf,
}

impl PlainClone {
    /// Makes a bare repository at `dir` whose branch `main` has one commit with `files`: paths, contents, and whether each can
    /// be executed. Blocks for a few milliseconds.
    ///
    /// # Errors
    /// What libgit2 says.
    pub async fn seed_bare(git: &Git, dir: &Path, files: &[(&str, &str, bool)]) -> Result<(), GitError> {
        let config = &git.host.config;
        let seed = || -> Result<(), git2::Error> {
            let repository = Repository::init_bare(dir)?;
            repository.set_head("refs/heads/main")?;
            let mut index = git2::Index::new()?;
            for (path, content, executable) in files {
                index.add(&entry(repository.blob(content.as_bytes())?, path, *executable))?;
            }
            let tree = repository.find_tree(index.write_tree_to(&repository)?)?;
            let author = Signature::now(&config.author_name, &config.author_email)?;
            repository.commit(Some("refs/heads/main"), &author, &author, "First version\n", &tree, &[])?;
            Ok(())
        };
        seed().map_err(|error| failed("seed", dir, &error))
    }

    /// Makes a bare copy at `dir` of the branches and tags of the repository at `source`, with its current branch as default.
    ///
    /// # Errors
    /// There is no repository, or it cannot be fetched from.
    pub async fn copy_bare(git: &Git, source: &Path, dir: &Path) -> Result<(), GitError> {
        let source = source.canonicalize().map_err(super::error::io_error("find", source))?;
        let head = || -> Result<Option<String>, git2::Error> {
            let copy = Repository::init_bare(dir)?;
            let head = Repository::open(&source)?.find_reference("HEAD")?.symbolic_target().ok().flatten().map(str::to_owned);
            if let Some(head) = &head {
                copy.set_head(head)?;
            }
            Ok(head)
        };
        head().map_err(|error| failed("copy", &source, &error))?;
        let clone = Self { git: git.clone(), dir: dir.to_owned() };
        clone.fetch(&source, &["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"]).await
    }

    /// Clones `remote`, bare, to `dir`.
    ///
    /// # Errors
    /// It cannot be fetched from.
    pub async fn make(git: &Git, remote: &Path, dir: &Path) -> Result<Self, GitError> {
        Repository::init_bare(dir).map_err(|error| failed("make", dir, &error))?;
        let clone = Self { git: git.clone(), dir: dir.to_owned() };
        clone.fetch(remote, &["+refs/heads/*:refs/remotes/origin/*"]).await?;
        Ok(clone)
    }

    /// The commit that a branch of the remote was at when it was cloned.
    ///
    /// # Errors
    /// What libgit2 says.
    pub async fn branch_tip(&self, branch: &str) -> Result<Option<ObjectId>, GitError> {
        let find = || -> Result<Option<git2::Oid>, git2::Error> {
            match Repository::open_bare(&self.dir)?.refname_to_id(&format!("refs/remotes/origin/{branch}")) {
                Ok(id) => Ok(Some(id)),
                Err(error) if error.code() == git2::ErrorCode::NotFound => Ok(None),
                Err(error) => Err(error),
            }
        };
        let found = find().map_err(|error| failed("read", &self.dir, &error))?;
        Ok(found.and_then(|id| id.to_string().parse().ok()))
    }

    /// The history of all branches, drawn by `git log --graph`.
    ///
    /// # Errors
    /// git fails.
    pub async fn graph(&self) -> Result<String, GitError> {
        let log = self.git.command("draw the history", &self.dir);
        let args = ["log", "--graph", "--oneline", "--decorate=short", "--remotes", "--max-count=40"];
        Ok(String::from_utf8_lossy(&log.args(args).run().await?.stdout).into_owned())
    }

    async fn fetch(&self, from: &Path, refspecs: &[&str]) -> Result<(), GitError> {
        let remote: Remote = from.to_string_lossy().parse()?;
        let fetch = self.git.command(format!("fetch from {remote}"), &self.dir).origin(&remote);
        fetch.args(["fetch", "--quiet", "--no-tags", "origin"]).args(refspecs).run().await.map(drop)
    }
}

fn entry(id: git2::Oid, path: &str, executable: bool) -> IndexEntry {
    let mode = if executable { FileMode::BlobExecutable } else { FileMode::Blob };
    IndexEntry {
        ctime: IndexTime::new(0, 0),
        mtime: IndexTime::new(0, 0),
        dev: 0,
        ino: 0,
        mode: u32::try_from(i32::from(mode)).unwrap_or(0o100_644),
        uid: 0,
        gid: 0,
        file_size: 0,
        id,
        flags: 0,
        flags_extended: 0,
        path: path.as_bytes().to_vec(),
    }
}

fn failed(verb: &str, path: &Path, error: &git2::Error) -> GitError {
    GitError::Command { action: format!("{verb} {}", path.display()), detail: error.message().to_owned() }
}
