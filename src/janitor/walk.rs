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

/// How many levels of a tree have a descriptor each. Of those below them only the deepest has one: the others are opened again from below,
/// and must be what they were.
const LEVELS: usize = 128;
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
/// that nobody may read. Says whether it came to the end, however deep the tree is: not where it was told to go no further, or a deep part
/// of the tree was moved away meanwhile.
pub fn walk(place: &Path, mut visit: impl FnMut(usize, &CStr, &FileStat) -> Way) -> bool {
    let mut whole = true;
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut open: Vec<Level> = Dir::open(place, flags, Mode::empty()).ok().and_then(Level::read).into_iter().collect();
    loop {
        let depth = open.len();
        let Some(Level { dir, device, names, .. }) = open.last_mut() else { return whole };
        let (Some(name), Some(dir)) = (names.pop(), dir) else {
            whole &= go_up(&mut open);
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
            Way::Into => {
                if let Some(below) = below.and_then(Level::read) {
                    if depth >= LEVELS {
                        open[depth - 1].dir = None;
                    }
                    open.push(below);
                }
            }
            Way::Past => {}
            Way::Out => return false,
        }
    }
}

/// Leaves the deepest directory for the one that it is in. False where that is another one by now: then it goes on where it still has a
/// descriptor.
fn go_up(open: &mut Vec<Level>) -> bool {
    let left = open.pop().and_then(|level| level.dir);
    let Some(above) = open.last_mut().filter(|above| above.dir.is_none()) else { return true };
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    above.dir = left.and_then(|left| Dir::openat(&left, c"..", flags, Mode::empty()).ok());
    let is_same = |dir: &Dir| fstat(dir).is_ok_and(|about| (about.st_dev, about.st_ino) == (above.device, above.inode));
    if above.dir.as_ref().is_some_and(is_same) {
        return true;
    }
    open.truncate(LEVELS - 1);
    false
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

/// A directory, with the names in it that are still to be looked at.
struct Level {
    /// None while it is between the levels that are held open and the deepest.
    dir: Option<Dir>,
    device: u64,
    inode: u64,
    names: Vec<CString>,
}

impl Level {
    fn read(mut dir: Dir) -> Option<Self> {
        let about = fstat(&dir).ok()?;
        let names = dir.iter().filter_map(|entry| Some(CString::from(entry.ok()?.file_name())));
        let names = names.filter(|name| ![c".", c".."].contains(&name.as_c_str())).collect();
        Some(Self { dir: Some(dir), device: about.st_dev, inode: about.st_ino, names })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A chain of directories in `place` of that many levels, with a file in the last and one beside each fiftieth. Made from within, since
    /// no path is that long.
    fn chain(place: &Path, levels: usize) {
        let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut dir = Dir::open(place, flags, Mode::empty()).expect("it is there");
        let make = |dir: &Dir, name: &CStr| {
            drop(nix::fcntl::openat(dir, name, OFlag::O_CREAT | OFlag::O_WRONLY, Mode::S_IRWXU).expect("made"));
        };
        for level in 1..=levels {
            nix::sys::stat::mkdirat(&dir, c"d", Mode::S_IRWXU).expect("made");
            if level % 50 == 0 {
                make(&dir, c"beside");
            }
            dir = Dir::openat(&dir, c"d", flags, Mode::empty()).expect("it is there");
        }
        make(&dir, c"file");
    }

    #[test]
    fn a_tree_of_any_depth_is_followed_to_its_end_with_few_descriptors() {
        let place = tempfile::tempdir().expect("a directory");
        chain(place.path(), 3000);
        let open = || fs::read_dir("/proc/self/fd").expect("a list").count();
        let before = open();
        let (mut deepest, mut files, mut most) = (0, 0, 0);
        let whole = walk(place.path(), |depth, _, about| {
            deepest = deepest.max(depth);
            files += usize::from(!is_dir(about));
            if depth % 100 == 0 {
                most = most.max(open());
            }
            Way::Into
        });
        assert_eq!((whole, deepest, files), (true, 3000, 61));
        // Other tests have some, too.
        assert!(most < before + 400, "{before} {most}");
        let mut met = 0;
        assert!(
            !walk(place.path(), |_, _, _| {
                met += 1;
                Way::Out
            }),
            "it was told to go no further"
        );
        assert_eq!(met, 1);
        remove(place.path());
    }

    #[test]
    fn a_deep_part_that_is_moved_away_meanwhile_is_left_and_the_rest_is_looked_at() {
        let place = tempfile::tempdir().expect("a directory");
        chain(place.path(), 400);
        let deep = |levels: usize| place.path().join("d/".repeat(levels));
        let mut moved = false;
        let mut beside = 0;
        let whole = walk(place.path(), |depth, name, _| {
            beside += usize::from(name == c"beside");
            if depth == 300 && !moved {
                fs::rename(deep(250), place.path().join("elsewhere")).expect("moved");
                moved = true;
            }
            Way::Into
        });
        assert!(moved && !whole);
        // What is above the levels that were let go of: those beside the directories of the levels 50 and 100.
        assert!(beside >= 2, "{beside}");
        remove(place.path());
    }

    /// The standard library's own removal goes as deep as the stack does.
    fn remove(place: &Path) {
        assert!(std::process::Command::new("rm").arg("-rf").arg(place).status().expect("it runs").success());
    }
}
