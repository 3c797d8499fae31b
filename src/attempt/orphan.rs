//! Slots whose attempt is nobody's any more: salvaged by the supervisor as its last act, emptied by a daemon that finds them.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::{error, warn};

use super::close;
use super::journal::{Journal, Phase};
use super::place::{Place, Processes};
use crate::caches::{CacheError, Carried};
use crate::git::{Git, GitError, SalvagePush, Worktree};
use crate::ids::ObjectId;
use crate::sandbox::{SandboxError, Supervisor};
use crate::workspace::{Kept, Salvage, SlotDir, StateDir};

/// How long a container's supervisor may take to end its job when the daemon is gone.
const CONTAINER_GOES_WITHIN: Duration = Duration::from_secs(20);

/// The hidden subcommand that salvages a slot.
pub const SALVAGE_SUBCOMMAND: &str = "__salvage";

/// Saves what the attempt in `slot` left uncommitted, by what its journal says, and needs neither configuration nor
/// database. Doing it twice comes to the same. `executable` is the `sawmill` program.
///
/// # Errors
/// The journal or the worktree cannot be used; the slot is left as it is.
pub async fn salvage_orphan(slot: &SlotDir, executable: &Path) -> anyhow::Result<Option<ObjectId>> {
    // Whoever asks for this by its command is their supervisor.
    salvage_after(slot, executable, Processes::Ended).await
}

async fn salvage_after(slot: &SlotDir, executable: &Path, mut processes: Processes) -> anyhow::Result<Option<ObjectId>> {
    let Some(journal) = Journal::read(&slot.journal())? else {
        return Ok(None);
    };
    if !slot.root().join("host.git").exists() {
        return Ok(None);
    }
    // The supervisor of a container ends the job at the same time as that of the slot ends to do this.
    if let Some(Place::Container { container, .. }) = &journal.place
        && !container.wait_until_gone(CONTAINER_GOES_WITHIN).await
    {
        warn!("container {} is not gone; what it writes from now on is not salvaged", container.name);
        processes = Processes::Unknown;
    }
    let git = Git::open(&journal.salvage.git, executable, &journal.salvage.mirrors)?;
    let worktree = match Worktree::open(&git, slot.root()) {
        // It was being made: no job has been in it.
        Err(GitError::NoWorktree { .. }) if matches!(journal.phase, Phase::Preparing) => return Ok(None),
        worktree => worktree?,
    };
    let worktree = worktree.keeping_out(take_out_caches(slot, processes)?);
    let push = match journal.salvage.to {
        Salvage::Remote => SalvagePush::Remote,
        Salvage::Mirror => SalvagePush::Local,
    };
    Ok(worktree.salvage(journal.claim.job, journal.claim.attempt, push).await?)
}

/// Takes the caches out of the tree, unless somebody may be at work in it, who could lead elsewhere what is moved; answers what of them is
/// still there. A salvage by who may not unmount leaves all mounts.
fn take_out_caches(slot: &SlotDir, processes: Processes) -> Result<Vec<PathBuf>, CacheError> {
    let Some(carried) = Carried::begun(slot.root()) else { return Ok(Vec::new()) };
    if processes == Processes::Ended {
        for (path, error) in carried.take_out()? {
            warn!("cache {path} is left out of what is salvaged where it is: {error}");
        }
    }
    carried.left_in()
}

/// Empties such a slot: ends what still runs in it, saves what it left, or keeps the workspace where that cannot be done,
/// and moves the rest to the trash.
///
/// # Errors
/// It cannot be moved; then the slot cannot be used.
pub async fn vacate(slot: &SlotDir, state: &StateDir, executable: &Path) -> io::Result<()> {
    let processes = end_command(slot).await.unwrap_or_else(|error| {
        warn!("cannot end what runs in slot {}: {error}", slot.number());
        Processes::Unknown
    });
    match salvage_after(slot, executable, processes).await {
        Ok(Some(commit)) => warn!("salvaged what an earlier attempt left in slot {} as {commit}", slot.number()),
        Ok(None) => {}
        Err(error) => {
            error!("cannot salvage slot {}: {error:#}; its workspace is kept", slot.number());
            let of = Journal::read(&slot.journal()).ok().flatten().map(|journal| (journal.claim.job, journal.claim.attempt));
            let (kept, left) = (Kept::new(state.kept(), state.trash()), slot.clone());
            let keeping = tokio::task::spawn_blocking(move || kept.keep(&left, of));
            let place = keeping.await?.map_err(io::Error::other)?;
            warn!("the workspace of slot {} is kept at {}", slot.number(), place.display());
        }
    }
    slot.clear(&state.trash())
}

async fn end_command(slot: &SlotDir) -> Result<Processes, SandboxError> {
    let supervisor = Supervisor::attach(&slot.supervisor()).await?;
    if let Some(supervisor) = &supervisor {
        close::end_command(supervisor).await?;
    }
    let place = Journal::read(&slot.journal()).ok().flatten().and_then(|journal| journal.place);
    if let Some(Place::Container { container, .. }) = place {
        return match container.supervisor().shutdown().await {
            Ok(()) | Err(SandboxError::Gone { .. }) => Ok(Processes::Ended),
            Err(error) => Err(error),
        };
    }
    // One that is not there may have been killed, and have left what it ran.
    Ok(if supervisor.is_some() { Processes::Ended } else { Processes::Unknown })
}
