//! Git LFS: large files that git keeps as pointers.
//!
//! The filter is always named, and git starts it only for a path whose attributes ask for it: a repository without LFS costs
//! nothing. Where `git-lfs` is not installed the filter is a command that fails, so that pointers are never taken for files.
//! Contents are kept with the mirror, and uploaded before the commit that needs them is pushed. The host's git directory has a
//! link to them: a setting (`lfs.storage`) would reach the far end of a local remote as well, and send it to the wrong place.

use std::path::Path;

use super::checkout::Checkout;
use super::command::{Invocation, find_program};
use super::running::Finished;
use super::{Git, GitError, Remote, diagnose};
use crate::ids::ObjectId;

/// Whether `git-lfs` is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Installed {
    /// It is.
    Yes,
    /// It is not.
    No,
}

impl Installed {
    pub(super) fn find(search_path: &str) -> Self {
        if find_program(Path::new("git-lfs"), search_path).is_ok() { Self::Yes } else { Self::No }
    }
}

impl<'a> Invocation<'a> {
    /// Lets paths with the attribute `filter=lfs` go through `git-lfs`.
    pub(super) fn lfs(self, installed: Installed) -> Self {
        let command = |text: &'static str| if installed == Installed::Yes { text } else { "false" };
        let with = self
            .setting("filter.lfs.clean", command("git-lfs clean -- %f"))
            .setting("filter.lfs.smudge", command("git-lfs smudge -- %f"))
            .setting("filter.lfs.required", "true")
            .setting("lfs.locksverify", "false");
        if installed == Installed::Yes { with.setting("filter.lfs.process", "git-lfs filter-process") } else { with }
    }
}

/// What a failed command means that may have gone through the filter.
pub(super) fn diagnose(git: &Git, finished: &Finished, action: &str) -> GitError {
    let stderr = &finished.stderr;
    let filter = stderr.contains("filter 'lfs' failed") || stderr.contains("filter lfs failed");
    if !filter || diagnose::disk_is_full(stderr) {
        finished.error()
    } else if git.has_lfs() {
        let lines: Vec<&str> = stderr.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        GitError::Lfs { action: action.to_owned(), detail: lines.join("; ").chars().take(2_000).collect() }
    } else {
        GitError::LfsMissing { action: action.to_owned() }
    }
}

/// Uploads the LFS contents that `commit` needs. Nothing is run where the mirror has never seen one.
pub(super) async fn upload(
    git: &Git,
    checkout: &Checkout,
    remote: &Remote,
    commit: &ObjectId,
    target: &str,
) -> Result<(), GitError> {
    if !checkout.has_lfs_contents() || !git.has_lfs() {
        return Ok(());
    }
    let action = format!("upload LFS files to {remote}");
    let zeros = "0".repeat(commit.as_str().len());
    let finished = git
        .command(&action, &checkout.git_dir)
        .env("GIT_OBJECT_DIRECTORY", &checkout.objects)
        .origin(remote)
        .lfs(git.host.lfs)
        .args(["lfs", "pre-push", "origin"])
        .stdin(format!("{target} {commit} {target} {zeros}\n").into_bytes())
        .finish()
        .await?;
    if finished.code == Some(0) {
        return Ok(());
    }
    Err(GitError::Lfs { action, detail: diagnose::detail(&finished.stderr) })
}
