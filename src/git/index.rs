//! The index of a fresh checkout, made so that no later command has to read a file that nobody touched.
//!
//! git takes a file for possibly changed ("racily clean") when it is as young as the index, and then compares contents; right
//! after a checkout that is every file. So every file gets a time a few seconds in the past, and the index is told: a file
//! that somebody changes later differs in its time, whatever the second. Format: gitformat-index(5), versions 2 and 3.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::fcntl::AtFlags;
use nix::sys::stat::{UtimensatFlags, fstatat, utimensat};
use nix::sys::time::TimeSpec;

use super::GitError;
use super::error::io_error;
use crate::ids::ObjectId;

/// How far in the past the files of a checkout are: beyond the coarsest clock of a file system.
const PAST_SECONDS: i64 = 3;

const FIXED: usize = 40;
const MTIME: usize = 8;
const INODE: usize = 20;
const MODE: usize = 24;
const SIZE: usize = 36;
/// What a file's last block takes, whatever is in it.
const BLOCK: u64 = 4096;
const SIZE_OF_HEADER: usize = 12;
const EXTENDED: u16 = 0x4000;
const GITLINK: u32 = 0o160_000;
const TYPE_MASK: u32 = 0o170_000;

/// A submodule's place in the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Gitlink {
    /// Its path, as bytes.
    pub(super) path: Vec<u8>,
    /// The commit that the tree wants there.
    pub(super) commit: ObjectId,
}

/// Which files of a checkout get a time in the past.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settle {
    /// All: none has it yet.
    All,
    /// Those that are younger than what was settled before.
    Fresh,
}

/// What an index says of a checkout.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// The submodules.
    pub(super) gitlinks: Vec<Gitlink>,
    /// What the files take on the disk, in bytes: whole blocks of 4 KiB, and the index twice.
    pub(super) bytes: u64,
    /// How many files and directories they are.
    pub(super) entries: u64,
    /// The files of attributes: paths and contents, by id.
    pub(super) attributes: Vec<(Vec<u8>, ObjectId)>,
    /// Whether there is a file of ignore rules.
    pub(super) ignores: bool,
}

/// Settles the times of files that `index` names below `tree`, writes them into it, and answers what it says. `width` is the
/// length of an object id in bytes.
pub(super) fn settle(index: &Path, tree: &Path, width: usize, which: Settle) -> Result<Survey, GitError> {
    let mut bytes = fs::read(index).map_err(io_error("read", index))?;
    let damaged = || damaged(index);
    let count = count(&bytes).ok_or_else(damaged)?;
    let directory = File::open(tree).map_err(io_error("open", tree))?;
    let past = past();
    let mut survey = Survey { bytes: 2 * bytes.len() as u64, ..Survey::default() };
    let mut at = SIZE_OF_HEADER;
    let mut before = 0..0;
    for _ in 0..count {
        let entry = Entry::read(&bytes, at, width).ok_or_else(damaged)?;
        let path = bytes.get(entry.name.clone()).ok_or_else(damaged)?;
        survey.entries += 1 + new_directories(&bytes[std::mem::replace(&mut before, entry.name.clone())], path);
        let id = || bytes.get(at + FIXED..at + FIXED + width).and_then(to_id).ok_or_else(damaged);
        survey.bytes += blocks(u64::from(number(&bytes, at + SIZE).ok_or_else(damaged)?));
        match path.rsplit(|byte| *byte == b'/').next() {
            Some(b".gitattributes") => survey.attributes.push((path.to_vec(), id()?)),
            Some(b".gitignore") => survey.ignores = true,
            _ => {}
        }
        if entry.mode & TYPE_MASK == GITLINK {
            survey.gitlinks.push(Gitlink { path: path.to_vec(), commit: id()? });
        } else if which == Settle::All || number(&bytes, at + MTIME).is_none_or(|time| i64::from(time) > past.tv_sec()) {
            let name = OsStr::from_bytes(path);
            let failed = |errno: nix::Error| io_error("set the time of", Path::new(name))(errno.into());
            utimensat(&directory, name, &past, &past, UtimensatFlags::NoFollowSymlink).map_err(failed)?;
            let stat = fstatat(&directory, name, AtFlags::AT_SYMLINK_NOFOLLOW).map_err(failed)?;
            let times = [stat.st_ctime, stat.st_ctime_nsec, past.tv_sec(), 0];
            for (slot, time) in times.into_iter().enumerate() {
                // Seconds are kept modulo 2^32, as git does.
                let cut = u32::try_from(time & 0xffff_ffff).unwrap_or(0);
                bytes[at + slot * 4..at + slot * 4 + 4].copy_from_slice(&cut.to_be_bytes());
            }
        }
        at = entry.end;
    }
    // A checksum of zeros says that there is none (`index.skipHash`).
    let trailer = bytes.len().checked_sub(width).filter(|trailer| *trailer >= at).ok_or_else(damaged)?;
    bytes[trailer..].fill(0);
    super::checkout::write(index, bytes)?;
    Ok(survey)
}

/// How many directories a path begins that the one before it in an index is not in. All that is in a directory is together there.
fn new_directories(before: &[u8], path: &[u8]) -> u64 {
    let same = before.iter().zip(path).take_while(|(a, b)| a == b).count();
    path[same..].iter().filter(|byte| **byte == b'/').count() as u64
}

/// What an index keeps of a file. Seconds and numbers are cut to 32 bits, as git does.
#[derive(Debug, Clone, Copy)]
pub(super) struct Noted<'a> {
    pub(super) path: &'a [u8],
    pub(super) id: &'a [u8],
    pub(super) mode: u32,
    pub(super) changed: (u32, u32),
    pub(super) modified: u32,
    pub(super) inode: u32,
    pub(super) size: u32,
}

/// All that an index has, in its order; nothing where it is damaged. `width` is the length of an object id in bytes.
pub(super) fn entries(bytes: &[u8], width: usize) -> Option<Vec<Noted<'_>>> {
    let mut at = SIZE_OF_HEADER;
    let mut found = Vec::new();
    for _ in 0..count(bytes)? {
        let entry = Entry::read(bytes, at, width)?;
        found.push(Noted {
            path: bytes.get(entry.name)?,
            id: bytes.get(at + FIXED..at + FIXED + width)?,
            mode: entry.mode,
            changed: (number(bytes, at)?, number(bytes, at + 4)?),
            modified: number(bytes, at + MTIME)?,
            inode: number(bytes, at + INODE)?,
            size: number(bytes, at + SIZE)?,
        });
        at = entry.end;
    }
    Some(found)
}

pub(super) fn damaged(index: &Path) -> GitError {
    GitError::Command { action: "read the index".to_owned(), detail: format!("{} is damaged", index.display()) }
}

/// How many entries an index has; nothing where it is none that is read here.
fn count(bytes: &[u8]) -> Option<u32> {
    (bytes.starts_with(b"DIRC") && (2..=3).contains(&number(bytes, 4)?)).then(|| number(bytes, 8))?
}

/// The time that files of a checkout get.
pub(super) fn past() -> TimeSpec {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(0));
    TimeSpec::new(now - PAST_SECONDS, 0)
}

/// What a file of so many bytes takes on the disk.
pub(super) fn blocks(bytes: u64) -> u64 {
    bytes.next_multiple_of(BLOCK)
}

struct Entry {
    mode: u32,
    name: std::ops::Range<usize>,
    end: usize,
}

impl Entry {
    fn read(bytes: &[u8], at: usize, width: usize) -> Option<Self> {
        let flags_at = at + FIXED + width;
        let flags = u16::from_be_bytes(bytes.get(flags_at..flags_at + 2)?.try_into().ok()?);
        let start = flags_at + if flags & EXTENDED == 0 { 2 } else { 4 };
        let length = bytes.get(start..)?.iter().position(|byte| *byte == 0)?;
        let end = at + ((start - at + length + 8) & !7);
        Some(Self { mode: number(bytes, at + MODE)?, name: start..start + length, end })
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// An object id from its bytes.
pub(super) fn to_id(bytes: &[u8]) -> Option<ObjectId> {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    hex.parse().ok()
}
