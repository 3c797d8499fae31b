//! A file of the base commit, as the commit has it and whatever the job has made of it since.
//!
//! The one rule: it is read from the mirror in process. No filter, attribute or configuration takes part, and no link is followed.

use std::path::Path;

use git2::{ErrorCode, ObjectType, Repository};

use super::changes::tree;
use super::error::GitError;
use super::worktree::Worktree;
use crate::ids::ObjectId;

/// What the base commit has at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BaseFile {
    /// Nothing.
    Missing,
    /// A file with this content.
    Content(Vec<u8>),
    /// A directory, a link or a submodule.
    NoFile,
    /// A file that is larger than was asked for, by its size in bytes.
    TooLarge(u64),
}

impl Worktree {
    /// What the base has at `path`, where it is no larger than so many bytes.
    ///
    /// # Errors
    /// The mirror cannot be read.
    pub async fn base_file(&self, path: &'static str, most: u64) -> Result<BaseFile, GitError> {
        let (mirror, base) = (self.mirror.dir.clone(), self.base().clone());
        super::blocking(move || read(&mirror, &base, Path::new(path), most)).await.map_err(|error| GitError::Command {
            action: format!("read {path} of the base commit"),
            detail: error.message().to_owned(),
        })
    }
}

impl Worktree {
    /// The objects that the base has at these paths, in their order; nothing where it has none. What is at a path is the same where its
    /// object is.
    ///
    /// # Errors
    /// The mirror cannot be read.
    pub async fn base_objects(&self, paths: Vec<String>) -> Result<Vec<Option<ObjectId>>, GitError> {
        let (mirror, base) = (self.mirror.dir.clone(), self.base().clone());
        super::blocking(move || objects(&mirror, &base, &paths)).await.map_err(|error| GitError::Command {
            action: "look for files in the base commit".to_owned(),
            detail: error.message().to_owned(),
        })
    }
}

fn objects(mirror: &Path, base: &ObjectId, paths: &[String]) -> Result<Vec<Option<ObjectId>>, git2::Error> {
    let repository = Repository::open_bare(mirror)?;
    let base = tree(&repository, base)?;
    let find = |path: &String| match base.get_path(Path::new(path)) {
        Err(error) if error.code() == ErrorCode::NotFound => Ok(None),
        found => found.map(|entry| entry.id().to_string().parse().ok()),
    };
    paths.iter().map(find).collect()
}

fn read(mirror: &Path, base: &ObjectId, path: &Path, most: u64) -> Result<BaseFile, git2::Error> {
    const LINK: i32 = 0o120_000;
    let repository = Repository::open_bare(mirror)?;
    let base = tree(&repository, base)?;
    let entry = match base.get_path(path) {
        Err(error) if error.code() == ErrorCode::NotFound => return Ok(BaseFile::Missing),
        found => found?,
    };
    if entry.kind() != Some(ObjectType::Blob) || entry.filemode() == LINK {
        return Ok(BaseFile::NoFile);
    }
    let size = repository.odb()?.read_header(entry.id())?.0 as u64;
    if size > most {
        return Ok(BaseFile::TooLarge(size));
    }
    Ok(BaseFile::Content(repository.find_blob(entry.id())?.content().to_vec()))
}
