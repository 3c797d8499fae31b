//! Going through the files that a job can write, while it writes them.
//!
//! The one rule: nothing outside is met. Directories are opened from the one above them and no link is followed, so whatever the job
//! puts in the place of another thing meanwhile, the way does not leave the place, nor its filesystem.

use std::ffi::{CStr, CString};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::dir::Dir;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat};

/// How deep a tree is followed: each level holds a descriptor.
const LEVELS: usize = 128;

/// Visits everything below a directory, on its own filesystem: how deep it lies (0 is in the directory itself), its name, and what is
/// known of it. Where that answers no, what is below is passed over. Files that go meanwhile are not met, nor are those that a process
/// has deleted and holds open, and those in directories that nobody may read.
pub(super) fn walk(place: &Path, mut visit: impl FnMut(usize, &CStr, &FileStat) -> bool) {
    let Ok(device) = fs::metadata(place).map(|about| about.dev()) else { return };
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut open: Vec<Level> = Dir::open(place, flags, Mode::empty()).map(Level::read).into_iter().collect();
    loop {
        let depth = open.len();
        let Some(Level { dir, names }) = open.last_mut() else { return };
        let Some(name) = names.pop() else {
            open.pop();
            continue;
        };
        let Ok(about) = fstatat(&*dir, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW) else { continue };
        if about.st_dev == device
            && visit(depth - 1, &name, &about)
            && is_dir(&about)
            && depth < LEVELS
            && let Ok(below) = Dir::openat(&*dir, name.as_c_str(), flags, Mode::empty())
        {
            open.push(Level::read(below));
        }
    }
}

pub(super) fn is_dir(about: &FileStat) -> bool {
    about.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits()
}

/// An open directory, with the names in it that are still to be looked at.
struct Level {
    dir: Dir,
    names: Vec<CString>,
}

impl Level {
    fn read(mut dir: Dir) -> Self {
        let names = dir.iter().filter_map(|entry| Some(CString::from(entry.ok()?.file_name())));
        let names = names.filter(|name| ![c".", c".."].contains(&name.as_c_str())).collect();
        Self { dir, names }
    }
}
