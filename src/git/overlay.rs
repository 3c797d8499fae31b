//! Mounting an overlay: a tree that one job may change, over a base that all share and nobody changes.
//!
//! The one rule: what is below a mount never changes while it is mounted. So a base is moved or removed only when no lease
//! names it (see [`super::bases`]), and the layer of a worktree only after its mount is off.
//!
//! `volatile` leaves it to the kernel when data is written, as for any file that nobody syncs; without it unmounting would
//! wait for all dirty data of the disk. What else a mount is told is in [`super::marks`].

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::error::{GitError, io_error};
use super::marks::Marks;

/// What stands as the source of our mounts in the list of mounts.
const SOURCE: &str = "sawmill";
/// How the names of places begin in which overlays were tried; the process that tried follows.
pub(super) const PROBE: &str = ".probe-";

/// The directories of one overlay.
#[derive(Debug, Clone)]
pub(super) struct Layers {
    /// What is read: the files of a base.
    pub(super) lower: PathBuf,
    /// What is written: the change.
    pub(super) upper: PathBuf,
    /// The kernel's own, empty when it is first used, on the same filesystem as `upper`.
    pub(super) work: PathBuf,
}

impl Layers {
    /// Mounts the layers, of which the upper one has these marks, at a directory.
    ///
    /// # Errors
    /// [`GitError::Overlay`], or a full disk.
    pub(super) fn mount(&self, at: &Path, marks: Marks) -> Result<(), GitError> {
        let mut options = OsString::from("lowerdir=");
        options.push(escape(&self.lower));
        options.push(",upperdir=");
        options.push(escape(&self.upper));
        options.push(",workdir=");
        options.push(escape(&self.work));
        options.push(marks.options());
        mount(Some(SOURCE), at, Some("overlay"), MsFlags::empty(), Some(options.as_os_str())).map_err(|errno| match errno {
            Errno::EDQUOT => GitError::DiskFull { action: format!("mount an overlay at {}", at.display()) },
            errno => GitError::Overlay { at: at.to_owned(), why: errno.desc().to_lowercase() },
        })
    }
}

/// A path as the options of an overlay take it: what separates them there is marked.
fn escape(path: &Path) -> OsString {
    let mut escaped = Vec::with_capacity(path.as_os_str().len());
    for byte in path.as_os_str().as_bytes() {
        if matches!(byte, b'\\' | b',' | b':') {
            escaped.push(b'\\');
        }
        escaped.push(*byte);
    }
    OsString::from_vec(escaped)
}

/// Takes the mounts off a directory at once; none there is fine, and so is no directory.
///
/// What the kernel remembers of the files goes after that, in the background, since it takes the longer the more files were looked
/// at. Where a process still has a file of it open, which must be a stranger's once a job's processes have ended, it goes with
/// the last such file. Both are safe for everybody else: a layer is not mounted again before [`unmount`] has ended, and a base
/// stays as it is until it is removed as a whole.
///
/// # Errors
/// What the system says.
pub(super) fn detach(at: &Path) -> Result<(), GitError> {
    let held = match File::options().read(true).custom_flags((OFlag::O_PATH | OFlag::O_NOFOLLOW).bits()).open(at) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(()),
        held => held.map_err(io_error("open", at))?,
    };
    if take_off(at, MntFlags::MNT_DETACH)? == 0 {
        return Ok(());
    }
    std::thread::Builder::new().name("unmount".to_owned()).spawn(move || drop(held)).map(drop).map_err(io_error("unmount", at))
}

/// Takes all of our mounts off what is at or below a directory: a worktree that somebody mounted at the moment in which it was moved
/// there. The last mounted goes first.
///
/// # Errors
/// What the system says; the list of mounts cannot be read.
pub(super) fn detach_below(dir: &Path) -> Result<(), GitError> {
    mounted_below(dir)?.iter().rev().try_for_each(|at| detach(at))
}

/// Where our overlays are mounted at or below a directory, in the order in which they were.
pub(super) fn mounted_below(dir: &Path) -> Result<Vec<PathBuf>, GitError> {
    let ours = |line: &[u8]| our_place(line).filter(|at| at.starts_with(dir));
    Ok(mount_table()?.split(|byte| *byte == b'\n').filter_map(ours).collect())
}

/// Where anything is mounted, by whomever.
pub(super) fn mounts() -> Result<Vec<PathBuf>, GitError> {
    let place = |line: &[u8]| line.split(|byte| *byte == b' ').nth(1).map(|at| PathBuf::from(OsString::from_vec(unescape(at))));
    Ok(mount_table()?.split(|byte| *byte == b'\n').filter_map(place).collect())
}

fn mount_table() -> Result<Vec<u8>, GitError> {
    let table = Path::new("/proc/self/mounts");
    fs::read(table).map_err(io_error("read", table))
}

/// Where one of our overlays is mounted, if a line of the kernel's list tells of one.
fn our_place(line: &[u8]) -> Option<PathBuf> {
    let mut fields = line.split(|byte| *byte == b' ');
    let (source, place, kind) = (fields.next()?, fields.next()?, fields.next()?);
    (source == SOURCE.as_bytes() && kind == b"overlay").then(|| PathBuf::from(OsString::from_vec(unescape(place))))
}

/// The kernel writes blanks and backslashes in three octal digits.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                plain.push(byte);
                rest = &after[3..];
            }
            None => {
                plain.push(*first);
                rest = after;
            }
        }
    }
    plain
}

/// As [`detach`], and what the kernel remembers is gone when this returns, unless a process still has a file open.
///
/// # Errors
/// What the system says.
pub(super) fn unmount(at: &Path) -> Result<(), GitError> {
    take_off(at, MntFlags::empty()).map(drop)
}

/// Takes off all mounts, one by one: one may be above another, where a worktree was opened twice at once. Says how many.
fn take_off(at: &Path, flags: MntFlags) -> Result<usize, GitError> {
    let flags = flags | MntFlags::UMOUNT_NOFOLLOW;
    let mut taken = 0;
    loop {
        let mut result = umount2(at, flags);
        if result == Err(Errno::EBUSY) {
            tracing::warn!(path = %at.display(), "somebody still uses a worktree that is to go; it is unmounted all the same");
            result = umount2(at, flags | MntFlags::MNT_DETACH);
        }
        match result {
            Ok(()) => taken += 1,
            // Nothing is mounted; nothing is there; who may not unmount has not mounted either.
            Err(Errno::EINVAL | Errno::ENOENT | Errno::ENOTDIR | Errno::EPERM) => return Ok(taken),
            Err(errno) => return Err(io_error("unmount", at)(errno.into())),
        }
    }
}

/// Tries in a directory below `dir`, which is made and removed, whether overlays do there what worktrees need of them, with the
/// marks that this process makes.
///
/// # Errors
/// A sentence that says what is in the way.
pub fn try_overlays(dir: &Path) -> Result<(), String> {
    sweep_probes(dir).map_err(|error| format!("cannot remove what a probe left in {}: {error}", dir.display()))?;
    let place = tempfile::Builder::new().prefix(&format!("{PROBE}{}-", std::process::id())).tempdir_in(dir);
    let place = place.map_err(|error| format!("cannot write to {}: {error}", dir.display()))?;
    let tried = try_in(place.path());
    let ended = unmount(&place.path().join("merged")).map_err(|error| error.to_string());
    tried.and(ended)
}

/// Which process made a probe's directory of this name, if it is one.
pub(super) fn probed_by(name: &str) -> Option<u32> {
    name.strip_prefix(PROBE)?.split('-').next()?.parse().ok()
}

/// Removes what probes left whose processes were killed.
fn sweep_probes(dir: &Path) -> Result<(), GitError> {
    let entries = fs::read_dir(dir).map_err(io_error("read", dir))?;
    for path in entries.flatten().map(|entry| entry.path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if probed_by(&name).is_some_and(|pid| pid != std::process::id() && !Path::new("/proc").join(pid.to_string()).exists()) {
            detach_below(&path)?;
            fs::remove_dir_all(&path).map_err(io_error("remove", &path))?;
        }
    }
    Ok(())
}

fn try_in(place: &Path) -> Result<(), String> {
    let said = |error: io::Error| format!("cannot try overlays in {}: {error}", place.display());
    let [lower, upper, work, merged] = ["lower", "upper", "work", "merged"].map(|name| place.join(name));
    for directory in [&lower.join("dir"), &lower.join("old"), &upper, &work, &merged] {
        fs::create_dir_all(directory).map_err(said)?;
    }
    fs::write(lower.join("dir/file"), "base").map_err(said)?;
    fs::write(lower.join("gone"), "base").map_err(said)?;
    let layers = Layers { lower, upper, work };
    let marks = Marks::here();
    layers.mount(&merged, marks).map_err(|error| match error {
        GitError::Overlay { why, .. } => format!("the kernel mounts none for this user on this filesystem ({why})"),
        error => error.to_string(),
    })?;
    let inode = |path: &Path| path.metadata().map(|meta| meta.ino()).map_err(said);
    if inode(&merged.join("dir/file"))? != inode(&layers.lower.join("dir/file"))? {
        return Err("files have other inode numbers in an overlay here, so that git would read all of them again".to_owned());
    }
    try_marks(&layers, &merged, marks, &said)
}

/// Tries whether what is done in an overlay is marked in its layer as it is read later.
fn try_marks(layers: &Layers, merged: &Path, marks: Marks, said: &impl Fn(io::Error) -> String) -> Result<(), String> {
    let moved = fs::rename(merged.join("dir"), merged.join("moved"));
    match marks {
        Marks::Trusted => {
            moved.map_err(|error| format!("a directory cannot be renamed in an overlay here ({error})"))?;
            let redirect = xattr::get(layers.upper.join("moved"), marks.redirect()).map_err(said)?;
            if redirect.as_deref() != Some(b"dir") {
                return Err("an overlay here does not say where a renamed directory came from".to_owned());
            }
        }
        // Whoever renames one is told that it is on another disk, and copies it.
        Marks::User if moved.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::CrossesDevices) => {}
        Marks::User => return Err("an overlay here renames directories in a way that is not known".to_owned()),
    }
    fs::remove_file(merged.join("gone")).map_err(said)?;
    if !is_whiteout(&layers.upper.join("gone").symlink_metadata().map_err(said)?) {
        return Err("an overlay here marks removed files in a way that is not known".to_owned());
    }
    fs::remove_dir_all(merged.join("old")).and_then(|()| fs::create_dir(merged.join("old"))).map_err(said)?;
    let opaque = xattr::get(layers.upper.join("old"), marks.opaque()).map_err(said)?;
    if opaque.as_deref() != Some(b"y") {
        return Err("an overlay here marks replaced directories in a way that is not known".to_owned());
    }
    Ok(())
}

/// Whether an entry of a layer says that there is nothing, whatever the base has.
pub(super) fn is_whiteout(meta: &fs::Metadata) -> bool {
    meta.file_type().is_char_device() && meta.rdev() == 0
}

/// The kernel's release, for the reason of a choice.
pub(super) fn kernel() -> String {
    let release = nix::sys::utsname::uname().map(|name| name.release().to_owned());
    release.as_deref().map_or_else(|_| "of unknown release".to_owned(), |text: &OsStr| text.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_may_have_any_name() {
        let dir = tempfile::tempdir().expect("a directory");
        let odd = dir.path().join(r"a:b,c\d e=f");
        fs::create_dir(&odd).expect("made");
        try_overlays(&odd).expect("this test mounts overlays: it must run as root, on a filesystem that can carry them");
        assert_eq!(fs::read_dir(&odd).expect("read").count(), 0, "nothing is left of it");
    }

    #[test]
    fn what_a_killed_probe_left_is_removed_by_the_next_one() {
        let dir = tempfile::tempdir().expect("a directory");
        // No process can have this number.
        let left = dir.path().join(format!("{PROBE}{}-a b", u32::MAX));
        let [lower, upper, work, merged] = ["lower", "upper", "work", "merged"].map(|name| left.join(name));
        for directory in [&lower, &upper, &work, &merged] {
            fs::create_dir_all(directory).expect("made");
        }
        Layers { lower, upper, work }.mount(&merged, Marks::here()).expect("this test mounts overlays: it must run as root");
        try_overlays(dir.path()).expect("overlays can be mounted");
        assert_eq!(fs::read_dir(dir.path()).expect("read").count(), 0);
    }

    #[test]
    fn what_is_not_mounted_need_not_be_unmounted() {
        let dir = tempfile::tempdir().expect("a directory");
        for place in [dir.path().to_owned(), dir.path().join("nothing")] {
            unmount(&place).expect("fine");
            detach(&place).expect("fine");
        }
    }
}
