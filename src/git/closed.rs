//! Directories that a job has closed to whoever is to move or to delete them: by their rights, or as read-only subvolumes of Btrfs.
//!
//! The one rule: the place at which a directory is opened up is the host's, and no link is followed there.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::snapshot::{is_subvolume, make_writable};

/// Renames something to another directory. A directory there that is closed is opened up: to be moved it must itself be writable.
///
/// # Errors
/// What the system says.
pub fn move_away(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if is_closed(&error) && from.symlink_metadata()?.is_dir() => {
            open_up(from)?;
            fs::rename(from, to)
        }
        renamed => renamed,
    }
}

/// Lets the owner of a directory read and write it.
///
/// # Errors
/// What the system says.
pub fn open_up(dir: &Path) -> io::Result<()> {
    if is_subvolume(dir) {
        make_writable(dir).map_err(io::Error::other)?;
    }
    let mode = dir.symlink_metadata()?.permissions().mode();
    if mode & 0o700 == 0o700 { Ok(()) } else { fs::set_permissions(dir, Permissions::from_mode(mode | 0o700)) }
}

/// Whether an error may come of a closed directory.
#[must_use]
pub fn is_closed(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}
