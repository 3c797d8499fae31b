//! Slots whose attempt is nobody's any more: salvaged by the supervisor as its last act, emptied by a daemon that finds them.

use std::io;
use std::path::Path;
use std::time::Duration;

use tracing::{error, warn};

use super::close;
use super::journal::{Journal, Phase};
use super::place::Place;
use crate::caches::Carried;
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
    }
    let git = Git::open(&journal.salvage.git, executable, &journal.salvage.mirrors)?;
    let worktree = match Worktree::open(&git, slot.root()) {
        // It was being made: no job has been in it.
        Err(GitError::NoWorktree { .. }) if matches!(journal.phase, Phase::Preparing) => return Ok(None),
        worktree => worktree?,
    };
    if let Some(carried) = Carried::find(slot.root()) {
        carried.take_out()?;
    }
    let push = match journal.salvage.to {
        Salvage::Remote => SalvagePush::Remote,
        Salvage::Mirror => SalvagePush::Local,
    };
    Ok(worktree.salvage(journal.claim.job, journal.claim.attempt, push).await?)
}

/// Empties such a slot: ends what still runs in it, saves what it left, or keeps the workspace where that cannot be done,
/// and moves the rest to the trash.
///
/// # Errors
/// It cannot be moved; then the slot cannot be used.
pub async fn vacate(slot: &SlotDir, state: &StateDir, executable: &Path) -> io::Result<()> {
    if let Err(error) = end_command(slot).await {
        warn!("cannot end what runs in slot {}: {error}", slot.number());
    }
    match salvage_orphan(slot, executable).await {
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

async fn end_command(slot: &SlotDir) -> Result<(), SandboxError> {
    if let Some(supervisor) = Supervisor::attach(&slot.supervisor()).await? {
        close::end_command(&supervisor).await?;
    }
    let place = Journal::read(&slot.journal()).ok().flatten().and_then(|journal| journal.place);
    if let Some(Place::Container { container, .. }) = place {
        match container.supervisor().shutdown().await {
            Ok(()) | Err(SandboxError::Gone { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
