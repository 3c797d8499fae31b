//! Salvage of a slot whose daemon is gone: run by the supervisor as its last act, and by a daemon that finds the slot.

use super::journal::Journal;
use crate::git::{Git, SalvagePush, Worktree};
use crate::ids::ObjectId;
use crate::workspace::{Salvage, SlotDir};

/// The hidden subcommand that salvages a slot.
pub const SALVAGE_SUBCOMMAND: &str = "__salvage";

/// Saves what the attempt in `slot` left uncommitted, by what its journal says, and needs neither configuration nor
/// database. Doing it twice comes to the same.
///
/// # Errors
/// The journal or the worktree cannot be used; the slot is left as it is.
pub async fn salvage_orphan(slot: &SlotDir) -> anyhow::Result<Option<ObjectId>> {
    let Some(journal) = Journal::read(&slot.journal())? else {
        return Ok(None);
    };
    if !slot.root().join("host.git").exists() {
        return Ok(None);
    }
    let git = Git::open(&journal.salvage.git, &journal.salvage.mirrors)?;
    let worktree = Worktree::open(&git, slot.root())?;
    let push = match journal.salvage.to {
        Salvage::Remote => SalvagePush::Remote,
        Salvage::Mirror => SalvagePush::Local,
    };
    Ok(worktree.salvage(journal.claim.job, journal.claim.attempt, push).await?)
}
