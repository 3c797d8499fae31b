//! Copying a saved cache for one job, where no layer can be mounted over it. On Btrfs and XFS copies share their blocks, so that takes time
//! by the number of files only.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::sys::statfs::{BTRFS_SUPER_MAGIC, XFS_SUPER_MAGIC, statfs};
use tokio_util::sync::CancellationToken;

use super::error::{CacheError, io_error};
use super::harvest::set_times;

/// Whether copies within a directory share their blocks.
pub(super) fn shares_blocks(dir: &Path) -> bool {
    statfs(dir).is_ok_and(|about| [BTRFS_SUPER_MAGIC, XFS_SUPER_MAGIC].contains(&about.filesystem_type()))
}

/// Copies what is in a directory that does not change into another one: files, links and directories, with their times and rights.
/// Files with several names have them in the copy too. What cannot be read is told by its path below `from`. Whoever cancels it has a part.
pub(super) fn copy(from: &Path, to: &Path, cancel: &CancellationToken) -> Result<(), CacheError> {
    let mut linked: HashMap<u64, PathBuf> = HashMap::new();
    let (mut ahead, mut directories) = (vec![PathBuf::new()], Vec::new());
    while let Some(within) = ahead.pop() {
        let dir = from.join(&within);
        for entry in fs::read_dir(&dir).map_err(io_error("read", &dir))? {
            if cancel.is_cancelled() {
                return Err(CacheError::Stopped);
            }
            let name = entry.map_err(io_error("read", &dir))?.file_name();
            let (old, new) = (dir.join(&name), to.join(&within).join(&name));
            let meta = old.symlink_metadata().map_err(io_error("look at", &old))?;
            if meta.is_dir() {
                fs::create_dir(&new).map_err(io_error("create", &new))?;
                ahead.push(within.join(&name));
                directories.push((new, meta));
            } else if let Some(first) = linked.get(&meta.ino()).filter(|_| meta.nlink() > 1) {
                fs::hard_link(first, &new).map_err(io_error("link", &new))?;
            } else {
                copy_one(&old, &new, &meta).map_err(io_error("copy", &old))?;
                set_times(&new, &meta, None).map_err(io_error("set the times of", &new))?;
                linked.insert(meta.ino(), new);
            }
        }
    }
    // Times and rights of a directory last: what is made in it changes the ones and needs the others.
    for (path, meta) in directories.iter().rev() {
        let mode = fs::Permissions::from_mode(meta.mode() | 0o700);
        let set = fs::set_permissions(path, mode).and_then(|()| set_times(path, meta, None));
        set.map_err(io_error("set the times of", path))?;
    }
    Ok(())
}

/// Copies a file, or a link as one. The kernel shares the blocks where the filesystem can.
pub(super) fn copy_one(old: &Path, new: &Path, meta: &Metadata) -> io::Result<()> {
    if meta.is_symlink() { symlink(fs::read_link(old)?, new) } else { fs::copy(old, new).map(drop) }
}

/// Whether what is in a directory is what was copied to it from another, by names, sizes, rights and the times of files. What cannot be
/// looked at is not.
pub(super) fn is_as_copied(from: &Path, to: &Path) -> bool {
    let mut ahead = vec![PathBuf::new()];
    while let Some(within) = ahead.pop() {
        let Ok(Some(names)) = same_names(&from.join(&within), &to.join(&within)) else { return false };
        for path in names.iter().map(|name| within.join(name)) {
            let meta = |dir: &Path| dir.join(&path).symlink_metadata();
            let (Ok(before), Ok(now)) = (meta(from), meta(to)) else { return false };
            if now.is_dir() && before.is_dir() {
                ahead.push(path);
                continue;
            }
            let facts = |meta: &Metadata| (meta.mode(), meta.len(), meta.mtime(), meta.mtime_nsec());
            if facts(&before) != facts(&now) {
                return false;
            }
        }
    }
    true
}

/// The names in two directories, where they are the same. The second is read until there is one that the first has not.
fn same_names(from: &Path, to: &Path) -> io::Result<Option<HashSet<OsString>>> {
    let before = fs::read_dir(from)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<HashSet<_>>>()?;
    let mut met = 0;
    for entry in fs::read_dir(to)? {
        if !before.contains(&entry?.file_name()) {
            return Ok(None);
        }
        met += 1;
    }
    Ok((met == before.len()).then_some(before))
}
