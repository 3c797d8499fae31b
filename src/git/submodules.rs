//! Submodules: checked out like the tree that they are in, each from its own mirror and with a private view of its own.
//!
//! The one rule: git is never let near them from the outside, since `git add` would run git inside, with a configuration
//! that the job could write. Each is held against the host's own index of it instead.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::Git;
use super::checkout::{Checkout, Durability};
use super::error::GitError;
use super::index::Gitlink;
use super::job_view::{Head, read_head};
use super::journal::{Source, Submodule};
use super::mirror::Mirror;
use super::stage::Stage;
use super::tree_path::{Found, directory, is_empty, within};
use crate::ids::ObjectId;

/// How deep submodules may be within submodules.
const DEPTH_MAX: usize = 8;

/// Checks out what the gitlinks of a fresh checkout name, as far as its `.gitmodules` says where that is.
pub(super) async fn check_out(
    parent: &Mirror,
    checkout: &Checkout,
    gitlinks: Vec<Gitlink>,
    depth: usize,
) -> Result<Vec<Submodule>, GitError> {
    if gitlinks.is_empty() {
        return Ok(Vec::new());
    }
    let addresses = read_addresses(&parent.git, checkout).await?;
    let mut submodules = Vec::new();
    for (number, gitlink) in gitlinks.into_iter().enumerate() {
        let path = PathBuf::from(OsString::from_vec(gitlink.path));
        let failed = |why: String| GitError::Submodule { path: path.display().to_string(), why };
        let source = match addresses.get(&path) {
            None => None,
            Some(_) if depth >= DEPTH_MAX => return Err(failed(format!("submodules are nested deeper than {DEPTH_MAX}"))),
            Some(address) => {
                let remote = parent.remote.submodule(address).map_err(failed)?;
                let git_dir = Path::new("modules").join(number.to_string());
                let mirror = parent.of_submodule(&remote);
                let base = mirror.resolve(gitlink.commit.as_str()).await?;
                let place = checkout.git_dir.join(&git_dir);
                let checkout = Checkout {
                    index: place.join("index"),
                    git_dir: place,
                    tree: checkout.tree.join(&path),
                    objects: mirror.objects(),
                    base,
                    durability: Durability::Later,
                };
                let submodules = Box::pin(mirror.fill(&checkout, Head::Detached, depth + 1)).await?;
                Some(Source { remote, git_dir, submodules })
            }
        };
        submodules.push(Submodule { path, commit: gitlink.commit, source });
    }
    Ok(submodules)
}

/// The addresses in the base's own `.gitmodules`, by path. Read from the commit, where nothing can be included into it.
async fn read_addresses(git: &Git, checkout: &Checkout) -> Result<BTreeMap<PathBuf, String>, GitError> {
    let blob = format!("{}:.gitmodules", checkout.base);
    let finished = checkout.command(git, "read .gitmodules").args(["config", "--blob", &blob, "-z", "--list"]).finish().await?;
    let mut paths = BTreeMap::new();
    let mut urls = BTreeMap::new();
    // A base with gitlinks and without .gitmodules is legal: they stay empty directories.
    let listing = if finished.code == Some(0) { finished.stdout.as_slice() } else { &[] };
    for entry in listing.split(|byte| *byte == 0) {
        let Some(at) = entry.iter().position(|byte| *byte == b'\n') else { continue };
        let (key, value) = (String::from_utf8_lossy(&entry[..at]).into_owned(), &entry[at + 1..]);
        let Some(rest) = key.strip_prefix("submodule.") else { continue };
        if let Some(name) = rest.strip_suffix(".path") {
            paths.insert(name.to_owned(), PathBuf::from(OsString::from_vec(value.to_vec())));
        } else if let Some(name) = rest.strip_suffix(".url") {
            urls.insert(name.to_owned(), String::from_utf8_lossy(value).into_owned());
        }
    }
    Ok(paths.into_iter().filter_map(|(name, path)| Some((path, urls.remove(&name)?))).collect())
}

/// How a submodule stands against what was checked out.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum State {
    /// As it was.
    Unchanged,
    /// At another commit of its remote, and with nothing else changed.
    Moved(ObjectId),
    /// No longer a directory: an ordinary change of the tree that it is in.
    Gone,
    /// Changed otherwise; the sentence says how.
    Dirty(String),
}

/// Looks at one submodule of the parent's tree, but not at what of that is kept out.
pub(super) async fn inspect(
    git: &Git,
    parent: &Checkout,
    submodule: &Submodule,
    kept_out: &[Vec<u8>],
) -> Result<State, GitError> {
    let Found::Directory(place) = directory(&parent.tree, &submodule.path) else { return Ok(State::Gone) };
    if is_empty(&place) {
        return Ok(State::Unchanged);
    }
    let Some(source) = &submodule.source else {
        return Ok(State::Dirty("files were made in a submodule that was not checked out".to_owned()));
    };
    let mirror = git.mirror(&source.remote);
    let git_dir = parent.git_dir.join(&source.git_dir);
    let checkout = Checkout {
        index: git_dir.join("index"),
        git_dir,
        tree: place.clone(),
        objects: mirror.objects(),
        base: submodule.commit.clone(),
        durability: Durability::Later,
    };
    let stage = Stage::open(git, &checkout)?;
    if let Err(error) = Box::pin(stage_all(&stage, &source.submodules, within(&submodule.path, kept_out))).await {
        return match error {
            GitError::Refused { path, why } => Ok(State::Dirty(format!("in it, {path}: {why}"))),
            error => Err(error),
        };
    }
    let found = stage.write_tree().await?;
    let head = read_head(&place).unwrap_or_else(|| submodule.commit.clone());
    if head == submodule.commit {
        let same = found == stage.tree_of(&head).await?;
        let why = "its files were changed; commit and push them in its own repository first";
        return Ok(if same { State::Unchanged } else { State::Dirty(why.to_owned()) });
    }
    if !has_on_remote(&mirror, &head).await? {
        return Ok(State::Dirty(format!("it is at {}, which its remote does not have", head.short())));
    }
    let same = found == stage.tree_of(&head).await?;
    let why = format!("its files differ from {}, which it is at", head.short());
    Ok(if same { State::Moved(head) } else { State::Dirty(why) })
}

/// Whether a branch or tag of the remote leads to the commit, or the remote gives it out by its id.
async fn has_on_remote(mirror: &Mirror, commit: &ObjectId) -> Result<bool, GitError> {
    match mirror.resolve(commit.as_str()).await {
        Ok(found) => {
            let refs = ["refs/heads", "refs/tags", "refs/sawmill/bases", "refs/sawmill/head"];
            let command = mirror.git.command("look for a commit in a mirror", &mirror.dir).args(["for-each-ref", "--count=1"]);
            let answer = command.args(["--contains", found.as_str()]).args(refs).run().await?;
            Ok(found == *commit && !answer.stdout.is_empty())
        }
        Err(GitError::BaseMissing { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Stages the whole tree of `stage` but for what is kept out, submodules by the commits that they are at.
///
/// # Errors
/// [`GitError::Refused`] for what cannot be committed.
pub(super) async fn stage_all(stage: &Stage<'_>, submodules: &[Submodule], mut kept_out: Vec<Vec<u8>>) -> Result<(), GitError> {
    let (own, mut moved) = (kept_out.clone(), Vec::new());
    for submodule in submodules {
        match inspect(stage.git(), stage.checkout(), submodule, &own).await? {
            State::Gone => continue,
            State::Unchanged => {}
            State::Moved(commit) => moved.push((submodule.path.clone(), commit)),
            State::Dirty(why) => {
                return Err(GitError::Refused { path: submodule.path.display().to_string(), why: format!("submodule: {why}") });
            }
        }
        kept_out.push(submodule.path.as_os_str().as_bytes().to_vec());
    }
    stage.add_all(&kept_out).await?;
    for (path, commit) in moved {
        stage.set_gitlink(&path, &commit).await?;
    }
    Ok(())
}
