//! Where a gate runs: a clean checkout of the very commit that will be delivered, with an empty home and an empty directory for temporary
//! files.
//!
//! The one rule: each gate has one of its own, and nothing of it comes from the job or from another gate. The job's worktree
//! stays as it is, and is what is salvaged. In a container what is new is shown over what the job saw, so that the paths are the same.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::halt::Halt;
use super::open::Attempt;
use super::place::{CONTAINER_TMP, Paths, Place};
use super::prepare::{within, write_spec};
use crate::git::{Strategy, Worktree};
use crate::ids::ObjectId;
use crate::sandbox::container::WORKSPACE;
use crate::workspace::SlotDir;

/// The ground of the gate that was last begun: whole once the journal names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ground {
    /// The gate's number.
    gate: usize,
    /// Where it is.
    lies: Lies,
}

/// Where a ground is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Lies {
    /// Beside the job's directory.
    Outside,
    /// Within it: nothing else can be shown to the container.
    Within,
}

/// Makes the ground of a gate, unless a daemon before this one did and the gate may have begun. Says by which names the gate
/// knows it.
pub(super) async fn make(attempt: &mut Attempt, gate: usize, commit: &ObjectId) -> Result<Paths, Halt> {
    match attempt.journal.ground {
        Some(ground) if ground.gate >= gate => return Ok(paths(attempt, ground.lies)),
        _ => {}
    }
    let begun = Instant::now();
    let mut lies = Lies::Outside;
    let mut how = lay(attempt, lies, commit).await?;
    if let Err(why) = show(attempt).await {
        attempt.say(&format!(
            "gates run below the job's directory, where a gate's tree is at another path than the job's was: {why}"
        ));
        lies = Lies::Within;
        how = lay(attempt, lies, commit).await?;
    }
    attempt.journal.ground = Some(Ground { gate, lies });
    attempt.enter(attempt.journal.phase.clone())?;
    attempt.say(&format!("a clean checkout of {}, as {how}, in {} ms", commit.short(), begun.elapsed().as_millis()));
    Ok(paths(attempt, lies))
}

/// Puts the files where they are to be, in place of those of the gate before.
async fn lay(attempt: &Attempt, lies: Lies, commit: &ObjectId) -> Result<Strategy, Halt> {
    let (files, strategy) = match lies {
        Lies::Outside => (attempt.slot.gates(), Strategy::Auto),
        Lies::Within => (attempt.slot.gates_within(), Strategy::Checkout),
    };
    let failed = |error| Halt::infrastructure("cannot make the place in which gates run", &error);
    attempt.slot.reset_gates(&files, &attempt.tools.state.trash()).map_err(failed)?;
    // As every other directory for temporary files: a container's first process may not be the user of its commands.
    fs::set_permissions(files.tmp(), fs::Permissions::from_mode(0o1777)).map_err(failed)?;
    let worktree = Worktree::open(&attempt.tools.git, attempt.slot_root())?;
    let how = within(attempt, worktree.check_out_clean(commit, files.root(), strategy)).await?;
    write_spec(attempt, &files.spec())?;
    Ok(how)
}

/// Has the container of the attempt see the ground, where it has one. The error says why it cannot.
async fn show(attempt: &mut Attempt) -> Result<(), String> {
    let gates = attempt.slot.gates();
    let containers = attempt.tools.containers.clone();
    let Some(Place::Container { container, .. }) = &mut attempt.journal.place else { return Ok(()) };
    for (source, target) in [(gates.job(), WORKSPACE), (gates.tmp(), CONTAINER_TMP)] {
        if let Err(error) = containers.show(container, &source, Path::new(target)).await {
            return Err(error.to_string());
        }
    }
    Ok(())
}

fn paths(attempt: &Attempt, lies: Lies) -> Paths {
    let slot = &attempt.slot;
    let files: SlotDir = if lies == Lies::Outside { slot.gates() } else { slot.gates_within() };
    match (&attempt.journal.place, lies) {
        (Some(Place::Host) | None, _) => Paths::on_host(&files),
        (Some(Place::Container { .. }), Lies::Outside) => {
            Paths { tmp: CONTAINER_TMP.into(), ..Paths::in_container(&files, &files.job()) }
        }
        (Some(Place::Container { .. }), Lies::Within) => Paths::in_container(&files, &slot.job()),
    }
}
