//! Deleting a tree that a job has left, however deep it is.
//!
//! The one rule: it takes so many descriptors, and no more of the stack for a deeper tree. What lies too deep is moved to the top of the
//! trash, where it is a tree of its own, and deleted after the others. No link is followed, and nothing is entered that is mounted.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::dir::{Dir, OwningIter};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::{Mode, fstat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use uuid::Uuid;

/// How many directories are open at once.
const LEVELS: usize = 48;
/// How often a directory is read that has something again when it is to go.
const READS: u32 = 3;
/// The inode of the uppermost directory of every Btrfs subvolume, which is another device's, and not mounted.
const SUBVOLUME: u64 = 256;

/// A directory that is being emptied.
struct Level {
    name: CString,
    dir: OwnedFd,
    entries: OwningIter,
    device: u64,
    reads: u32,
}

impl Level {
    fn open(above: &OwnedFd, device: u64, name: &CStr) -> io::Result<Self> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let dir = openat(above, name, flags, Mode::empty())?;
        let found = fstat(&dir)?;
        if found.st_dev != device && found.st_ino != SUBVOLUME {
            let why = format!("something is mounted at {}, which is not to be deleted", name.to_string_lossy());
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, why));
        }
        let entries = Dir::from_fd(dir.try_clone()?)?.into_iter();
        Ok(Self { name: name.to_owned(), dir, entries, device: found.st_dev, reads: 1 })
    }

    fn next(&mut self) -> io::Result<Option<CString>> {
        loop {
            match self.entries.next() {
                None => return Ok(None),
                Some(entry) => {
                    let name = entry?.file_name().to_owned();
                    if ![c".", c".."].contains(&name.as_c_str()) {
                        return Ok(Some(name));
                    }
                }
            }
        }
    }
}

/// Deletes the directory at `path`, which is in `trash`.
pub(super) fn remove(path: &Path, trash: &Path) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let trash = nix::fcntl::open(trash, flags, Mode::empty())?;
    let mut ahead = vec![CString::new(name.as_bytes())?];
    while let Some(name) = ahead.pop() {
        remove_upper(&trash, &name, &mut ahead)?;
    }
    Ok(())
}

/// Deletes as much of a tree as may be open at once; what lies deeper is `ahead` then.
fn remove_upper(trash: &OwnedFd, name: &CStr, ahead: &mut Vec<CString>) -> io::Result<()> {
    let mut levels = vec![Level::open(trash, fstat(trash)?.st_dev, name)?];
    loop {
        let deep = levels.len() >= LEVELS;
        let Some(level) = levels.last_mut() else { return Ok(()) };
        let Some(name) = level.next()? else {
            leave(&mut levels, trash)?;
            continue;
        };
        match unlinkat(&level.dir, name.as_c_str(), UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(Errno::EISDIR) if deep => {
                let moved = CString::new(Uuid::new_v4().to_string())?;
                renameat(&level.dir, name.as_c_str(), trash, moved.as_c_str())?;
                ahead.push(moved);
            }
            Err(Errno::EISDIR) => {
                let inner = Level::open(&level.dir, level.device, &name)?;
                levels.push(inner);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Deletes the innermost directory, of which everything was read.
fn leave(levels: &mut Vec<Level>, trash: &OwnedFd) -> io::Result<()> {
    let Some(mut level) = levels.pop() else { return Ok(()) };
    let (above, device) = levels.last().map_or((trash, level.device), |above| (&above.dir, above.device));
    match unlinkat(above, level.name.as_c_str(), UnlinkatFlags::RemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        // Reading it while it is emptied may pass something over.
        Err(Errno::ENOTEMPTY | Errno::EEXIST) if level.reads < READS => {
            let (again, reads) = (Level::open(above, device, &level.name)?, level.reads + 1);
            level = Level { reads, ..again };
            levels.push(level);
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use nix::sys::stat::mkdirat;

    use super::*;

    #[test]
    fn a_tree_of_any_depth_goes_with_few_descriptors_and_little_of_the_stack() {
        const DEPTH: usize = 6_000;
        let dir = tempfile::tempdir().expect("a directory");
        let top = dir.path().join("top");
        fs::create_dir(&top).expect("made");
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        let mut at = nix::fcntl::open(&top, flags, Mode::empty()).expect("opened");
        for _ in 0..DEPTH {
            mkdirat(&at, "d", Mode::S_IRWXU).expect("made");
            at = openat(&at, "d", flags, Mode::empty()).expect("opened");
        }
        drop(at);
        remove(&top, dir.path()).expect("deleted");
        assert_eq!(fs::read_dir(dir.path()).expect("read").count(), 0);
    }

    #[test]
    fn what_is_in_it_goes_and_what_its_links_name_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        let (trash, outside) = (dir.path().join("trash"), dir.path().join("outside"));
        for made in [&trash, &outside] {
            fs::create_dir(made).expect("made");
        }
        fs::write(outside.join("kept"), "x").expect("written");
        let top = trash.join("top");
        fs::create_dir_all(top.join("a/b")).expect("made");
        for number in 0..300 {
            fs::write(top.join(format!("a/b/{number}")), "x").expect("written");
        }
        std::os::unix::fs::symlink(&outside, top.join("a/link")).expect("linked");
        remove(&top, &trash).expect("deleted");
        assert_eq!(fs::read_dir(&trash).expect("read").count(), 0);
        assert!(outside.join("kept").exists());
    }
}
