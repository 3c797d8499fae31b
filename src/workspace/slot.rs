//! Where things are in a worker's state directory.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::trash::Trash;
use crate::git::{self, GitError};
use crate::janitor::{Measured, measure};

/// A worker's state directory: everything that it keeps on disk.
#[derive(Debug, Clone)]
pub struct StateDir {
    root: PathBuf,
}

impl StateDir {
    /// Makes the directory, with the parts that are always there, readable by its owner only.
    ///
    /// # Errors
    /// What the system says, with the path.
    pub fn create(root: &Path) -> io::Result<Self> {
        for part in ["", "slots", "mirrors", "bases", "trash", "kept", "pushes"] {
            private_dir(&root.join(part))?;
        }
        // An absolute path: supervisors outlive the daemon's working directory.
        Ok(Self { root: root.canonicalize()? })
    }

    /// The directory itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// How much room is left on its disk, in bytes.
    ///
    /// # Errors
    /// What the system says.
    pub fn free_space(&self) -> io::Result<u64> {
        let found = nix::sys::statvfs::statvfs(&self.root)?;
        Ok(found.blocks_available() * found.fragment_size())
    }

    /// How many files more its disk can have, where its filesystem has a bound for that.
    ///
    /// # Errors
    /// What the system says.
    pub fn free_files(&self) -> io::Result<Option<u64>> {
        let found = nix::sys::statvfs::statvfs(&self.root)?;
        Ok((found.files() > 0).then(|| found.files_available()))
    }

    /// Where mirrors are.
    #[must_use]
    pub fn mirrors(&self) -> PathBuf {
        self.root.join("mirrors")
    }

    /// Where base checkouts are.
    #[must_use]
    pub fn bases(&self) -> PathBuf {
        self.root.join("bases")
    }

    /// Where kept workspaces are.
    #[must_use]
    pub fn kept(&self) -> PathBuf {
        self.root.join("kept")
    }

    /// Where it is written down what was pushed and is not known yet to be delivered.
    #[must_use]
    pub fn pushes(&self) -> PathBuf {
        self.root.join("pushes")
    }

    /// The trash.
    #[must_use]
    pub fn trash(&self) -> Trash {
        Trash::new(self.root.join("trash"))
    }

    /// The slot of that number, from 0.
    #[must_use]
    pub fn slot(&self, number: u32) -> SlotDir {
        SlotDir { root: self.root.join("slots").join(number.to_string()), number }
    }

    /// The slots that are on disk, whether or not the configuration still has so many.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn slots(&self) -> io::Result<Vec<SlotDir>> {
        let mut numbers: Vec<u32> =
            fs::read_dir(self.root.join("slots"))?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
        numbers.sort_unstable();
        Ok(numbers.into_iter().map(|number| self.slot(number)).collect())
    }
}

/// One slot's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotDir {
    root: PathBuf,
    number: u32,
}

impl SlotDir {
    /// The slot at `root`, as its path was handed to another process.
    #[must_use]
    pub fn at(root: PathBuf) -> Self {
        let number = root.file_name().and_then(|name| name.to_str()?.parse().ok()).unwrap_or(0);
        Self { root, number }
    }

    /// Its number.
    #[must_use]
    pub const fn number(&self) -> u32 {
        self.number
    }

    /// The directory itself: the git room puts `host.git` here, and `tree` into [`SlotDir::job`].
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The supervisor's own directory.
    #[must_use]
    pub fn supervisor(&self) -> PathBuf {
        self.root.join("sup")
    }

    /// What a job sees of its slot: worktree, documents, home. It is one directory for the whole life of the slot, because a warm
    /// container holds it; what is in it comes and goes.
    #[must_use]
    pub fn job(&self) -> PathBuf {
        self.root.join("job")
    }

    /// The worktree.
    #[must_use]
    pub fn tree(&self) -> PathBuf {
        self.job().join("tree")
    }

    /// The directory of one attempt's files that its job does not see: spool and journal.
    #[must_use]
    pub fn run(&self) -> PathBuf {
        self.root.join("run")
    }

    /// What is going on in the slot, for a daemon that finds it.
    #[must_use]
    pub fn journal(&self) -> PathBuf {
        self.run().join("attempt.json")
    }

    /// The document for the backend.
    #[must_use]
    pub fn spec(&self) -> PathBuf {
        self.job().join("spec.json")
    }

    /// The result that the backend leaves.
    #[must_use]
    pub fn result(&self) -> PathBuf {
        self.job().join("result.json")
    }

    /// What the backend says meanwhile that it has used of a model.
    #[must_use]
    pub fn usage(&self) -> PathBuf {
        self.job().join("usage.json")
    }

    /// By what the program that runs an agent knows what to run.
    #[must_use]
    pub fn order(&self) -> PathBuf {
        self.job().join("agent.json")
    }

    /// The raw events of an agent, while it runs.
    #[must_use]
    pub fn events(&self) -> PathBuf {
        self.job().join("events.jsonl")
    }

    /// The job's home directory.
    #[must_use]
    pub fn home(&self) -> PathBuf {
        self.job().join("home")
    }

    /// The job's directory for temporary files.
    #[must_use]
    pub fn tmp(&self) -> PathBuf {
        self.job().join("tmp")
    }

    /// Where the tree of its last job waits for the next one, if it does.
    #[must_use]
    pub fn recycled(&self) -> PathBuf {
        self.root.join(git::RECYCLED)
    }

    /// Where what a job writes is: its directory, and the layer of an overlay.
    #[must_use]
    pub fn written(&self) -> Vec<PathBuf> {
        vec![self.job(), self.root.join("layer")]
    }

    /// Counts what is in it of an attempt, as [`measure`] does.
    #[must_use]
    pub fn measure(&self, entries_max: u64) -> Measured {
        let (all, waiting) = (measure(&self.root, entries_max), measure(&self.recycled(), entries_max));
        Measured {
            bytes: all.bytes.saturating_sub(waiting.bytes),
            entries: all.entries.saturating_sub(waiting.entries),
            whole: all.whole,
        }
    }

    /// The parts of the caches that its job has.
    #[must_use]
    pub fn caches(&self) -> PathBuf {
        self.root.join("caches")
    }

    /// Where gates run: laid out as a slot is, outside of what the job sees.
    #[must_use]
    pub fn gates(&self) -> Self {
        Self { root: self.root.join("gates"), number: self.number }
    }

    /// The same within what the job sees, for containers to which nothing else can be shown. What is there before gates run
    /// may be anything that the job has put there.
    #[must_use]
    pub fn gates_within(&self) -> Self {
        Self { root: self.job().join("gates"), number: self.number }
    }

    /// Makes the place in which a gate runs, empty: what was there goes to the trash. `gates` is one of the two.
    ///
    /// # Errors
    /// What the system says.
    pub fn reset_gates(&self, gates: &Self, trash: &Trash) -> io::Result<()> {
        self.clear_gates(trash)?;
        [gates.job(), gates.home(), gates.tmp()].iter().try_for_each(|part| private_dir(part))
    }

    /// Moves both places to the trash. Nothing is ever mounted below the one that the job sees.
    fn clear_gates(&self, trash: &Trash) -> io::Result<()> {
        let (own, within) = (self.gates(), self.gates_within());
        if own.root.symlink_metadata().is_ok() {
            own.release().map_err(io::Error::other)?;
            trash.take(&own.root)?;
        }
        if within.root.symlink_metadata().is_ok() { trash.take(&within.root) } else { Ok(()) }
    }

    /// Sets the worktree aside for the next attempt, where it is one that can be. Only after an attempt whose processes have ended.
    ///
    /// # Errors
    /// What the system says; [`SlotDir::clear`] takes what is left.
    pub fn set_aside(&self, trash: &Trash) -> Result<bool, GitError> {
        git::set_aside(&self.root, trash.dir())
    }

    /// Whether nothing of an attempt is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let names = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect::<Vec<_>>();
        let stays = |path: &PathBuf| *path == self.supervisor() || *path == self.recycled();
        names(&self.root).iter().all(|path| stays(path) || (*path == self.job() && names(path).is_empty()))
    }

    /// Makes the directory that a job sees, where it is not there yet: a container that is made before the first job holds it.
    ///
    /// # Errors
    /// What the system says.
    pub fn make_job_dir(&self) -> io::Result<()> {
        private_dir(&self.job())
    }

    /// Makes the slot empty and ready for an attempt: what an earlier one left goes to the trash.
    ///
    /// # Errors
    /// What the system says.
    pub fn reset(&self, trash: &Trash) -> io::Result<()> {
        private_dir(&self.root)?;
        self.clear(trash)?;
        for part in [self.run(), self.job(), self.home(), self.tmp()] {
            private_dir(&part)?;
        }
        Ok(())
    }

    /// Gives the worker what is the worker's of the directory that a job sees: it is the job's own, who may shut everybody out, or leave
    /// rights there that what is made in it later has too. Nothing is in its place that is no directory: who made that would need the slot.
    fn take_back(&self) -> io::Result<()> {
        let job = self.job();
        let mode = match job.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            meta => meta?.mode() & 0o7777,
        };
        if mode != 0o700 {
            fs::set_permissions(&job, Permissions::from_mode(0o700))?;
        }
        for name in xattr::list(&job)?.filter(|name| name.to_string_lossy().starts_with("system.posix_acl")) {
            xattr::remove(&job, &name)?;
        }
        Ok(())
    }

    /// Takes off what is mounted: the worktree and, where it has them, the caches of its job.
    fn release(&self) -> Result<(), git::GitError> {
        git::release(&self.root)?;
        // The list of all mounts is read for that.
        if self.caches().exists() { git::release_below(&self.root) } else { Ok(()) }
    }

    /// Moves everything of an attempt to the trash. Afterwards no journal is there. The journal's directory goes last: a
    /// daemon that is killed half-way finds it and clears the slot again.
    ///
    /// # Errors
    /// What the system says.
    pub fn clear(&self, trash: &Trash) -> io::Result<()> {
        let entries = match fs::read_dir(&self.root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        self.release().map_err(io::Error::other)?;
        self.gates().release().map_err(io::Error::other)?;
        self.take_back()?;
        // Whatever is there beside the supervisor: the host's side of a worktree, or what is left of one whose making was cut
        // short.
        let mut to_go = Vec::new();
        for entry in entries {
            let path = entry?.path();
            if path == self.job() {
                to_go.extend(fs::read_dir(&path)?.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()?);
            } else if path != self.supervisor() && path != self.run() && path != self.recycled() {
                to_go.push(path);
            }
        }
        to_go.iter().try_for_each(|path| trash.take(path))?;
        trash.take(&self.run())
    }
}

/// Makes a directory that only its owner can enter; one that is there is left as it is.
fn private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| io::Error::new(error.kind(), format!("cannot make {}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_its_job_has_shut_is_open_for_the_next_one() {
        let root = tempfile::tempdir().expect("a directory");
        let state = StateDir::create(root.path()).expect("made");
        let (slot, trash) = (state.slot(0), state.trash());
        slot.reset(&trash).expect("reset");
        fs::write(slot.job().join("left"), "").expect("written");
        let mode = || slot.job().metadata().expect("it is there").mode() & 0o7777;
        for shut in [0o000, 0o500, 0o2777] {
            fs::set_permissions(slot.job(), Permissions::from_mode(shut)).expect("set");
            slot.clear(&trash).expect("cleared");
            assert_eq!(mode(), 0o700);
            assert!(slot.is_empty());
            slot.reset(&trash).expect("reset");
        }
        // What setfacl -d -m o::rwx makes of it.
        let acl = [2u32.to_le_bytes(), [1, 0, 7, 0], [255; 4], [4, 0, 7, 0], [255; 4], [32, 0, 7, 0], [255; 4]].concat();
        let name = "system.posix_acl_default";
        // Not every filesystem has them.
        if xattr::set(slot.job(), name, &acl).is_ok() {
            slot.clear(&trash).expect("cleared");
            assert_eq!(xattr::get(slot.job(), name).expect("answered"), None);
        }
    }
}
