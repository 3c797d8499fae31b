//! Subvolumes of Btrfs: a base checkout is one, and a worktree is a copy of it, which the filesystem makes at once whatever is in it.
//!
//! The one rule: a copy has the inode numbers and the times that its base has, so the base's index is valid in it, and git reads
//! no file. Copies share nothing that can be written: a base may be moved or removed while copies of it are used.
//!
//! Subvolumes are made and removed by the program `btrfs`, since the system calls for it have no safe wrapper. It runs for a
//! millisecond, knows no configuration, and is given paths of our own only. Files are never cloned one by one: on a large tree that takes
//! longer than to write them anew, on XFS as on Btrfs.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::statfs::{BTRFS_SUPER_MAGIC, statfs};

use super::error::{GitError, io_error};
use super::overlay::PROBE;
use crate::janitor::SUBVOLUME;

/// Where the program is looked for.
const DIRECTORIES: [&str; 4] = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// Makes an empty subvolume.
///
/// # Errors
/// [`GitError::Snapshot`].
pub(super) fn create(at: &Path) -> Result<(), GitError> {
    run(&["subvolume", "create"], &[at]).map_err(|why| GitError::Snapshot { at: at.to_owned(), why })
}

/// Copies a subvolume to a place where nothing is.
///
/// # Errors
/// [`GitError::Snapshot`], or a full disk.
pub(super) fn copy(from: &Path, at: &Path) -> Result<(), GitError> {
    run(&["subvolume", "snapshot"], &[from, at]).map_err(|why| {
        if why.contains("No space left") || why.contains("Disk quota exceeded") {
            return GitError::DiskFull { action: format!("copy the base checkout to {}", at.display()) };
        }
        GitError::Snapshot { at: at.to_owned(), why }
    })
}

/// Deletes the subvolumes of worktrees and bases in something that was discarded, each at once. What cannot be deleted so, because
/// there is no program or no right to, can be as any directory.
pub fn delete_subvolumes(discarded: &Path) {
    // A worktree, a base, and what is laid out as a slot is. What a job made may be a link in the place of any of them.
    let is_directory = |path: &Path| path.symlink_metadata().is_ok_and(|meta| meta.is_dir());
    let (within, job) = (discarded.join("tree"), discarded.join("job"));
    let candidates = if is_directory(&job) { vec![within, job.join("tree")] } else { vec![within] };
    let candidates = if is_directory(discarded) { candidates } else { Vec::new() };
    for path in candidates.into_iter().chain([discarded.to_owned()]) {
        if is_subvolume(&path)
            && let Err(why) = run(&["subvolume", "delete"], &[&path])
        {
            tracing::debug!(path = %path.display(), %why, "a subvolume is deleted file by file");
        }
    }
}

/// Takes back that a subvolume is read-only, if it is. The error is a sentence.
pub(super) fn make_writable(subvolume: &Path) -> Result<(), String> {
    run(&["property", "set", "-t", "subvol"], &[subvolume, Path::new("ro"), Path::new("false")])
}

/// Whether a directory is the uppermost one of a subvolume, so that its files count as another device's.
#[must_use]
pub fn is_subvolume(path: &Path) -> bool {
    let is_root = |meta: &Metadata| meta.is_dir() && meta.ino() == SUBVOLUME;
    path.symlink_metadata().is_ok_and(|meta| is_root(&meta)) && is_on_btrfs(path)
}

fn is_on_btrfs(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| found.filesystem_type() == BTRFS_SUPER_MAGIC)
}

/// Tries in a directory below `dir`, which is made and removed, whether subvolumes do there what worktrees need of them. The error is
/// a sentence.
pub(super) fn probe(dir: &Path) -> Result<(), String> {
    if !is_on_btrfs(dir) {
        return Err("the state directory is not on Btrfs".to_owned());
    }
    let place = tempfile::Builder::new().prefix(&format!("{PROBE}{}-", std::process::id())).tempdir_in(dir);
    let place = place.map_err(|error| format!("cannot write to {}: {error}", dir.display()))?;
    let tried = try_in(place.path());
    delete_subvolumes(&place.path().join("base"));
    delete_subvolumes(&place.path().join("copy"));
    tried
}

fn try_in(place: &Path) -> Result<(), String> {
    let said = |error: GitError| error.to_string();
    let (base, copied) = (place.join("base"), place.join("copy"));
    create(&base).map_err(said)?;
    let file = base.join("file");
    fs::write(&file, "base").map_err(io_error("write", &file)).map_err(said)?;
    copy(&base, &copied).map_err(said)?;
    let known = |path: &Path| {
        let meta = path.metadata().map_err(io_error("look at", path)).map_err(said)?;
        Ok::<_, String>((meta.ino(), meta.ctime(), meta.ctime_nsec(), meta.mtime()))
    };
    if known(&copied.join("file"))? != known(&file)? {
        return Err("files have other inode numbers or times in a copy here, so that git would read all of them again".to_owned());
    }
    Ok(())
}

/// Runs the program; the error is a sentence. It ends when the kernel has done what was asked, and nothing could end it before.
fn run(words: &[&str], paths: &[&Path]) -> Result<(), String> {
    let program = program().ok_or("the program btrfs is not installed (package btrfs-progs)")?;
    let mut command = Command::new(&program);
    command.args(words).arg("--").args(paths).env_clear().env("LC_ALL", "C").stdin(Stdio::null());
    let output = command.output().map_err(|error| format!("cannot start {}: {error}", program.display()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(said.trim().trim_start_matches("ERROR: ").to_owned())
}

fn program() -> Option<PathBuf> {
    DIRECTORIES.iter().map(|dir| Path::new(dir).join("btrfs")).find(|path| path.is_file())
}
