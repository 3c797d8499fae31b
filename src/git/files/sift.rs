//! Moving what a job did not touch of a tree into a new one.
//!
//! The one rule: nothing that was touched is kept, whatever it is like now, and no file whose content is not the commit's: there are ways to
//! write to a file that leave no trace in its times. A file that was is left behind and written anew; a
//! directory that was is left behind too, and what is untouched in it goes into one that is made for it. So no mode, attribute,
//! link, ignored file or nested repository of a job's has to be found to be removed: what is in the new tree is either as the host
//! wrote it, or was just made. The uppermost directory, which has `.git`, is always made.
//!
//! A job's processes have ended when this runs, so nothing moves but what is moved here. Links are never followed: a
//! directory is only entered when its own entry says that it is one, and on the device of the tree.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, Metadata, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Obstacle;
use super::inventory::Inventory;
use super::list::{Kind, Listing};
use super::write::{Stat, threads, to_stat};
use crate::git::index::{Noted, to_id};

/// How many directories are worth a thread.
const DIRECTORIES: usize = 16;
/// Where in the old place goes what stands in the way in directories that are kept.
const ASIDE: &str = "aside";

/// What the new tree has at a path.
#[derive(Debug, Clone, Copy)]
enum Wanted {
    Directory,
    /// The file of this number.
    File(usize),
}

struct Sieve<'a> {
    inventory: &'a Inventory,
    /// By path.
    wanted: HashMap<&'a [u8], Wanted>,
    /// For each file that is wanted, what the old tree had there, if that is the same.
    noted: Vec<Option<Noted<'a>>>,
    aside: PathBuf,
    moved_aside: AtomicUsize,
}

/// A directory that is to be gone through.
struct Task {
    path: Vec<u8>,
    from: PathBuf,
    to: PathBuf,
}

#[derive(Default)]
struct Sifted {
    kept: Vec<(usize, Stat)>,
    ahead: Vec<Task>,
}

/// Makes `tree` with all directories of a listing, and with those of its files that `<old>/tree` has untouched; says what an index keeps
/// of these. What else is in `<old>/tree` is in `old` afterwards.
pub(super) fn sift(inventory: &Inventory, listing: &Listing, old: &Path, tree: &Path) -> Result<Vec<Option<Stat>>, Obstacle> {
    let (wanted, noted) = compare(inventory, listing).map_err(Obstacle::Declined)?;
    let sieve = Sieve { inventory, wanted, noted, aside: old.join(ASIDE), moved_aside: AtomicUsize::new(0) };
    sieve.run(listing, &old.join("tree"), tree).map_err(Obstacle::Failed)
}

type Compared<'a> = (HashMap<&'a [u8], Wanted>, Vec<Option<Noted<'a>>>);

/// Puts a listing beside what the old tree had. The error is the reason why the whole tree has to be made anew.
fn compare<'a>(inventory: &'a Inventory, listing: &'a Listing) -> Result<Compared<'a>, String> {
    let old = inventory.files()?;
    let attributes = old.iter().filter(|file| file.path.rsplit(|byte| *byte == b'/').next() == Some(b".gitattributes"));
    let attributes = attributes.map(|file| (file.path.to_vec(), to_id(file.id)));
    if !attributes.eq(listing.attributes.iter().map(|(path, id)| (path.clone(), Some(id.clone())))) {
        return Err("the attributes, which say how files are checked out, are others".to_owned());
    }
    let mut wanted = HashMap::with_capacity(listing.files.len() + listing.directories.len());
    let mut noted = vec![None; listing.files.len()];
    let mut ahead = old.into_iter().peekable();
    for (number, file) in listing.files.iter().enumerate() {
        while ahead.next_if(|entry| entry.path < file.path.as_slice()).is_some() {}
        let same = |entry: &Noted<'_>| entry.path == file.path && entry.id == file.id.as_bytes() && entry.mode == mode(file.kind);
        noted[number] = ahead.next_if(same);
        if wanted.insert(file.path.as_slice(), Wanted::File(number)).is_some() {
            return Err(format!("{} is there twice", String::from_utf8_lossy(&file.path)));
        }
    }
    for directory in &listing.directories {
        if wanted.insert(directory, Wanted::Directory).is_some() {
            return Err(format!("{} is there twice", String::from_utf8_lossy(directory)));
        }
    }
    Ok((wanted, noted))
}

const fn mode(kind: Kind) -> u32 {
    match kind {
        Kind::Plain => 0o100_644,
        Kind::Executable => 0o100_755,
        Kind::Link => 0o120_000,
    }
}

impl Sieve<'_> {
    fn run(&self, listing: &Listing, from: &Path, tree: &Path) -> io::Result<Vec<Option<Stat>>> {
        fs::create_dir(&self.aside)?;
        fs::create_dir(tree)?;
        if from.symlink_metadata()?.dev() != self.inventory.device {
            return Err(io::Error::other("it is on another device than it was"));
        }
        make_accessible(from, &from.symlink_metadata()?)?;
        let mut kept = vec![None; listing.files.len()];
        let mut level = vec![Task { path: Vec::new(), from: from.to_owned(), to: tree.to_owned() }];
        while !level.is_empty() {
            let sifted = self.at_once(&level)?;
            level = Vec::new();
            for Sifted { kept: some, ahead } in sifted {
                some.into_iter().for_each(|(number, stat)| kept[number] = Some(stat));
                level.extend(ahead);
            }
        }
        for directory in &listing.directories {
            let at = tree.join(OsStr::from_bytes(directory));
            match fs::create_dir(&at) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && at.symlink_metadata()?.is_dir() => {}
                made => made?,
            }
        }
        Ok(kept)
    }

    /// Goes through directories none of which is in another.
    fn at_once(&self, level: &[Task]) -> io::Result<Vec<Sifted>> {
        let next = AtomicUsize::new(0);
        let work = || -> io::Result<Sifted> {
            let mut sifted = Sifted::default();
            while let Some(task) = level.get(next.fetch_add(1, Ordering::Relaxed)) {
                self.go_through(task, &mut sifted)?;
            }
            Ok(sifted)
        };
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads(level.len() / DIRECTORIES)).map(|_| scope.spawn(work)).collect();
            let own = work();
            let mut all = vec![own];
            for thread in others {
                all.push(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            }
            all.into_iter().collect()
        })
    }

    /// Keeps what is untouched of one directory. Where `from` is another than `to`, it is moved there; else the rest is moved away.
    fn go_through(&self, task: &Task, sifted: &mut Sifted) -> io::Result<()> {
        let stays = task.from == task.to;
        // Read to its end before anything in it is moved.
        for entry in fs::read_dir(&task.from)?.collect::<io::Result<Vec<_>>>()? {
            let (name, meta) = (entry.file_name(), entry.metadata()?);
            if meta.dev() != self.inventory.device {
                return Err(io::Error::other(format!("{} is on another device", entry.path().display())));
            }
            let path = join(&task.path, name.as_bytes());
            let (from, to) = (task.from.join(&name), task.to.join(&name));
            match self.wanted.get(path.as_slice()) {
                Some(Wanted::Directory) if meta.is_dir() && self.inventory.has_directory(&path, &meta) => {
                    if !stays {
                        fs::rename(&from, &to)?;
                    }
                    sifted.ahead.push(Task { path, from: to.clone(), to });
                }
                Some(Wanted::Directory) if meta.is_dir() => {
                    let from = if stays { self.move_aside(&from, &meta)? } else { from };
                    make_accessible(&from, &meta)?;
                    fs::create_dir(&to)?;
                    sifted.ahead.push(Task { path, from, to });
                }
                Some(Wanted::File(number)) if self.is_untouched(*number, &from, &meta)? => {
                    if !stays {
                        fs::rename(&from, &to)?;
                    }
                    // A rename changes the time that an index keeps.
                    let meta = if stays { meta } else { to.symlink_metadata()? };
                    sifted.kept.push((*number, to_stat(&meta)));
                }
                _ if stays => drop(self.move_aside(&from, &meta)?),
                _ => {}
            }
        }
        Ok(())
    }

    fn is_untouched(&self, number: usize, path: &Path, meta: &Metadata) -> io::Result<bool> {
        match self.noted[number].as_ref().filter(|noted| self.inventory.has_file(noted, meta)) {
            Some(noted) if meta.is_file() => has_content(path, noted.id),
            // The target of a link is never written to: that takes another link.
            Some(_) => Ok(meta.is_symlink()),
            None => Ok(false),
        }
    }

    /// Moves what is not wanted out of a directory that is kept.
    fn move_aside(&self, from: &Path, meta: &Metadata) -> io::Result<PathBuf> {
        let to = self.aside.join(self.moved_aside.fetch_add(1, Ordering::Relaxed).to_string());
        if meta.is_dir() {
            make_accessible(from, meta)?;
        }
        fs::rename(from, &to)?;
        Ok(to)
    }
}

/// Whether a file has the content of a blob, as it is stored. What filters make of one is another content, and so is any where ids are not
/// SHA-1: such files are written anew.
fn has_content(path: &Path, id: &[u8]) -> io::Result<bool> {
    let found = git2::Oid::hash_file(git2::ObjectType::Blob, path);
    found
        .map(|found| found.as_bytes() == id)
        .map_err(|error| io::Error::other(format!("cannot read {}: {error}", path.display())))
}

/// Lets the owner of a directory move what is in it, and itself.
pub(in crate::git) fn make_accessible(dir: &Path, meta: &Metadata) -> io::Result<()> {
    let mode = meta.permissions().mode();
    if mode & 0o700 == 0o700 { Ok(()) } else { fs::set_permissions(dir, Permissions::from_mode(mode | 0o700)) }
}

fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_told_from_other_content_whatever_the_times_say() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        let id = git2::Oid::hash_object(git2::ObjectType::Blob, b"good\n").expect("an id");
        fs::write(&path, "good\n").expect("written");
        assert!(has_content(&path, id.as_bytes()).expect("read"));
        assert!(!has_content(&path, &[0; 32]).expect("read"), "an id of another kind");
        fs::write(&path, "evil\n").expect("written");
        assert!(!has_content(&path, id.as_bytes()).expect("read"));
        fs::remove_file(&path).expect("removed");
        let error = has_content(&path, id.as_bytes()).expect_err("it is gone");
        assert!(error.to_string().contains("file"), "{error}");
    }
}
