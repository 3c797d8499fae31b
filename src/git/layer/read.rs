//! Reading the upper directory of an overlay: what was written, and the marks that the kernel leaves in it.
//!
//! The one rule: no link is followed and no pipe opened. Each directory is opened from the one that it is in, so that nothing
//! which changes meanwhile leads out of the layer.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use nix::dir::Dir;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat};
use xattr::FileExt;

use crate::git::marks::Marks;

/// A directory of a layer.
#[derive(Debug)]
pub(super) struct Directory {
    file: File,
    marks: Marks,
}

/// What stands at a name of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    /// Nothing, whatever the base has.
    Whiteout,
    Directory,
    File {
        bytes: u64,
        executable: bool,
    },
    Link,
    /// A pipe, a socket, a device.
    Special,
}

/// How a directory stands to what is below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Below {
    /// What the base has at the same place shows through.
    Same,
    /// Nothing shows through.
    Nothing,
    /// What the base has at this path shows through: one from the root where it begins with a slash, else a name in the same
    /// directory.
    Renamed(Vec<u8>),
}

impl Directory {
    /// The uppermost directory of a layer with these marks.
    pub(super) fn open(path: &Path, marks: Marks) -> io::Result<Self> {
        use std::os::unix::fs::OpenOptionsExt;
        let flags = (OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW).bits();
        Ok(Self { file: File::options().read(true).custom_flags(flags).open(path)?, marks })
    }

    /// A directory in this one.
    pub(super) fn directory(&self, name: &[u8]) -> io::Result<Self> {
        Ok(Self { file: self.open_at(name, OFlag::O_DIRECTORY)?, marks: self.marks })
    }

    /// All entries, in no order.
    pub(super) fn entries(&self) -> io::Result<Vec<(Vec<u8>, Entry)>> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut dir = Dir::openat(&self.file, c".", flags, Mode::empty())?;
        let mut found = Vec::new();
        for entry in dir.iter() {
            let name = entry?.file_name().to_bytes().to_vec();
            if name == b"." || name == b".." {
                continue;
            }
            let stat = fstatat(&self.file, OsStr::from_bytes(&name), AtFlags::AT_SYMLINK_NOFOLLOW)?;
            if self.marks == Marks::User && is_closed(&stat) {
                return Err(io::Error::other(format!("{} is closed to its owner", String::from_utf8_lossy(&name))));
            }
            found.push((name, to_entry(&stat)));
        }
        Ok(found)
    }

    /// What shows through this directory; nothing where its marks are not known.
    pub(super) fn below(&self) -> io::Result<Option<Below>> {
        match self.file.get_xattr(self.marks.opaque())?.as_deref() {
            Some(b"y") => return Ok(Some(Below::Nothing)),
            Some(_) => return Ok(None),
            None => {}
        }
        Ok(match (self.file.get_xattr(self.marks.redirect())?, self.marks) {
            (None, _) => Some(Below::Same),
            (Some(from), Marks::Trusted) => Some(Below::Renamed(from)),
            // The kernel has not said so.
            (Some(_), Marks::User) => None,
        })
    }

    /// The contents of a file in this directory, which has at most `max` bytes.
    pub(super) fn read(&self, name: &[u8], max: u64) -> io::Result<Vec<u8>> {
        let file = self.open_at(name, OFlag::O_NONBLOCK)?;
        let meta = file.metadata()?;
        if !meta.is_file() || meta.len() > max {
            return Err(io::Error::from_raw_os_error(nix::libc::ESTALE));
        }
        let mut contents = Vec::with_capacity(usize::try_from(meta.len()).unwrap_or(0));
        file.take(max).read_to_end(&mut contents)?;
        Ok(contents)
    }

    /// Where a link in this directory leads.
    pub(super) fn read_link(&self, name: &[u8]) -> io::Result<Vec<u8>> {
        Ok(readlinkat(&self.file, OsStr::from_bytes(name)).map(OsString::into_vec)?)
    }

    fn open_at(&self, name: &[u8], flags: OFlag) -> io::Result<File> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | flags;
        Ok(openat(&self.file, OsStr::from_bytes(name), flags, Mode::empty())?.into())
    }
}

/// Whether its owner, who is no other than who reads here, could not read it: but for a capability that git has not.
fn is_closed(stat: &FileStat) -> bool {
    match SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) {
        SFlag::S_IFREG => stat.st_mode & 0o400 == 0,
        SFlag::S_IFDIR => stat.st_mode & 0o500 != 0o500,
        _ => false,
    }
}

fn to_entry(stat: &FileStat) -> Entry {
    match SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) {
        SFlag::S_IFCHR if stat.st_rdev == 0 => Entry::Whiteout,
        SFlag::S_IFDIR => Entry::Directory,
        SFlag::S_IFREG => {
            Entry::File { bytes: u64::try_from(stat.st_size).unwrap_or(u64::MAX), executable: stat.st_mode & 0o100 != 0 }
        }
        SFlag::S_IFLNK => Entry::Link,
        _ => Entry::Special,
    }
}
