//! The working files of a repository within a tree, as a tree of plain files without its `.git`.
//!
//! Only salvage uses it: a commit refuses nested repositories.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::Git;
use super::checkout::Checkout;
use super::diff::Changes;
use super::error::GitError;
use super::stage::Stage;
use super::tree_path::{Found, directory, within};
use crate::ids::ObjectId;

/// How deep repositories are looked for within repositories.
const DEPTH_MAX: usize = 16;

/// Puts the working files of the repository at `path`, below the stage's tree, on the stage in place of a link to it; but for those at or
/// below paths that are kept out.
pub(super) async fn flatten(
    stage: &Stage<'_>,
    checkout: &Checkout,
    path: &Path,
    kept_out: &[Vec<u8>],
    depth: usize,
) -> Result<(), GitError> {
    stage.remove(path).await?;
    let Found::Directory(place) = directory(stage.tree(), path) else { return Ok(()) };
    if depth >= DEPTH_MAX {
        tracing::warn!(path = %place.display(), "repositories are nested too deep to be salvaged");
        return Ok(());
    }
    let within = within(path, kept_out);
    if within.iter().any(Vec::is_empty) {
        return Ok(());
    }
    let files = files_as_tree(stage.git(), checkout, &place, &within, depth).await?;
    stage.graft(path, &files).await
}

async fn files_as_tree(
    git: &Git,
    checkout: &Checkout,
    place: &Path,
    kept_out: &[Vec<u8>],
    depth: usize,
) -> Result<ObjectId, GitError> {
    let stage = Stage::empty(git, checkout, place);
    let unborn = stage.add_what_can_be(kept_out).await?;
    let linked = Changes::parse(&stage.listing(checkout.empty_tree()).await?).gitlinks;
    for path in all(unborn, linked) {
        Box::pin(flatten(&stage, checkout, &path, kept_out, depth + 1)).await?;
    }
    stage.write_tree().await
}

/// Both lists, each path once, outer before inner.
pub(super) fn all(mut unborn: Vec<PathBuf>, linked: Vec<PathBuf>) -> Vec<PathBuf> {
    unborn.extend(linked);
    unborn.sort_by(|a, b| a.as_os_str().as_bytes().cmp(b.as_os_str().as_bytes()));
    unborn.dedup();
    unborn
}
