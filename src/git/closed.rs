//! Directories that a job has closed to whoever is to move or to delete them: by their rights, or as read-only subvolumes of Btrfs.
//!
//! The one rule: the place at which a directory is opened up is the host's, and no link is followed there.

use std::fs::{self, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

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
    let flags = (OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_DIRECTORY).bits();
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(dir)?;
    // By this name it is the one that was opened, whatever is put in its place meanwhile.
    let opened_dir = PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), opened.as_raw_fd()));
    if is_subvolume(dir) {
        make_writable(&opened_dir).map_err(io::Error::other)?;
    }
    let mode = opened.metadata()?.permissions().mode();
    if mode & 0o700 == 0o700 { Ok(()) } else { fs::set_permissions(&opened_dir, Permissions::from_mode(mode | 0o700)) }
}

/// Whether an error may come of a closed directory.
#[must_use]
pub fn is_closed(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}
