//! Overlays over directories that are no checkouts, for rooms that show a job something that it may write to and nobody else sees.
//!
//! The one rule is that of every overlay: what is below one does not change while it is mounted. Who keeps that, and when mounts
//! come and go, is the affair of whoever mounts.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use nix::mount::{MsFlags, mount};

use super::error::{GitError, io_error};
use super::marks::Marks;
use super::overlay::{Layers, detach, is_whiteout, mounted_below};

/// The directories of one overlay. All are there when it is mounted.
#[derive(Debug, Clone)]
pub struct Stack {
    /// What is read.
    pub lower: PathBuf,
    /// What is written.
    pub upper: PathBuf,
    /// The kernel's own, empty, on the filesystem of `upper`.
    pub work: PathBuf,
}

impl Stack {
    /// Mounts it at a directory; what was written has these marks, or will have them.
    ///
    /// # Errors
    /// [`GitError::Overlay`], or a full disk.
    pub fn mount(&self, at: &Path, marks: Marks) -> Result<(), GitError> {
        let Self { lower, upper, work } = self.clone();
        Layers { lower, upper, work }.mount(at, marks)
    }
}

/// What stands at a place of the upper directory of an overlay, by the kernel's marks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mark {
    /// Nothing is there, whatever is below.
    Removed,
    /// A directory through which nothing shows.
    Opaque,
    /// A directory through which shows what is below at this path from the root of the overlay.
    Renamed(PathBuf),
    /// Neither: what is there is there, and a directory shows what is below at the same place.
    Plain,
}

/// Reads what is at `within` in the upper directory `upper`, which has these marks; no link is followed at its end. `shown` is the
/// directory below from which the directory that holds it shows what is there, where it shows something.
///
/// # Errors
/// What the system says; a mark that is not known.
pub fn mark((upper, marks): (&Path, Marks), within: &Path, shown: Option<&Path>) -> io::Result<Mark> {
    let path = upper.join(within);
    let meta = path.symlink_metadata()?;
    if is_whiteout(&meta) {
        return Ok(Mark::Removed);
    }
    if !meta.is_dir() {
        return Ok(Mark::Plain);
    }
    match xattr::get(&path, marks.opaque())?.as_deref() {
        Some(b"y") => return Ok(Mark::Opaque),
        Some(_) => return Err(io::Error::other(format!("{} has a mark that is not known", path.display()))),
        None => {}
    }
    let Some(target) = xattr::get(&path, marks.redirect())? else { return Ok(Mark::Plain) };
    let target = Path::new(OsStr::from_bytes(&target));
    // The kernel writes none of those that a user may set: somebody else did.
    if marks == Marks::User || !target.components().all(|part| matches!(part, Component::Normal(_) | Component::RootDir)) {
        return Err(io::Error::other(format!("{} has a mark that is not known", path.display())));
    }
    // From the root where it begins with a slash, else a name in the same directory.
    Ok(Mark::Renamed(match target.strip_prefix("/") {
        Ok(from_root) => from_root.to_owned(),
        Err(_) => shown.unwrap_or(Path::new("")).join(target),
    }))
}

/// Shows what is mounted at `source` at another directory too.
///
/// # Errors
/// What the system says.
pub fn show_at(source: &Path, at: &Path) -> Result<(), GitError> {
    let none = None::<&Path>;
    mount(Some(source), at, none, MsFlags::MS_BIND, none).map_err(|errno| io_error("mount at", at)(errno.into()))
}

/// Takes whatever is mounted at a directory off, at once. None there is fine, and so is no directory.
///
/// # Errors
/// What the system says.
pub fn take_off(at: &Path) -> Result<(), GitError> {
    detach(at)
}

/// Where overlays of ours are mounted at or below a directory, in the order in which they were.
///
/// # Errors
/// The list of mounts cannot be read.
pub fn mounts_below(dir: &Path) -> Result<Vec<PathBuf>, GitError> {
    mounted_below(dir)
}

/// Whether two paths are the same directory, as where one is shown at the other.
#[must_use]
pub fn is_shown_at(source: &Path, at: &Path) -> bool {
    let identity = |path: &Path| fs::symlink_metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
    identity(source).is_some_and(|of_source| identity(at) == Some(of_source))
}
