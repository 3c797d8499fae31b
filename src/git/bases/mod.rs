//! Base checkouts: the files of a commit, checked out once for all worktrees that begin at it.
//!
//! The one rule: a base never changes. It is made under another name, gets its own when it is whole, and goes as a whole,
//! once no lease names it. Who takes one holds its lock, shared, until the worktree's journal names it; who removes one, or
//! makes a newer one from it, needs that lock alone and must find no journal that names it. So any number of processes may do
//! either at once, and a daemon that is killed leaves nothing that must be mended.
//!
//! A base is for one boot of the host: nothing of it is written to the disk with certainty, and one that a crash may have
//! damaged is not used again. Making one is in [`make`], removing in [`evict`].

mod evict;
pub(super) mod make;

use std::fs::{self, File, OpenOptions};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bytesize::ByteSize;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::attributes::Effect;
use super::error::{GitError, io_error};
use super::journal::{Journal, Submodule};
use super::mirror::{Mirror, hash};
use super::{Git, snapshot};
use crate::ids::ObjectId;
use crate::janitor::Space;

/// The file that says that a base is whole, and what it has.
const RECORD: &str = "base.json";
/// Its lock. When it was last written to, the base was last used.
const LOCK: &str = "lock";
const LEASES: &str = "leases";

/// The base checkouts of a worker, with the room that they may take. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Bases {
    dir: PathBuf,
    trash: PathBuf,
    budget: ByteSize,
    /// Which boot of the host this is.
    boot: String,
    form: Form,
}

/// What the files of a base are in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// A directory, over which overlays are mounted.
    Directory,
    /// A subvolume of Btrfs, which is copied as a whole.
    Subvolume,
}

/// A base checkout as it is accounted for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseUse {
    /// Where it is: `<bases>/<mirror>/<commit>-<boot>`.
    pub path: PathBuf,
    /// The commit that it has the files of.
    pub commit: ObjectId,
    /// What it takes on the disk, as its index says.
    pub bytes: u64,
    /// How many files and directories it has; 0 in what an earlier release made.
    pub entries: u64,
    /// When a worktree was last made from it.
    pub last_used: SystemTime,
    /// Whether it is of this boot of the host; another is never used again.
    pub usable: bool,
    /// The slots, or the places of kept workspaces, whose worktrees stand on it now.
    pub leases: Vec<PathBuf>,
}

impl BaseUse {
    /// What it takes of the disk's space.
    #[must_use]
    pub const fn space(&self) -> Space {
        Space { bytes: self.bytes, inodes: self.entries }
    }
}

/// What is on disk about a base.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) commit: ObjectId,
    bytes: u64,
    /// Absent in what an earlier release made.
    #[serde(default)]
    entries: u64,
    pub(super) submodules: Vec<Submodule>,
    /// The most that its attributes do to a file.
    pub(super) attributes: Effect,
    /// Their files, by path and content.
    attribute_files: Vec<(Vec<u8>, ObjectId)>,
    /// Whether it has ignore rules.
    pub(super) ignores: bool,
}

/// A base directory.
#[derive(Debug, Clone)]
pub(super) struct Base {
    dir: PathBuf,
}

/// A base that stays as long as this is held, or a journal in the place that it was leased for names it.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) base: Base,
    _shared: Flock<File>,
}

impl Base {
    pub(super) fn at(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The files.
    pub(super) fn tree(&self) -> PathBuf {
        self.dir.join("tree")
    }

    /// The host's git directory for them.
    pub(super) fn git_dir(&self) -> PathBuf {
        self.dir.join("host.git")
    }

    /// The index as the checkout left it.
    pub(super) fn index(&self) -> PathBuf {
        self.git_dir().join("index")
    }

    pub(super) fn record(&self) -> Result<Record, GitError> {
        let path = self.dir.join(RECORD);
        let text = fs::read(&path).map_err(io_error("read", &path))?;
        serde_json::from_slice(&text).map_err(|error| io_error("read", &path)(error.into()))
    }

    pub(super) fn has_record(&self) -> bool {
        self.dir.join(RECORD).exists()
    }

    /// Written last: it has remotes' whole addresses, so only its owner can read it.
    fn write_record(&self, record: &Record) -> Result<(), GitError> {
        let path = self.dir.join(RECORD);
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
        let file = file.map_err(io_error("write", &path))?;
        serde_json::to_writer(&file, record).map_err(|error| io_error("write", &path)(error.into()))
    }

    /// Leases it for a worktree in `place`; nothing where it is not there, or is just being removed.
    pub(super) fn lease(&self, place: &Path) -> Result<Option<Held>, GitError> {
        let path = self.dir.join(LOCK);
        let file = match OpenOptions::new().write(true).open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(io_error("open the lock", &path))?,
        };
        let shared = match Flock::lock(file, FlockArg::LockSharedNonblock) {
            Ok(shared) => shared,
            Err((_, Errno::EWOULDBLOCK | Errno::EINTR)) => return Ok(None),
            Err((_, errno)) => return Err(io_error("lock", &path)(errno.into())),
        };
        // It may have been moved away after it was opened.
        let inode = |meta: std::io::Result<fs::Metadata>| meta.map(|meta| (meta.dev(), meta.ino())).ok();
        if inode(path.metadata()) != inode(shared.metadata()) || !self.dir.join(RECORD).exists() {
            return Ok(None);
        }
        let lease = self.dir.join(LEASES).join(hash(&place.to_string_lossy()));
        fs::write(&lease, place.as_os_str().as_bytes()).map_err(io_error("write", &lease))?;
        shared.set_modified(SystemTime::now()).map_err(io_error("touch", &path))?;
        Ok(Some(Held { base: self.clone(), _shared: shared }))
    }

    /// The places whose journals name this base.
    fn leases(&self) -> Result<Vec<PathBuf>, GitError> {
        let dir = self.dir.join(LEASES);
        let entries = fs::read_dir(&dir).map_err(io_error("read", &dir))?;
        let places = entries.flatten().filter_map(|entry| fs::read(entry.path()).ok());
        let places = places.map(|text| PathBuf::from(std::ffi::OsString::from_vec(text)));
        Ok(places.filter(|place| self.is_named_in(place)).collect())
    }

    pub(super) fn is_named_in(&self, place: &Path) -> bool {
        Journal::read(&place.join("host.git")).is_ok_and(|journal| journal.base_dir.as_deref() == Some(&self.dir))
    }

    /// What is written of leases, whether or not the places' journals still name this base.
    pub(super) fn lease_files(&self) -> Vec<(PathBuf, PathBuf)> {
        let entries = fs::read_dir(self.dir.join(LEASES)).into_iter().flatten().flatten();
        let files = entries.filter_map(|entry| Some((entry.path(), fs::read(entry.path()).ok()?)));
        files.map(|(file, place)| (file, PathBuf::from(std::ffi::OsString::from_vec(place)))).collect()
    }

    /// Removes the file of a lease, unless its place's journal names this base or somebody takes a lease just now. Says whether.
    pub(super) fn forget_lease(&self, file: &Path) -> Result<bool, GitError> {
        let Ok(lock) = OpenOptions::new().write(true).open(self.dir.join(LOCK)) else { return Ok(false) };
        let Ok(_alone) = Flock::lock(lock, FlockArg::LockExclusiveNonblock) else { return Ok(false) };
        let found = self.lease_files().into_iter().find(|(known, _)| known == file);
        if found.is_none_or(|(_, place)| self.is_named_in(&place)) {
            return Ok(false);
        }
        fs::remove_file(file).map(|()| true).map_err(io_error("remove", file))
    }

    /// Moves it to `place`, unless somebody takes it just now or a worktree stands on it. Says whether.
    fn move_unleased(&self, place: &Path) -> Result<bool, GitError> {
        let path = self.dir.join(LOCK);
        let Ok(file) = OpenOptions::new().write(true).open(&path) else { return Ok(false) };
        let Ok(_alone) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else { return Ok(false) };
        if !self.leases()?.is_empty() {
            return Ok(false);
        }
        match fs::rename(&self.dir, place) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            moved => moved.map(|()| true).map_err(io_error("move", &self.dir)),
        }
    }
}

impl Bases {
    /// Those beside the mirrors of `git`, which may take `budget` while no worktree stands on them.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn open(git: &Git, budget: ByteSize) -> Result<Self, GitError> {
        let dir = git.bases();
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(io_error("create", &dir))?;
        let boot = crate::janitor::boot_id().map_err(io_error("read the boot's id for", &dir))?.chars().take(8).collect();
        Ok(Self { dir, trash: git.trash(), budget, boot, form: Form::Directory })
    }

    /// The same, whose files are in subvolumes from now on. Those that were made otherwise are not used meanwhile.
    pub(super) fn into_subvolumes(self) -> Self {
        Self { form: Form::Subvolume, ..self }
    }

    /// Where they are.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// All bases that are whole, with what they take, when they were last used, and who stands on them. Blocks.
    ///
    /// # Errors
    /// A directory cannot be read.
    pub fn list(&self) -> Result<Vec<BaseUse>, GitError> {
        let mut found = Vec::new();
        for mirror in directories(&self.dir)? {
            for dir in directories(&mirror)? {
                let base = Base::at(&dir);
                let (Ok(record), Ok(lock)) = (base.record(), dir.join(LOCK).metadata()) else { continue };
                found.push(BaseUse {
                    commit: record.commit,
                    bytes: record.bytes,
                    entries: record.entries,
                    last_used: lock.modified().map_err(io_error("look at", &dir))?,
                    usable: [Form::Directory, Form::Subvolume].iter().any(|form| is_named(&dir, &self.suffix(*form))),
                    leases: base.leases()?,
                    path: dir,
                });
            }
        }
        Ok(found)
    }

    /// The directory of a mirror's bases.
    fn of(&self, mirror: &Mirror) -> PathBuf {
        self.dir.join(mirror.dir.file_stem().unwrap_or_default())
    }

    /// The base of a commit, which need not be there.
    fn base(&self, mirror: &Mirror, commit: &ObjectId) -> Base {
        Base { dir: self.of(mirror).join(format!("{commit}{}", self.suffix(self.form))) }
    }

    /// How the names of bases end that this boot can use.
    fn suffix(&self, form: Form) -> String {
        match form {
            Form::Directory => format!("-{}", self.boot),
            Form::Subvolume => format!("-{}-subvolume", self.boot),
        }
    }

    /// Makes the empty directory that the files of a base come into.
    fn make_tree(&self, tree: &Path) -> Result<(), GitError> {
        match self.form {
            Form::Directory => fs::create_dir(tree).map_err(io_error("create", tree)),
            Form::Subvolume => snapshot::create(tree),
        }
    }
}

fn is_named(dir: &Path, suffix: &str) -> bool {
    dir.file_name().is_some_and(|name| name.as_bytes().ends_with(suffix.as_bytes()))
}

/// The directories in one whose names are not hidden; none where it is not there.
pub(super) fn directories(dir: &Path) -> Result<Vec<PathBuf>, GitError> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(io_error("read", dir))?,
    };
    let shown = |entry: &fs::DirEntry| !entry.file_name().as_bytes().starts_with(b".");
    let directory = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    Ok(entries.flatten().filter(|entry| shown(entry) && directory(entry)).map(|entry| entry.path()).collect())
}
