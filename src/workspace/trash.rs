//! The trash: what is to go is renamed into it at once and deleted later, off everybody's path.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::removal::remove;
use crate::git;

/// A directory of things to delete, on the same filesystem as what it takes.
#[derive(Debug, Clone)]
pub struct Trash {
    dir: PathBuf,
}

impl Trash {
    /// The trash at `dir`, which exists.
    #[must_use]
    pub const fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Where it is.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Takes what is at `path`; nothing there is fine.
    ///
    /// # Errors
    /// What the system says of the rename, with the path.
    pub fn take(&self, path: &Path) -> io::Result<()> {
        match git::move_away(path, &self.dir.join(Uuid::new_v4().to_string())) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(io::Error::new(error.kind(), format!("cannot move {} to the trash: {error}", path.display()))),
            Ok(()) => Ok(()),
        }
    }

    /// What is in it.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn list(&self) -> io::Result<Vec<PathBuf>> {
        fs::read_dir(&self.dir)?.map(|entry| entry.map(|entry| entry.path())).collect()
    }

    /// Deletes one thing that is in it. Blocks.
    ///
    /// # Errors
    /// What the system says; it is not in the trash.
    pub fn delete(&self, path: &Path) -> io::Result<()> {
        if path.parent() != Some(&self.dir) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        git::unmount_all_below(path).map_err(io::Error::other)?;
        match delete(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            deleted => deleted,
        }
    }

    /// Deletes what is in the trash, and says how many things that were. Blocks.
    ///
    /// # Errors
    /// The first thing that cannot be deleted; the others are tried all the same.
    pub fn empty_once(&self) -> io::Result<u64> {
        // A worktree that was mounted again while it was moved here; what a job of root's has mounted, and would be deleted behind it.
        git::unmount_all_below(&self.dir).map_err(io::Error::other)?;
        let mut deleted = 0;
        let mut first_error = None;
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            match delete(&path) {
                Ok(()) => deleted += 1,
                Err(error) => {
                    let named = io::Error::new(error.kind(), format!("cannot delete {}: {error}", path.display()));
                    first_error.get_or_insert(named);
                }
            }
        }
        first_error.map_or(Ok(deleted), Err)
    }
}

/// Deletes a tree, also one in which a job has closed directories or made subvolumes.
fn delete(path: &Path) -> io::Result<()> {
    if !path.symlink_metadata()?.is_dir() {
        return fs::remove_file(path);
    }
    git::delete_subvolumes(path);
    if path.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return Ok(());
    }
    let trash = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    match remove(path, trash) {
        Err(error) if git::is_closed(&error) => {
            open_up(path)?;
            remove(path, trash)
        }
        other => other,
    }
}

/// As far as it can be named: what lies deeper is opened when it has come to the top.
fn open_up(dir: &Path) -> io::Result<()> {
    match git::open_up(dir) {
        Err(error) if error.kind() == io::ErrorKind::InvalidFilename => return Ok(()),
        opened => opened?,
    }
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_up(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn read_only_directories_and_links_go_too_and_what_they_name_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        let trash = Trash::new(dir.path().join("trash"));
        fs::create_dir(trash.dir()).expect("made");
        let tree = dir.path().join("tree");
        fs::create_dir_all(tree.join("locked")).expect("made");
        fs::write(tree.join("locked/file"), "x").expect("written");
        fs::write(dir.path().join("outside"), "kept").expect("written");
        std::os::unix::fs::symlink(dir.path().join("outside"), tree.join("link")).expect("linked");
        fs::set_permissions(tree.join("locked"), fs::Permissions::from_mode(0o500)).expect("set");

        trash.take(&tree).expect("taken");
        trash.take(&tree).expect("nothing there is fine");
        assert!(!tree.exists());
        assert_eq!(trash.empty_once().expect("emptied"), 1);
        assert_eq!(fs::read_dir(trash.dir()).expect("read").count(), 0);
        assert!(dir.path().join("outside").exists());
    }
}
