//! What processes that were killed left of worktrees, bases, clones and git's own files, and what explains what is there.
//!
//! The one rule: a file that a git command may still be writing is nobody's only once it is older than any git command may become;
//! a directory that is made under a lock, only while that lock is free.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::Git;
use super::bases::make::NEW;
use super::bases::{Base, directories};
use super::error::GitError;
use super::fetch::{INCOMING, remove_if_there};
use super::journal::Journal;
use super::lock::Lock;
use super::overlay::{detach, detach_below, mounted_below, probed_by};
use super::place::{HOST, TREE};
use super::worktree::move_to_trash;
use crate::janitor::{Explained, Kind, Lease, Owned, Owner, measure};

/// What a command that is ended for taking too long may still take to end.
const GRACE: Duration = Duration::from_secs(60);
/// How many files of something unfinished are counted.
const ENTRIES_MAX: u64 = 20_000;

impl Git {
    /// Our mounts, the leases on bases, and whatever a killed git, clone or checkout had not finished, in the state directory of the
    /// mirrors; each with what explains it. Blocks for some milliseconds.
    ///
    /// # Errors
    /// The list of mounts cannot be read.
    pub fn leftovers(&self, explained: &Explained) -> Result<Vec<Owned>, GitError> {
        let mut found = Vec::new();
        let state = self.host.mirrors.parent().unwrap_or(&self.host.mirrors);
        for at in mounted_below(state)? {
            let lease = mount_lease(&at, explained);
            found.push(owned(Kind::Mount, &at, lease, None));
        }
        for base in self.base_dirs() {
            for (file, place) in Base::at(&base).lease_files() {
                let lease = if Base::at(&base).is_named_in(&place) {
                    Lease::Held(format!("the worktree in {} stands on it, and it goes with that", place.display()))
                } else {
                    explained.of(&place, &format!("no worktree in {} stands on it", place.display()))
                };
                found.push(owned(Kind::BaseLease, &file, lease, None));
            }
        }
        found.extend(self.unfinished().into_iter().map(|(path, lease)| {
            let bytes = measure(&path, ENTRIES_MAX).bytes;
            owned(Kind::Unfinished, &path, lease, Some(bytes))
        }));
        Ok(found)
    }

    /// Removes what [`Git::leftovers`] listed. What is gone, or in use by now, is left. Blocks.
    ///
    /// # Errors
    /// What the system says.
    pub fn remove_left(&self, owned: &Owned) -> Result<(), GitError> {
        let path = Path::new(&owned.name);
        match owned.kind {
            // A worktree may have been finished there since.
            Kind::Mount if matches!(mount_lease(path, &Explained::default()), Lease::Held(_)) => Ok(()),
            Kind::Mount => detach(path),
            Kind::BaseLease => match path.parent().and_then(Path::parent) {
                Some(base) => Base::at(base).forget_lease(path).map(drop),
                None => Ok(()),
            },
            _ if !path.is_dir() => remove_if_there(path),
            _ => {
                let lock = self.lock_of(path);
                let held = lock.as_deref().map(Lock::take_free);
                if matches!(held, Some(None)) {
                    return Ok(());
                }
                detach_below(path)?;
                move_to_trash(path, &self.trash())
            }
        }
    }

    /// Removes the leases of a place from which the worktree is gone.
    ///
    /// # Errors
    /// A file cannot be removed.
    pub fn forget_leases(&self, place: &Path) -> Result<(), GitError> {
        for base in self.base_dirs().iter().map(|dir| Base::at(dir)) {
            for (file, _) in base.lease_files().into_iter().filter(|(_, of)| of == place) {
                base.forget_lease(&file)?;
            }
        }
        Ok(())
    }

    fn base_dirs(&self) -> Vec<PathBuf> {
        let mirrors = directories(&self.bases()).unwrap_or_default();
        mirrors.iter().flat_map(|mirror| directories(mirror).unwrap_or_default()).collect()
    }

    /// What is not whole, each with whether somebody may be at it.
    fn unfinished(&self) -> Vec<(PathBuf, Lease)> {
        let mut found = Vec::new();
        let under_lock = |path: &Path| match self.lock_of(path) {
            Some(lock) if !Lock::is_free(&lock) => Lease::Held(format!("somebody holds {}", lock.display())),
            _ => Lease::Over("it has no name of its own yet, and nobody holds the lock under which it was made".to_owned()),
        };
        for path in names(&self.host.mirrors).into_iter().filter(|path| begins(path, INCOMING)) {
            found.push((path.clone(), under_lock(&path)));
        }
        for path in names(&self.bases()) {
            match path.file_name().and_then(|name| probed_by(&name.to_string_lossy())) {
                Some(pid) if Path::new("/proc").join(pid.to_string()).exists() => {
                    found.push((path, Lease::Unknown(format!("there is a process {pid}, as which it was tried out"))));
                }
                Some(pid) => found.push((path, Lease::Over(format!("process {pid}, which tried it out, has ended")))),
                None => {
                    let new = names(&path).into_iter().filter(|path| begins(path, NEW));
                    found.extend(new.map(|path| (path.clone(), under_lock(&path))));
                }
            }
        }
        let oldest = self.host.config.local_timeout.max(self.host.config.network_timeout) + GRACE;
        for path in self.mirrors().iter().flat_map(|mirror| drafts(mirror)) {
            let lease = match age(&path) {
                Some(age) if age > oldest => {
                    Lease::Over(format!("no git command takes longer than {}", crate::clock::human::format(oldest)))
                }
                _ => Lease::Unknown("a git command may still be writing it".to_owned()),
            };
            found.push((path, lease));
        }
        found
    }

    /// The lock under which a directory that is not whole was made.
    fn lock_of(&self, path: &Path) -> Option<PathBuf> {
        if begins(path, NEW) {
            return Some(path.with_file_name(".lock"));
        }
        let name = path.file_name()?.to_string_lossy().into_owned();
        let (mirror, _) = name.strip_prefix(INCOMING)?.rsplit_once(".git-")?;
        Some(self.host.mirrors.join(format!("{mirror}.lock")))
    }
}

fn owned(kind: Kind, path: &Path, lease: Lease, bytes: Option<u64>) -> Owned {
    Owned { kind, name: path.display().to_string(), owner: Owner::Directory, lease, bytes }
}

fn mount_lease(at: &Path, explained: &Explained) -> Lease {
    let place = at.ancestors().nth(Path::new(TREE).components().count()).filter(|place| place.join(TREE) == at);
    match place {
        Some(place) if Journal::exists(&place.join(HOST)) => {
            Lease::Held(format!("it is the worktree in {}, and goes with that", place.display()))
        }
        _ => explained.of(at, "there is no worktree that it belongs to"),
    }
}

/// git's lock files and temporary files in a mirror, which git itself removes when it is not killed.
fn drafts(mirror: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = names(mirror).into_iter().filter(|path| is_lock(path)).collect();
    let mut ahead = vec![mirror.join("refs"), mirror.join("objects/info")];
    while let Some(dir) = ahead.pop() {
        let (dirs, files): (Vec<PathBuf>, Vec<PathBuf>) =
            names(&dir).into_iter().partition(|path| path.is_dir() && !path.is_symlink());
        found.extend(files.into_iter().filter(|path| is_lock(path)));
        ahead.extend(dirs);
    }
    for dir in names(&mirror.join("objects")) {
        if is_lock(&dir) || begins(&dir, "tmp_objdir-") || begins(&dir, "incoming-") {
            found.push(dir);
        } else if dir.file_name().is_some_and(|name| name.len() == 2 || name == "pack") {
            found.extend(names(&dir).into_iter().filter(|path| begins(path, "tmp_") || begins(path, ".tmp-") || is_lock(path)));
        }
    }
    found
}

fn is_lock(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "lock")
}

fn begins(path: &Path, prefix: &str) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix))
}

fn names(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// How long ago something was last written to.
fn age(path: &Path) -> Option<Duration> {
    let meta = path.symlink_metadata().ok()?;
    SystemTime::now().duration_since(meta.modified().ok()?).ok()
}
