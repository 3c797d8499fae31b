//! Copying a worktree out of an overlay that others do not see, to where a person looks for it.
//!
//! The one rule: the copy has the place's name for a worktree once it is whole, and until then the overlay stays. So it may be
//! begun again, and a daemon that is killed meanwhile loses nothing.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::unistd::{Whence, lseek, mkfifo};

use super::bases::Base;
use super::error::{GitError, io_error};
use super::journal::{Identity, Journal};
use super::place::{HOST, JOB, PARTS, TREE, release, remount};
use super::provision::NEW;
use super::worktree::move_to_trash;

/// Copies the worktree that the journal in `from` tells of, mounted if need be, to `to`, where it is a checkout.
///
/// # Errors
/// It cannot be mounted; a file cannot be copied; no room. `from` is as it was, and `to` has nothing of it.
pub(super) fn copy_out(from: &Path, to: &Path, mut journal: Journal, trash: &Path) -> Result<(), GitError> {
    if Journal::exists(&to.join(HOST)) {
        return Ok(());
    }
    let new = to.join(format!("{NEW}{}", uuid::Uuid::now_v7().simple()));
    let copied = remount(from, &mut journal, trash).and_then(|()| copy_whole(from, to, &new, journal, trash));
    if copied.is_err() {
        // Also that of a copy that was killed.
        for left in [new, to.join(TREE), to.join(HOST)].iter().filter(|path| path.symlink_metadata().is_ok()) {
            move_to_trash(left, trash)?;
        }
    }
    copied
}

/// Moves what was copied out of a place to the trash.
///
/// # Errors
/// What the system says.
pub(super) fn drop_copied(from: &Path, trash: &Path) -> Result<(), GitError> {
    release(from)?;
    let parts = PARTS.map(|part| from.join(part));
    parts.iter().filter(|path| path.symlink_metadata().is_ok()).try_for_each(|path| move_to_trash(path, trash))
}

fn copy_whole(from: &Path, to: &Path, new: &Path, journal: Journal, trash: &Path) -> Result<(), GitError> {
    let (host, tree) = (new.join(HOST), new.join("tree"));
    copy_directory(&from.join(TREE), &tree)?;
    copy_directory(&from.join(HOST), &host)?;
    if let Some(base) = &journal.base_dir {
        let index = host.join("index");
        fs::copy(Base::at(base).index(), &index).map_err(io_error("write", &index))?;
    }
    let identity = Identity::of(&tree).ok_or_else(|| io_error("find", &tree)(io::ErrorKind::NotFound.into()))?;
    Journal { identity, base_dir: None, ..journal }.write(&host)?;
    let place = to.join(TREE);
    fs::create_dir_all(to.join(JOB)).map_err(io_error("create", to))?;
    // That of a copy which was killed after it had been named.
    if place.symlink_metadata().is_ok() {
        move_to_trash(&place, trash)?;
    }
    fs::rename(&tree, &place).map_err(io_error("name", &place))?;
    fs::rename(&host, to.join(HOST)).map_err(io_error("name", to))?;
    fs::remove_dir(new).map_err(io_error("remove", new))
}

/// Copies a directory with what is in it: files, directories, links and pipes, with their rights and, of files, their times and holes.
/// Sockets and devices are left out.
///
/// # Errors
/// The first thing that cannot be copied.
pub(super) fn copy_directory(from: &Path, to: &Path) -> Result<(), GitError> {
    fs::create_dir_all(to).map_err(io_error("create", to))?;
    for entry in fs::read_dir(from).map_err(io_error("read", from))? {
        let entry = entry.map_err(io_error("read", from))?;
        let (old, new) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().map_err(io_error("look at", &old))?;
        if kind.is_dir() {
            copy_directory(&old, &new)?;
        } else if kind.is_symlink() {
            let target = fs::read_link(&old).map_err(io_error("read", &old))?;
            symlink(target, &new).map_err(io_error("link", &new))?;
        } else if kind.is_file() {
            copy_file(&old, &new).map_err(io_error("copy", &old))?;
        } else if kind.is_fifo() {
            mkfifo(&new, Mode::S_IRUSR | Mode::S_IWUSR).map_err(|errno| io_error("make", &new)(errno.into()))?;
        }
    }
    // At the end: it may be closed to who is to write in it.
    let rights = from.symlink_metadata().map_err(io_error("look at", from))?.permissions();
    fs::set_permissions(to, rights).map_err(io_error("set the rights of", to))
}

/// Copies a file. None that a link leads to, and no pipe is waited for: a job may have swapped it.
fn copy_file(from: &Path, to: &Path) -> io::Result<()> {
    let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
    let source = File::options().read(true).custom_flags(flags).open(from)?;
    let about = source.metadata()?;
    let target = File::options().write(true).create_new(true).mode(0o600).open(to)?;
    copy_data(&source, &target)?;
    target.set_len(about.len())?;
    target.set_permissions(fs::Permissions::from_mode(about.mode() & 0o7777))?;
    target.set_modified(about.modified()?)
}

/// Copies what is between the holes of a file, which may make it look far larger than the room that it takes.
fn copy_data(source: &File, mut target: &File) -> io::Result<()> {
    let mut at = 0;
    loop {
        let begin = match lseek(source, at, Whence::SeekData) {
            Err(Errno::ENXIO) => return Ok(()),
            begin => begin?,
        };
        at = lseek(source, begin, Whence::SeekHole)?;
        let length = u64::try_from(at - begin).map_err(io::Error::other)?;
        lseek(source, begin, Whence::SeekSet)?;
        lseek(target, begin, Whence::SeekSet)?;
        io::copy(&mut source.take(length), &mut target)?;
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn a_copy_has_what_was_there_with_its_rights_and_times() {
        let dir = tempfile::tempdir().expect("a directory");
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir_all(from.join("closed/deep")).expect("made");
        fs::write(from.join("closed/deep/run"), "#!/bin/sh\n").expect("written");
        let rights = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("rights");
        rights(&from.join("closed/deep/run"), 0o751);
        rights(&from.join("closed"), 0o500);
        symlink("/nowhere", from.join("link")).expect("a link");
        mkfifo(&from.join("pipe"), Mode::S_IRWXU).expect("a pipe");
        let _socket = std::os::unix::net::UnixListener::bind(from.join("socket")).expect("a socket");
        copy_directory(&from, &to).expect("copied");
        let (old, new) = (from.join("closed/deep/run"), to.join("closed/deep/run"));
        assert_eq!(fs::read(&new).expect("read"), b"#!/bin/sh\n");
        let about =
            |path: &Path| path.symlink_metadata().map(|about| (about.mode(), about.mtime(), about.mtime_nsec())).expect("there");
        assert_eq!(about(&new), about(&old));
        assert_eq!(about(&to.join("closed")).0, about(&from.join("closed")).0);
        assert_eq!(fs::read_link(to.join("link")).expect("a link"), Path::new("/nowhere"));
        assert!(to.join("pipe").symlink_metadata().expect("there").file_type().is_fifo());
        assert!(!to.join("socket").exists());
        rights(&from.join("closed"), 0o700);
        rights(&to.join("closed"), 0o700);
    }

    #[test]
    fn holes_stay_holes_and_what_is_between_them_is_the_same() {
        let dir = tempfile::tempdir().expect("a directory");
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        let check = |text: &str, places: &[u64], length: u64| {
            let file = File::create(&from).expect("a file");
            places.iter().for_each(|at| file.write_all_at(text.as_bytes(), *at).expect("written"));
            file.set_len(length).expect("a hole at the end");
            copy_file(&from, &to).expect("copied");
            let copy = File::open(&to).expect("a file");
            let about = copy.metadata().expect("there");
            assert_eq!(about.len(), length);
            assert!(about.blocks() * 512 < 1 << 20, "{} blocks", about.blocks());
            for at in places {
                let mut found = vec![0; text.len()];
                copy.read_exact_at(&mut found, *at).expect("read");
                assert_eq!(found, text.as_bytes(), "{at}");
            }
            fs::remove_file(&to).expect("removed");
        };
        check("some text", &[0, 1 << 20, (1 << 30) - 1000], 1 << 30);
        check("some text", &[1 << 20], 1 << 30);
        check("", &[], 1 << 30);
        check("some text", &[0], 9);
        check("", &[], 0);
    }
}
