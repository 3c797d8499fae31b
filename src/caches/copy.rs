//! Copying a saved cache for one job, where no layer can be mounted over it. On Btrfs and XFS copies share their blocks, so that takes time
//! by the number of files only.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::sys::statfs::{BTRFS_SUPER_MAGIC, XFS_SUPER_MAGIC, statfs};

use super::error::{CacheError, io_error};
use super::harvest::set_times;

/// Whether copies within a directory share their blocks.
pub(super) fn shares_blocks(dir: &Path) -> bool {
    statfs(dir).is_ok_and(|about| [BTRFS_SUPER_MAGIC, XFS_SUPER_MAGIC].contains(&about.filesystem_type()))
}

/// Copies what is in a directory that does not change into another one: files, links and directories, with their times and rights.
/// Files with several names have them in the copy too.
pub(super) fn copy(from: &Path, to: &Path) -> Result<(), CacheError> {
    let mut linked: HashMap<u64, PathBuf> = HashMap::new();
    let (mut ahead, mut directories) = (vec![PathBuf::new()], Vec::new());
    while let Some(within) = ahead.pop() {
        let dir = from.join(&within);
        for entry in fs::read_dir(&dir).map_err(io_error("read", &dir))? {
            let name = entry.map_err(io_error("read", &dir))?.file_name();
            let (old, new) = (dir.join(&name), to.join(&within).join(&name));
            let meta = old.symlink_metadata().map_err(io_error("look at", &old))?;
            if meta.is_dir() {
                fs::create_dir(&new).map_err(io_error("create", &new))?;
                ahead.push(within.join(&name));
                directories.push((new, meta));
                continue;
            }
            if meta.is_symlink() {
                let target = fs::read_link(&old).map_err(io_error("read", &old))?;
                symlink(target, &new).map_err(io_error("link", &new))?;
            } else if let Some(first) = linked.get(&meta.ino()).filter(|_| meta.nlink() > 1) {
                fs::hard_link(first, &new).map_err(io_error("link", &new))?;
                continue;
            } else {
                // The kernel shares the blocks where the filesystem can.
                fs::copy(&old, &new).map_err(io_error("copy to", &new))?;
                linked.insert(meta.ino(), new.clone());
            }
            set_times(&new, &meta, None).map_err(io_error("set the times of", &new))?;
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
