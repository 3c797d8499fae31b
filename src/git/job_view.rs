//! The job's own `.git`: private, over the mirror's objects, with its branch at the base commit.
//!
//! In it `status`, `diff`, `log`, `commit`, `stash` and `branch` work as anywhere; nothing that is done in it reaches the
//! mirror, and the host never runs git on it. What the host reads of it, it reads as plain files, and only for submodules.

use std::fs;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::checkout::{Checkout, format_settings, write};
use super::error::io_error;
use super::{Git, GitError};
use crate::ids::ObjectId;

/// The largest packed-refs that is looked through.
const PACKED_REFS_MAX: u64 = 16 * 1024 * 1024;

/// Writes `<tree>/.git`, with the index of the host's fresh checkout. `head` is the ref that it is on, or the commit itself.
pub(super) fn write_view(git: &Git, checkout: &Checkout, head: Head<'_>) -> Result<(), GitError> {
    write_view_but_index(git, checkout, head, &checkout.tree)?;
    write_index_of_view(checkout)
}

/// Writes `<tree>/.git/index`, alone.
pub(super) fn write_index_of_view(checkout: &Checkout) -> Result<(), GitError> {
    let view = checkout.tree.join(".git");
    fs::create_dir_all(&view).map_err(io_error("create", &view))?;
    let index = view.join("index");
    fs::copy(&checkout.index, &index).map_err(io_error("write", &index)).map(drop)
}

/// Writes everything but the index of a view of `checkout` into `<tree>/.git`.
pub(super) fn write_view_but_index(git: &Git, checkout: &Checkout, head: Head<'_>, tree: &Path) -> Result<(), GitError> {
    let base = &checkout.base;
    let view = tree.join(".git");
    for directory in ["objects/info", "objects/pack", "refs/heads", "refs/tags", "info"] {
        let path = view.join(directory);
        fs::create_dir_all(&path).map_err(io_error("create", &path))?;
    }
    let mut config = format!("[core]\n\tbare = false\n\tfilemode = true\n\tlogallrefupdates = true\n{}", format_settings(base));
    let config_ = &git.host.config;
    config.push_str(&format!("[user]\n\tname = {}\n\temail = {}\n", quote(&config_.author_name), quote(&config_.author_email)));
    config.push_str("[gc]\n\tauto = 0\n[maintenance]\n\tauto = false\n");
    if checkout.has_lfs_contents() && git.has_lfs() {
        config.push_str("[filter \"lfs\"]\n\tclean = git-lfs clean -- %f\n\tsmudge = git-lfs smudge -- %f\n");
        config.push_str("\tprocess = git-lfs filter-process\n\trequired = true\n");
    }
    write(&view.join("config"), config)?;
    write(&view.join("objects/info/alternates"), format!("{}\n", checkout.objects.display()))?;
    match head {
        Head::Branch(branch) => {
            let tip = view.join("refs/heads").join(branch);
            if let Some(parent) = tip.parent() {
                fs::create_dir_all(parent).map_err(io_error("create", parent))?;
            }
            write(&tip, format!("{base}\n"))?;
            write(&view.join("HEAD"), format!("ref: refs/heads/{branch}\n"))?;
        }
        Head::Detached => write(&view.join("HEAD"), format!("{base}\n"))?,
    }
    Ok(())
}

/// What the job's view begins on.
#[derive(Debug, Clone, Copy)]
pub(super) enum Head<'a> {
    /// A branch of this name.
    Branch(&'a str),
    /// The commit itself, as in a submodule.
    Detached,
}

fn quote(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// The commit that the job's view in `directory` is on, read as plain files; nothing where they do not say.
pub(super) fn read_head(directory: &Path) -> Option<ObjectId> {
    let view = directory.join(".git");
    if !fs::symlink_metadata(&view).ok()?.is_dir() {
        return None;
    }
    let head = read_plain(&view.join("HEAD"), 4096)?;
    let Some(name) = head.trim().strip_prefix("ref: ") else { return head.trim().parse().ok() };
    let name = name.trim();
    if !name.starts_with("refs/") || name.split('/').any(|part| part.is_empty() || part.starts_with('.')) {
        return None;
    }
    if let Some(tip) = read_plain(&view.join(name), 4096) {
        return tip.trim().parse().ok();
    }
    let packed = read_plain(&view.join("packed-refs"), PACKED_REFS_MAX)?;
    packed.lines().find_map(|line| line.split_once(' ').filter(|(_, found)| *found == name)?.0.parse().ok())
}

/// Reads a regular file of at most `max` bytes; no link is followed and no pipe waited for.
fn read_plain(path: &Path, max: u64) -> Option<String> {
    let flags = nix::fcntl::OFlag::O_NOFOLLOW | nix::fcntl::OFlag::O_NONBLOCK;
    let file = fs::OpenOptions::new().read(true).custom_flags(flags.bits()).open(path).ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut text = String::new();
    file.take(max).read_to_string(&mut text).ok()?;
    Some(text)
}
