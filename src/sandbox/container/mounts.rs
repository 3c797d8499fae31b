//! What is mounted on the host after a container was made, and is to be seen in it: a worktree that is an overlay.
//!
//! The one rule: a container holds the slot's directory either with its mounts, where those come and go with the host's, or without any
//! (see `engine.rs`). So no mount of an earlier job's is ever in it.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use crate::sandbox::kernel;

/// Whether something is mounted at `path`, which has no links in it. That another device is there is no sign of it: every subvolume of
/// Btrfs is one.
///
/// # Errors
/// The list of mounts cannot be read.
pub(super) fn is_mounted(path: &Path) -> io::Result<bool> {
    Ok(count_at(&table("self")?, path) > 0)
}

/// Shows what is mounted at `source` to the container whose first process has this number, at `target` there. Blocks for well under a
/// millisecond.
///
/// # Errors
/// This process is not root, or the container is gone.
pub(super) fn show(source: &Path, pid: i32, target: &Path) -> io::Result<()> {
    let text = |path: &Path| CString::new(path.as_os_str().as_bytes());
    let (source, target) = (text(source)?, text(target)?);
    let namespace = File::open(format!("/proc/{pid}/ns/mnt"))?;
    let shown = std::thread::spawn(move || kernel::show_mount(&source, namespace, &target)).join();
    Ok(shown.map_err(|_| io::Error::other("the thread that mounts panicked; please report it as a defect"))??)
}

/// Takes off what was shown at `target` to the container whose first process has this number: all but what it was made with. What is
/// at work there keeps it for as long as it runs.
///
/// # Errors
/// This process is not root, or the container is gone.
pub(super) fn uncover(pid: i32, target: &Path) -> io::Result<()> {
    let shown = count_at(&table(&pid.to_string())?, target);
    if shown <= 1 {
        return Ok(());
    }
    let target = CString::new(target.as_os_str().as_bytes())?;
    let namespace = File::open(format!("/proc/{pid}/ns/mnt"))?;
    let taken = std::thread::spawn(move || {
        // A thread that shares its root and working directory with others cannot leave their namespace.
        unshare(CloneFlags::CLONE_FS)?;
        setns(namespace, CloneFlags::CLONE_NEWNS)?;
        (1..shown).try_for_each(|_| umount2(target.as_c_str(), MntFlags::MNT_DETACH))
    });
    Ok(taken.join().map_err(|_| io::Error::other("the thread that unmounts panicked; please report it as a defect"))??)
}

/// What is mounted where a process lives. Paths that are no UTF-8 are nobody's here.
fn table(of: &str) -> io::Result<String> {
    Ok(String::from_utf8_lossy(&fs::read(format!("/proc/{of}/mountinfo"))?).into_owned())
}

/// How many mounts a table has at a path, one over the other.
fn count_at(table: &str, path: &Path) -> usize {
    table.lines().filter_map(place_of).filter(|place| Path::new(place) == path).count()
}

/// Where a line says that something is mounted: its fifth field (proc_pid_mountinfo(5)), in which the kernel writes what separates fields
/// and lines as octal digits.
fn place_of(line: &str) -> Option<String> {
    let written = line.split(' ').nth(4)?;
    Some(written.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\"))
}

/// Whether mounts below `path` propagate into containers that hold it: the mount that it is on is shared, or the slave of one that is.
#[must_use]
pub fn propagates(path: &Path) -> bool {
    table("self").is_ok_and(|table| is_shared(&table, path))
}

/// The format is that of proc_pid_mountinfo(5): optional fields follow the sixth, up to a dash.
fn is_shared(table: &str, path: &Path) -> bool {
    let on_it = table.lines().filter_map(|line| {
        let place = place_of(line)?;
        let mut optional = line.split(' ').skip(6).take_while(|field| *field != "-");
        let shared = optional.any(|field| field.starts_with("shared:") || field.starts_with("master:"));
        path.starts_with(&place).then_some((place.len(), shared))
    });
    // Of several at one place the last one hides the others.
    on_it.max_by_key(|(length, _)| *length).is_some_and(|(_, shared)| shared)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_that_a_path_is_on_decides() {
        let table = "22 1 8:1 / / rw shared:1 - ext4 /dev/sda rw\n\
                     23 22 8:2 / /srv rw - ext4 /dev/sdb rw\n\
                     24 23 8:3 / /srv/a\\040b rw master:7 - ext4 /dev/sdc rw\n";
        let check = |path: &str, expected: bool| assert_eq!(is_shared(table, Path::new(path)), expected, "{path}");
        check("/var/lib", true);
        check("/srv/x", false);
        check("/srv/a b/slots", true);
        check("/srvx", true);
    }

    #[test]
    fn mounts_at_a_path_are_counted_and_another_device_is_none() {
        let table = "22 1 8:1 / / rw shared:1 - ext4 /dev/sda rw\n\
                     23 22 0:40 / /srv/a\\040b\\134c rw - btrfs /dev/sdb rw\n\
                     24 23 0:41 / /srv/a\\040b\\134c rw - overlay sawmill rw\n";
        let check = |path: &str, expected: usize| assert_eq!(count_at(table, Path::new(path)), expected, "{path}");
        check("/", 1);
        check("/srv", 0);
        check("/srv/a b\\c", 2);
        check("/srv/a b\\c/tree", 0);
        assert!(is_mounted(Path::new("/proc")).expect("there is a list"));
        assert!(!is_mounted(Path::new("/proc/self")).expect("there is a list"));
    }
}
