//! Making a base: by difference from an older one of the same mirror that nobody uses, else by a whole checkout.
//!
//! The one rule: what comes out is what a fresh checkout would be. So an older base is brought forward only where neither has
//! submodules and the attributes, which decide how a file is checked out, are the same.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::{Base, Bases, Held, LEASES, LOCK, RECORD, Record, directories, is_named};
use crate::git::attributes::{self, Effect};
use crate::git::checkout::{Checkout, Durability, write};
use crate::git::error::{GitError, io_error};
use crate::git::index::{Settle, Survey};
use crate::git::job_view::write_index_of_view;
use crate::git::lock::Lock;
use crate::git::mirror::Mirror;
use crate::git::submodules;
use crate::git::worktree::move_to_trash;
use crate::ids::ObjectId;
use crate::janitor::Space;

/// How the names of bases begin that are not whole yet.
pub(in crate::git) const NEW: &str = ".new-";
/// How many files of attributes are read; a repository with more is taken to do anything with them.
const ATTRIBUTE_FILES_MAX: usize = 256;

impl Mirror {
    /// The base of a commit that the mirror has, leased for a worktree in `place`, made where it is not there.
    pub(in crate::git) async fn base(&self, bases: &Bases, commit: &ObjectId, place: &Path) -> Result<Held, GitError> {
        let base = bases.base(self, commit);
        loop {
            if let Some(held) = base.lease(place)? {
                return Ok(held);
            }
            let dir = bases.of(self);
            fs::create_dir_all(&dir).map_err(io_error("create", &dir))?;
            let limit = self.git.host.config.network_timeout;
            let _alone = Lock::acquire(&dir.join(".lock"), &format!("make a base of {}", self.remote), limit).await?;
            if base.dir().join(RECORD).exists() {
                // Somebody was faster, or looks just now whether it may go.
                tokio::task::yield_now().await;
                continue;
            }
            self.make(bases, &dir, &base, commit).await?;
        }
    }

    async fn make(&self, bases: &Bases, dir: &Path, base: &Base, commit: &ObjectId) -> Result<(), GitError> {
        clear(dir, &bases.trash)?;
        let new = Base { dir: dir.join(format!("{NEW}{}", uuid::Uuid::now_v7().simple())) };
        let moved = match take_older(bases, self, &new, commit)? {
            Some(older) => self.move_forward(&new, &older, commit).await?,
            None => None,
        };
        let record = match moved {
            Some(record) => record,
            None => {
                if new.dir.exists() {
                    move_to_trash(&new.dir, &bases.trash)?;
                }
                self.fresh(bases, &new, commit).await?
            }
        };
        new.write_record(&record)?;
        fs::rename(&new.dir, &base.dir).map_err(io_error("name", &base.dir))?;
        tracing::debug!(path = %base.dir.display(), bytes = record.bytes, "base made");
        let (bases, fresh) = (bases.clone(), base.dir.clone());
        let shrunk = crate::git::blocking(move || bases.shrink_but(Some(&fresh), Space::default())).await;
        if let Err(error) = shrunk {
            tracing::warn!(%error, "bases may take more room than they should");
        }
        Ok(())
    }

    fn checkout_of(&self, base: &Base, commit: &ObjectId) -> Checkout {
        Checkout {
            git_dir: base.git_dir(),
            tree: base.tree(),
            index: base.index(),
            objects: self.objects(),
            base: commit.clone(),
            durability: Durability::Later,
        }
    }

    async fn fresh(&self, bases: &Bases, new: &Base, commit: &ObjectId) -> Result<Record, GitError> {
        let leases = new.dir.join(LEASES);
        fs::create_dir_all(&leases).map_err(io_error("create", &leases))?;
        write(&new.dir.join(LOCK), "")?;
        bases.make_tree(&new.tree())?;
        let checkout = self.checkout_of(new, commit);
        let mut survey = checkout.fill(&self.git, &self.remote).await?;
        let gitlinks = std::mem::take(&mut survey.gitlinks);
        let submodules = submodules::check_out(self, &checkout, gitlinks, 0).await?;
        write_index_of_view(&checkout)?;
        let attributes = judge_attributes(&checkout, &survey);
        Ok(Record {
            commit: commit.clone(),
            bytes: survey.bytes,
            entries: survey.entries,
            submodules,
            attributes,
            attribute_files: survey.attributes,
            ignores: survey.ignores,
        })
    }

    /// Brings an older base to the commit; nothing where only a whole checkout is certain to come to the same.
    async fn move_forward(&self, new: &Base, older: &Record, commit: &ObjectId) -> Result<Option<Record>, GitError> {
        let record = new.dir.join(RECORD);
        fs::remove_file(&record).map_err(io_error("remove", &record))?;
        let checkout = self.checkout_of(new, commit);
        write(&checkout.git_dir.join("HEAD"), format!("{commit}\n"))?;
        let survey = match checkout.bring_to_base(&self.git, &self.remote, Settle::Fresh).await {
            Ok(survey) => survey,
            Err(error @ GitError::DiskFull { .. }) => return Err(error),
            Err(error) => {
                tracing::warn!(%error, from = %older.commit, to = %commit, "an older base cannot be brought forward");
                return Ok(None);
            }
        };
        if !survey.gitlinks.is_empty() || survey.attributes != older.attribute_files {
            return Ok(None);
        }
        let leases = new.dir.join(LEASES);
        fs::remove_dir_all(&leases).and_then(|()| fs::create_dir(&leases)).map_err(io_error("clear", &leases))?;
        write_index_of_view(&checkout)?;
        let (bytes, entries, ignores) = (survey.bytes, survey.entries, survey.ignores);
        Ok(Some(Record { commit: commit.clone(), bytes, entries, ignores, ..older.clone() }))
    }
}

/// Moves away what a process that was killed had not made to its end. The lock says that nobody is at it.
fn clear(dir: &Path, trash: &Path) -> Result<(), GitError> {
    let entries = fs::read_dir(dir).map_err(io_error("read", dir))?;
    let left = entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(NEW));
    left.into_iter().try_for_each(|entry| move_to_trash(&entry.path(), trash))
}

/// Takes the base that was not used for longest, of those that nobody uses and that the commit goes on from, to the new place.
/// Others, such as those of another branch, stay: somebody may want them again.
fn take_older(bases: &Bases, mirror: &Mirror, new: &Base, commit: &ObjectId) -> Result<Option<Record>, GitError> {
    let last_used = |dir: &PathBuf| dir.join(LOCK).metadata().and_then(|meta| meta.modified()).ok();
    let mut candidates = directories(&bases.of(mirror))?;
    candidates.retain(|candidate| is_named(candidate, &bases.suffix(bases.form)));
    candidates.sort_by_cached_key(last_used);
    for candidate in candidates {
        let older = Base::at(&candidate);
        let Ok(record) = older.record() else { continue };
        let suits = record.submodules.is_empty() && goes_on_from(&mirror.dir, commit, &record.commit);
        if suits && older.move_unleased(&new.dir)? {
            return Ok(Some(record));
        }
    }
    Ok(None)
}

/// Whether a commit is in the history of another; not where that cannot be told in process.
fn goes_on_from(mirror: &Path, commit: &ObjectId, earlier: &ObjectId) -> bool {
    let look = || -> Result<bool, git2::Error> {
        let id = |id: &ObjectId| git2::Oid::from_str(id.as_str());
        git2::Repository::open_bare(mirror)?.graph_descendant_of(id(commit)?, id(earlier)?)
    };
    look().unwrap_or(false)
}

/// The most that the attributes of a checkout do.
fn judge_attributes(checkout: &Checkout, survey: &Survey) -> Effect {
    if survey.attributes.len() > ATTRIBUTE_FILES_MAX {
        return Effect::Contents;
    }
    let judged = survey.attributes.iter().map(|(path, _)| {
        let path = checkout.tree.join(OsStr::from_bytes(path));
        match path.symlink_metadata() {
            // git does not follow a link to attributes.
            Ok(meta) if !meta.is_file() => Effect::None,
            _ => fs::read(&path).map_or(Effect::Contents, |text| attributes::judge(&text)),
        }
    });
    judged.max().unwrap_or_default()
}
