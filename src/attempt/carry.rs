//! The caches of an attempt's project: brought before its first command, out of its tree while a commit is made of that, on the ground of
//! each gate, and saved once the job is on record as succeeded.
//!
//! The rules. No cache fails a job: what cannot be had is left out, and the job's log says why. And whose jobs save is decided here: those
//! of the project that began at its own base, by a backend that may, and have succeeded. Such a job can leave what it likes to the later
//! ones of its project, toolchain and path.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::Stdio;
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::halt::Halt;
use super::in_time::in_time;
use super::open::Attempt;
use super::place::{Chosen, Place, Processes};
use super::prepare::within;
use crate::caches::{
    CacheConfig, CacheError, CachePath, Carried, Entry, Facts, Key, ProjectCaches, Saving, Shelf, Way, key_files,
};
use crate::clock::{Timestamp, human};
use crate::git::Worktree;
use crate::ids::ObjectId;
use crate::job::{Deadline, OutcomeClass};
use crate::sandbox::container::{WORKSPACE, propagates};

/// How long a command may take that tells of a toolchain.
const TOOLCHAIN_WITHIN: Duration = Duration::from_secs(20);

/// What jobs start from when neither they nor their project say.
const DEFAULT_BASE: &str = "HEAD";

/// The project of an attempt, where it has caches.
fn project(attempt: &Attempt) -> Option<(&str, &ProjectCaches)> {
    let name = attempt.claimed.job.spec.project.as_deref()?;
    attempt.tools.project_caches.get(name).filter(|project| !project.entries.is_empty()).map(|project| (name, project))
}

/// Puts the caches into the tree and the home directory of the attempt, unless a daemon before this one has for the same place, and says
/// what is in them. What that one had for another place, or before the host was started again, goes. No command runs.
///
/// # Errors
/// The attempt is to stop, or meets its deadline.
pub(super) async fn bring(attempt: &mut Attempt, chosen: Chosen) -> Result<(), Halt> {
    let Some((name, caches)) = project(attempt) else { return Ok(()) };
    let root = attempt.slot_root().to_owned();
    let before = Carried::find(&root).filter(|carried| chosen == Chosen::Before && carried.past.is_empty());
    if let Some(carried) = before {
        tell(attempt, put_in(carried).await);
        return Ok(());
    }
    let (name, entries, begun) = (name.to_owned(), caches.entries.clone(), Instant::now());
    let wanted = keyed(attempt, entries).await?;
    let (shelf, way) = (attempt.tools.caches.clone(), way(attempt));
    let brought = unless_halted(attempt, move |cancel| {
        if Carried::is_begun(&root) {
            shelf.clear(&root)?;
        }
        let (carried, mut refused) = shelf.bring(&root, way, &name, wanted, cancel)?;
        refused.extend(carried.put_in());
        Ok((carried, refused))
    });
    let (carried, refused) = match brought.await? {
        Ok(brought) => brought,
        Err(error) => {
            attempt.say(&format!("there are no caches: {error}"));
            return Ok(());
        }
    };
    let is_there = |entry: &&Entry| refused.iter().all(|(path, _)| *path != entry.path);
    for entry in carried.entries.iter().filter(is_there) {
        attempt.say(&format!("cache {}: {}, in {} ms", entry.path, content(entry), begun.elapsed().as_millis()));
    }
    tell(attempt, refused);
    show(attempt, &carried).await;
    Ok(())
}

/// Takes the caches out of the attempt's tree, and answers what of them is in it all the same: that is no part of what is made of the tree.
/// No process of the job may run.
///
/// # Errors
/// It cannot be told what of the tree is a cache.
pub(super) async fn take_out(attempt: &Attempt) -> Result<Vec<PathBuf>, Halt> {
    let Some(carried) = Carried::begun(attempt.slot_root()) else { return Ok(Vec::new()) };
    let taken = blocking(move || Ok((carried.take_out()?, carried.left_in()?))).await;
    let (refused, left) = taken.map_err(|error| untold(&error))?;
    for (path, error) in refused {
        attempt.say(&format!("cache {path} stays where the job has it, and is left out of what is made of the tree: {error}"));
    }
    Ok(left)
}

/// What of the caches is in the attempt's tree, where a process of the job may still be at work.
///
/// # Errors
/// As of [`take_out`].
pub(super) async fn left_in(attempt: &Attempt) -> Result<Vec<PathBuf>, Halt> {
    let Some(carried) = Carried::begun(attempt.slot_root()) else { return Ok(Vec::new()) };
    blocking(move || carried.left_in()).await.map_err(|error| untold(&error))
}

fn untold(error: &CacheError) -> Halt {
    Halt::infrastructure("the caches cannot be taken out of the worktree", error)
}

/// Puts them back, for whoever looks for what was built or goes on building. No process of the job may run.
pub(super) async fn put_back(attempt: &Attempt) {
    if let Some(carried) = Carried::find(attempt.slot_root()) {
        tell(attempt, put_in(carried).await);
    }
}

/// Puts onto the ground of a gate what the attempt itself began with: what its job wrote to a cache is not there. `below` says whether the
/// ground is within what the job sees, where nothing is mounted.
///
/// # Errors
/// The attempt is to stop, or meets its deadline.
pub(super) async fn onto_ground(attempt: &Attempt, ground: &Path, below: bool) -> Result<(), Halt> {
    let (Some(carried), Some((_, caches))) = (Carried::find(attempt.slot_root()), project(attempt)) else { return Ok(()) };
    let for_gates = |path: &CachePath| caches.entries.iter().any(|cache| cache.gates && cache.path == *path);
    let entries: Vec<Entry> = carried.entries.into_iter().filter(|entry| for_gates(&entry.path)).collect();
    if entries.is_empty() {
        return Ok(());
    }
    if below && entries.iter().any(|entry| entry.way == Way::Overlay) {
        attempt.say("gates find no caches: none can be mounted where they run");
        return Ok(());
    }
    let ground = ground.to_owned();
    let made = unless_halted(attempt, move |cancel| Carried::repeat(&ground, entries, cancel));
    match made.await? {
        Ok((_, refused)) => tell(attempt, refused),
        Err(error) => attempt.say(&format!("the gate finds no caches: {error}")),
    }
    Ok(())
}

/// How caches come to be here: as the attempt's worktree did. A mount that a container would not see is none of the two then.
fn way(attempt: &Attempt) -> Way {
    let worktree = Worktree::open(&attempt.tools.git, attempt.slot_root());
    if worktree.is_ok_and(|worktree| worktree.base_dir().is_some()) { Way::Overlay } else { Way::Copy }
}

/// The caches whose keys can be told, with them.
async fn keyed(attempt: &Attempt, entries: Vec<CacheConfig>) -> Result<Vec<(CacheConfig, Key)>, Halt> {
    let worktree = Worktree::open(&attempt.tools.git, attempt.slot_root())?;
    let (mut wanted, mut said) = (Vec::new(), BTreeMap::new());
    for cache in entries {
        let toolchain = match toolchain(attempt, &cache, &mut said).await {
            Ok(toolchain) => toolchain,
            Err(why) => {
                attempt.say(&format!("cache {}: none: {why}", cache.path));
                continue;
            }
        };
        let paths = key_files(&cache);
        let objects: Vec<Option<ObjectId>> = within(attempt, worktree.base_objects(paths.clone())).await?;
        let files: Vec<_> = paths.into_iter().zip(objects).collect();
        let key = Key::of(&Facts { path: &cache.path, toolchain: &toolchain, files: &files });
        for missing in cache.key.iter().flatten().filter(|path| !key.files.contains(*path)) {
            attempt.say(&format!("cache {}: the base commit has no {missing}, which its key names", cache.path));
        }
        wanted.push((cache, key));
    }
    Ok(wanted)
}

/// What tells the toolchain of an attempt from others: its image or, on the host, what commands say.
async fn toolchain(attempt: &Attempt, cache: &CacheConfig, said: &mut BTreeMap<String, String>) -> Result<String, String> {
    if let Some(Place::Container { container, .. }) = &attempt.journal.place {
        return Ok(format!("image {}", container.image()));
    }
    let mut all = vec!["host".to_owned()];
    for command in &cache.toolchain {
        if !said.contains_key(command) {
            said.insert(command.clone(), ask(attempt, command).await?);
        }
        all.extend([command.clone(), said[command].clone()]);
    }
    Ok(all.join("\n"))
}

/// Runs a command of the operator's, with what jobs have of the environment, outside of any job's files.
async fn ask(attempt: &Attempt, command: &str) -> Result<String, String> {
    let tools = &attempt.tools;
    let let_through = |name: &String| Some((name.clone(), tools.environment.get(name)?.clone()));
    let mut asking = Command::new("/bin/sh");
    asking.args(["-c", command]).current_dir(tools.state.root()).env_clear();
    asking
        .envs(tools.sandbox.env_allow.iter().filter_map(let_through))
        .envs(tools.environment.get("HOME").map(|home| ("HOME", home)));
    asking.stdin(Stdio::null()).kill_on_drop(true);
    let failed = |why: String| format!("its toolchain cannot be told: `{command}` {why}");
    let answer = tokio::time::timeout(TOOLCHAIN_WITHIN, asking.output()).await;
    let answer = answer.map_err(|_| failed(format!("took longer than {TOOLCHAIN_WITHIN:?}")))?;
    let answer = answer.map_err(|error| failed(format!("cannot be run: {error}")))?;
    if !answer.status.success() {
        return Err(failed(format!("ended with {}: {}", answer.status, String::from_utf8_lossy(&answer.stderr).trim())));
    }
    Ok(String::from_utf8_lossy(&answer.stdout).into_owned())
}

/// What is in a cache at first, in words.
fn content(entry: &Entry) -> String {
    let files = entry.key.files.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    let of = if files.is_empty() { "no lock file".to_owned() } else { files };
    let Some(origin) = &entry.origin else { return format!("empty: none is saved for key {} (of {of})", entry.key.short()) };
    let age = Duration::from_secs(Timestamp::now().since(origin.saved_at).as_secs());
    let what = format!("{}, saved {} ago by job {}", ByteSize(origin.bytes), human::format(age), origin.job);
    if origin.exact {
        return format!("{what} for key {} (of {of})", entry.key.short());
    }
    format!("{what} for key {}; none is saved for key {} (of {of})", origin.key.short(), entry.key.short())
}

/// Has the attempt's container see what is mounted, where it does not by itself.
async fn show(attempt: &mut Attempt, carried: &Carried) {
    let (job, containers) = (attempt.slot.job(), attempt.tools.containers.clone());
    let Some(Place::Container { container, .. }) = &mut attempt.journal.place else { return };
    if propagates(&job) {
        return;
    }
    let mut failed = Vec::new();
    for entry in &carried.entries {
        let (Some(source), Some(place)) = (carried.mounted(entry), carried.place(entry)) else { continue };
        let Ok(within) = place.strip_prefix(&job) else { continue };
        if let Err(error) = containers.show(container, &source, &Path::new(WORKSPACE).join(within)).await {
            failed.push(format!("cache {}: the job does not see it: {error}", entry.path));
        }
    }
    failed.iter().for_each(|line| attempt.say(line));
}

async fn put_in(carried: Carried) -> Vec<(CachePath, CacheError)> {
    blocking(move || Ok(carried.put_in())).await.unwrap_or_default()
}

fn tell(attempt: &Attempt, refused: Vec<(CachePath, CacheError)>) {
    for (path, error) in refused {
        attempt.say(&format!("cache {path}: none: {error}"));
    }
}

/// What is saved once the job is on record as succeeded.
pub(super) struct Pending {
    shelf: Shelf,
    carried: Carried,
    entries: Vec<Entry>,
    saving: Saving,
}

/// What an attempt that has succeeded is to save, which its log says; with the reason, where that is not everything. What comes of it is known
/// when that log has ended, and is in the daemon's.
pub(super) fn pending(attempt: &Attempt, commit: &ObjectId, processes: Processes) -> Option<Pending> {
    let (carried, (name, caches)) = (Carried::find(attempt.slot_root())?, project(attempt)?);
    for entry in &carried.past {
        attempt.say(&format!("cache {} is not saved: {}", entry.path, CacheError::Past));
    }
    let mut entries = Vec::new();
    for entry in &carried.entries {
        let Some(cache) = caches.entries.iter().find(|cache| cache.path == entry.path) else { continue };
        let why = if processes == Processes::Ended {
            unsaved(attempt, caches, cache, entry, &carried)
        } else {
            Some("it is not known whether all processes of the job have ended".to_owned())
        };
        match why {
            Some(why) => attempt.say(&format!("cache {} is not saved: {why}", entry.path)),
            None => {
                attempt.say(&format!("cache {} is to be saved for key {}, once the job is done", entry.path, entry.key.short()));
                entries.push(entry.clone());
            }
        }
    }
    let saving = Saving { project: name.to_owned(), commit: commit.clone(), job: attempt.claimed.claim.job };
    (!entries.is_empty()).then(|| Pending { shelf: attempt.tools.caches.clone(), carried, entries, saving })
}

/// Why a job that succeeded does not save a cache.
fn unsaved(attempt: &Attempt, caches: &ProjectCaches, cache: &CacheConfig, entry: &Entry, carried: &Carried) -> Option<String> {
    let (own, job) = (caches.base.as_deref().unwrap_or(DEFAULT_BASE), &attempt.claimed.job);
    if job.base != own || job.spec.base_from.is_some() {
        return Some(format!("the job began at {}, and only those that begin at {own} save", job.base));
    }
    let backend = attempt.backend.name();
    if let Some(by) = cache.save_by.as_ref().filter(|by| !by.iter().any(|one| one == backend)) {
        return Some(format!("{backend} is none of the backends that save it ({})", by.join(", ")));
    }
    if !carried.is_complete(entry) {
        return Some("it cannot be taken out of the tree, or the job has removed it".to_owned());
    }
    let exact = entry.origin.as_ref().filter(|origin| origin.exact);
    if carried.is_untouched(entry) && (exact.is_some() || entry.origin.is_none()) {
        return Some("nothing was written to it".to_owned());
    }
    let origin = exact?;
    let refresh = attempt.tools.caches.config().refresh;
    let young = Timestamp::now().since(origin.saved_at) < refresh;
    young.then(|| format!("the one that is saved for its key is younger than {} (caches.refresh)", human::format(refresh)))
}

impl Pending {
    /// Saves it. What cannot be saved is said in the daemon's log.
    pub(super) async fn save(self) {
        let Self { shelf, carried, entries, saving } = self;
        let job = saving.job;
        let saved = blocking(move || {
            // What cannot be taken out is not among what is saved.
            drop(carried.take_out()?);
            for entry in &entries {
                match shelf.save(&carried, entry, &saving) {
                    Ok(Some(saved)) => {
                        let (size, key) = (ByteSize(saved.bytes), saved.key.short());
                        info!("saved cache {} of project {} for key {key}: {size}", saved.path, saved.project);
                    }
                    Ok(None) => info!(
                        "cache {} of job {job} is not saved: it is empty, or as it was, or another job saves it just now",
                        entry.path
                    ),
                    Err(error) => warn!("cannot save cache {} of job {job}: {error}", entry.path),
                }
            }
            Ok(())
        });
        if let Err(error) = saved.await {
            warn!("cannot save the caches of job {job}: {error}");
        }
    }
}

/// Runs what blocks, and hears by a token when the attempt is to halt: it is waited for all the same, since nothing is to be moved away
/// under it.
async fn unless_halted<T: Send + 'static>(
    attempt: &Attempt,
    work: impl FnOnce(&CancellationToken) -> Result<T, CacheError> + Send + 'static,
) -> Result<Result<T, CacheError>, Halt> {
    let cancel = CancellationToken::new();
    let heard = cancel.clone();
    let mut working = pin!(blocking(move || work(&heard)));
    let cut = match in_time(attempt, Deadline::work_left, &mut working).await {
        Ok(done) => return Ok(done),
        Err(cut) => cut,
    };
    cancel.cancel();
    // What came of it is of no use any more.
    drop(working.await);
    Err(cut.or(|| Halt::failed(OutcomeClass::Timeout, "the attempt met its deadline while its caches were copied")))
}

/// Runs what blocks where nobody waits for it. It is not given up half-way.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, CacheError> + Send + 'static) -> Result<T, CacheError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime shuts down: this is never asked again.
            Err(_) => std::future::pending().await,
        },
    }
}
