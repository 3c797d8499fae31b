//! Finding and opening files of a worktree that a job has written.
//!
//! The one rule: a path is walked part by part from a directory that the job cannot replace, and no part of it may be a link. What is
//! opened is a plain file.

use std::fs::{self, DirEntry, File};
use std::io;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open as open_at_root, openat};
use nix::sys::stat::{Mode, SFlag, fstatat};

/// Among how many files and directories those that match are looked for.
const ENTRIES_MAX: usize = 500_000;

/// Why a file cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// There is none.
    #[error("there is no such file")]
    Missing,
    /// It was not found before the search for it ended.
    #[error(
        "the search for it ended after {0} files and directories of the worktree, and there are more; name it with fewer of them in the way"
    )]
    NotFoundAmong(usize),
    /// Its path is not one below the worktree.
    #[error("its path leaves the worktree, or is none; name it from the root of the repository")]
    Outside,
    /// It is a link, or behind one.
    #[error("{0} is a symbolic link, and links are not followed")]
    Link(PathBuf),
    /// It is something else.
    #[error("{path} is {what}, and only plain files are kept")]
    NotAFile {
        /// What is meant.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// It is larger than may be kept.
    #[error("it has {bytes} bytes or more, and {limit} are left of {of}")]
    TooLarge {
        /// How many it has at least.
        bytes: u64,
        /// How many it may have.
        limit: u64,
        /// Which limit that is.
        of: &'static str,
    },
    /// It is binary, and has a secret in it.
    #[error("it is not text and has a secret in it, which cannot be taken out")]
    Secret,
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
}

/// Opens the file at `path` below `tree`, which is in the directory `root`.
///
/// # Errors
/// It is not there, or is not to be kept.
pub fn open(root: &Path, tree: &str, path: &str) -> Result<File, Refusal> {
    let mut parts = vec![tree];
    for part in Path::new(path).components() {
        match part {
            Component::Normal(name) => parts.push(name.to_str().ok_or(Refusal::Outside)?),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return Err(Refusal::Outside),
        }
    }
    let Some((name, above)) = parts.split_last().filter(|(_, above)| !above.is_empty()) else { return Err(Refusal::Outside) };
    let steady = OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let mut dir: OwnedFd = open_at_root(root, steady | OFlag::O_DIRECTORY, Mode::empty()).map_err(io::Error::from)?;
    let mut walked = PathBuf::new();
    for part in above {
        walked.push(part);
        if kind(&dir, part)? == SFlag::S_IFLNK {
            return Err(Refusal::Link(shown(&walked, tree)));
        }
        dir = openat(&dir, *part, steady | OFlag::O_DIRECTORY, Mode::empty()).map_err(refusal)?;
    }
    walked.push(name);
    let found = kind(&dir, name)?;
    if found == SFlag::S_IFLNK {
        return Err(Refusal::Link(shown(&walked, tree)));
    }
    let not_a_file = |what| Refusal::NotAFile { path: shown(&walked, tree), what };
    if found != SFlag::S_IFREG {
        return Err(not_a_file(called(found)));
    }
    // Not waiting: should it be a pipe by now, that is found out below.
    let file = File::from(openat(&dir, *name, steady | OFlag::O_NONBLOCK, Mode::empty()).map_err(refusal)?);
    if file.metadata()?.is_file() { Ok(file) } else { Err(not_a_file("no plain file any more")) }
}

fn kind(dir: &OwnedFd, name: &str) -> Result<SFlag, Refusal> {
    let about = fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW).map_err(refusal)?;
    Ok(SFlag::from_bits_truncate(about.st_mode) & SFlag::S_IFMT)
}

fn refusal(errno: Errno) -> Refusal {
    match errno {
        Errno::ENOENT | Errno::ENOTDIR => Refusal::Missing,
        other => Refusal::Io(other.into()),
    }
}

/// A path as the job's author knows it.
fn shown(walked: &Path, tree: &str) -> PathBuf {
    match walked.strip_prefix(tree) {
        Ok(inner) if !inner.as_os_str().is_empty() => inner.to_owned(),
        _ => "the worktree".into(),
    }
}

fn called(kind: SFlag) -> &'static str {
    match kind {
        SFlag::S_IFDIR => "a directory",
        SFlag::S_IFIFO => "a named pipe",
        SFlag::S_IFSOCK => "a socket",
        _ => "a device",
    }
}

/// What a worktree has of what was looked for.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    /// The paths, in order.
    pub paths: Vec<String>,
    /// Among how many files and directories it was looked, where there are more.
    pub among: Option<usize>,
}

/// The paths below a worktree of which `wanted` says that they are, at most `most` of them: of anything but directories.
/// Neither links nor `.git` are entered.
///
/// # Errors
/// The worktree is a link, or cannot be read.
pub fn find(tree: &Path, wanted: impl Fn(&str) -> bool, most: usize) -> Result<Found, Refusal> {
    find_among(tree, wanted, most, ENTRIES_MAX)
}

fn find_among(tree: &Path, wanted: impl Fn(&str) -> bool, most: usize, among: usize) -> Result<Found, Refusal> {
    if !tree.symlink_metadata()?.is_dir() {
        return Err(Refusal::Link("the worktree".into()));
    }
    let mut found = Found { paths: Vec::new(), among: None };
    let end = walk(tree, among, |path, _| {
        found.paths.extend(path.to_str().filter(|path| wanted(path)).map(str::to_owned));
        if found.paths.len() == most { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    found.among = (end == WalkEnd::Cut).then_some(among);
    found.paths.sort();
    Ok(found)
}

/// Where a walk ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalkEnd {
    /// Everything was seen.
    Whole,
    /// There is more than it was to look at.
    Cut,
    /// Where it was told to.
    Stopped,
}

/// Goes through what is below a directory, at most so many files and directories. `visit` gets each but the directories, by its path from
/// there. Neither links nor `.git` are entered, and a directory that cannot be read has nothing.
pub fn walk(tree: &Path, most: usize, mut visit: impl FnMut(&Path, &DirEntry) -> ControlFlow<()>) -> WalkEnd {
    let (mut ahead, mut seen) = (vec![PathBuf::new()], 0);
    while let Some(dir) = ahead.pop() {
        for entry in fs::read_dir(tree.join(&dir)).into_iter().flatten().flatten() {
            if seen == most {
                return WalkEnd::Cut;
            }
            seen += 1;
            let path = dir.join(entry.file_name());
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => ahead.extend(Some(path).filter(|path| path != Path::new(".git"))),
                Ok(_) if visit(&path, &entry).is_break() => return WalkEnd::Stopped,
                // It is gone again.
                Ok(_) | Err(_) => {}
            }
        }
    }
    WalkEnd::Whole
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_plain_files_below_the_worktree_are_opened() {
        let slot = tempfile::tempdir().expect("a directory");
        let tree = slot.path().join("tree");
        fs::create_dir_all(tree.join("dir")).expect("made");
        fs::write(tree.join("dir/file"), "x").expect("written");
        fs::write(slot.path().join("beside"), "x").expect("written");
        symlink("/etc/passwd", tree.join("passwd")).expect("linked");
        symlink("/etc", tree.join("etc")).expect("linked");
        nix::unistd::mkfifo(&tree.join("pipe"), Mode::S_IRWXU).expect("made");
        let check = |path: &str, expected: &str| {
            let found = open(slot.path(), "tree", path).map_or_else(|refusal| refusal.to_string(), |_| "open".to_owned());
            assert!(found.starts_with(expected), "{path}: {found}");
        };
        check("dir/file", "open");
        check("./dir/file", "open");
        check("dir", "dir is a directory");
        check("dir/none", "there is no such file");
        check("dir/file/x", "there is no such file");
        check("passwd", "passwd is a symbolic link");
        check("etc/passwd", "etc is a symbolic link");
        check("pipe", "pipe is a named pipe");
        check("../beside", "its path leaves the worktree");
        check("/etc/passwd", "its path leaves the worktree");
        check("", "its path leaves the worktree");
        let found = find(&tree, |_| true, 9).expect("found");
        assert_eq!((found.paths, found.among), (["dir/file", "etc", "passwd", "pipe"].map(str::to_owned).into(), None));
        let among = |most| find_among(&tree, |path| path == "none", 9, most).expect("looked for").among;
        assert_eq!((among(5), among(4)), (None, Some(4)), "that it ended before all was seen is said");
        fs::rename(&tree, slot.path().join("moved")).expect("moved");
        symlink("/etc", &tree).expect("linked");
        check("passwd", "the worktree is a symbolic link");
        assert!(find(&tree, |_| true, 9).is_err());
    }
}
