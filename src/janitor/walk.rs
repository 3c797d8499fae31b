//! Going through the files that a job can write, while it writes them.
//!
//! The one rule: nothing outside is met. Directories are opened from the one above them and no link is followed, so whatever the job
//! puts in the place of another thing meanwhile, the way does not leave the place, nor its filesystem. A subvolume of Btrfs is
//! numbered as a filesystem of its own, and is none: anybody can make one, and what is in it counts.

use std::ffi::{CStr, CString};
use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;

use nix::dir::Dir;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};

/// How deep a tree is followed: each level holds a descriptor.
pub(super) const LEVELS: usize = 128;
/// The inode number of the uppermost directory of every subvolume (btrfs-dev-docs, "BTRFS_FIRST_FREE_OBJECTID").
pub const SUBVOLUME: u64 = 256;

/// Where to go from what is visited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Into it, where it is a directory.
    Into,
    /// Past it.
    Past,
    /// No further at all.
    Out,
}

/// Visits everything below a directory, on its own filesystem: how deep it lies (0 is in the directory itself), its name, and what is
/// known of it. Files that go meanwhile are not met, nor are those that a process has deleted and holds open, and those in directories
/// that nobody may read.
pub fn walk(place: &Path, mut visit: impl FnMut(usize, &CStr, &FileStat) -> Way) {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut open: Vec<Level> = Dir::open(place, flags, Mode::empty()).ok().and_then(Level::read).into_iter().collect();
    loop {
        let depth = open.len();
        let Some(Level { dir, device, names }) = open.last_mut() else { return };
        let Some(name) = names.pop() else {
            open.pop();
            continue;
        };
        let Ok(about) = fstatat(&*dir, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW) else { continue };
        let elsewhere = about.st_dev != *device;
        if elsewhere && !(is_dir(&about) && about.st_ino == SUBVOLUME) {
            continue;
        }
        let below = if is_dir(&about) { Dir::openat(&*dir, name.as_c_str(), flags, Mode::empty()).ok() } else { None };
        if elsewhere && below.as_ref().is_none_or(|below| mount_of(below) != mount_of(&*dir)) {
            continue;
        }
        match visit(depth - 1, &name, &about) {
            Way::Into if depth < LEVELS => open.extend(below.and_then(Level::read)),
            Way::Into | Way::Past => {}
            Way::Out => return,
        }
    }
}

/// Whether it is a directory.
#[must_use]
pub fn is_dir(about: &FileStat) -> bool {
    about.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits()
}

/// The number of the mount through which a directory was opened (proc_pid_fdinfo(5)).
fn mount_of(dir: &impl AsFd) -> Option<u64> {
    let open: BorrowedFd<'_> = dir.as_fd();
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", open.as_raw_fd())).ok()?;
    text.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok())
}

/// An open directory, with the names in it that are still to be looked at.
struct Level {
    dir: Dir,
    device: u64,
    names: Vec<CString>,
}

impl Level {
    fn read(mut dir: Dir) -> Option<Self> {
        let device = fstat(&dir).ok()?.st_dev;
        let names = dir.iter().filter_map(|entry| Some(CString::from(entry.ok()?.file_name())));
        let names = names.filter(|name| ![c".", c".."].contains(&name.as_c_str())).collect();
        Some(Self { dir, device, names })
    }
}
