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

use super::carry;
use super::halt::Halt;
use super::open::Attempt;
use super::place::{self, CONTAINER_TMP, Paths, Place};
use super::prepare::{within, write_spec};
use super::written::Moment;
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
    /// How much was in the attempt's output before the gate's.
    pub(super) stdout_from: u64,
    /// As `stdout_from`, of the error output.
    pub(super) stderr_from: u64,
    /// What was changed later the gate has changed. Known where it is to write reports.
    #[serde(default)]
    pub(super) since: Option<Moment>,
    /// Where the gate's output begins in the attempt's log: known once it is about to be started, and to whoever takes it up the same.
    #[serde(default)]
    pub(super) log_from: Option<u64>,
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
    if let Some(ground) = attempt.journal.ground
        && ground.gate >= gate
    {
        return Ok(paths(attempt, ground.lies));
    }
    let begun = Instant::now();
    let mut lies = Lies::Outside;
    // What the gate before saw goes before its files do: a mount does not outlive the directory that it is over.
    place::uncover(attempt).await?;
    let mut how = lay(attempt, lies, commit).await?;
    if let Err(why) = show(attempt).await {
        place::uncover(attempt).await?;
        attempt.say(&format!(
            "gates run below the job's directory, where a gate's tree is at another path than the job's was: {why}"
        ));
        lies = Lies::Within;
        how = lay(attempt, lies, commit).await?;
    }
    let length = |path| fs::metadata(path).map_or(0, |about| about.len());
    let (stdout_from, stderr_from) = (length(attempt.spool.stdout()), length(attempt.spool.stderr()));
    let since = since(attempt, gate, files_at(attempt, lies).root()).await?;
    attempt.journal.ground = Some(Ground { gate, lies, stdout_from, stderr_from, since, log_from: None });
    attempt.enter(attempt.journal.phase.clone())?;
    attempt.say(&format!("a clean checkout of {}, as {how}, in {} ms", commit.short(), begun.elapsed().as_millis()));
    Ok(paths(attempt, lies))
}

/// The moment at which everything is there that the gate does not write, where it is to write anything that is read.
async fn since(attempt: &Attempt, gate: usize, root: &Path) -> Result<Option<Moment>, Halt> {
    if attempt.gates().get(gate).is_none_or(|gate| gate.patterns().next().is_none()) {
        return Ok(None);
    }
    let (root, failed) = (root.to_owned(), "cannot tell what a gate will write");
    let taken = tokio::task::spawn_blocking(move || Moment::take(&root)).await;
    let taken = taken.map_err(|error| Halt::infrastructure(failed, &error))?;
    taken.map(Some).map_err(|error| Halt::infrastructure(failed, &error))
}

/// Puts the files where they are to be, in place of those of the gate before.
async fn lay(attempt: &Attempt, lies: Lies, commit: &ObjectId) -> Result<Strategy, Halt> {
    let files = files_at(attempt, lies);
    let strategy = if lies == Lies::Outside { Strategy::Auto } else { Strategy::Checkout };
    let failed = |error| Halt::infrastructure("cannot make the place in which gates run", &error);
    attempt.slot.reset_gates(&files, &attempt.tools.state.trash()).map_err(failed)?;
    // As every other directory for temporary files: a container's first process may not be the user of its commands.
    fs::set_permissions(files.tmp(), fs::Permissions::from_mode(0o1777)).map_err(failed)?;
    let worktree = Worktree::open(&attempt.tools.git, attempt.slot_root())?;
    let how = within(attempt, worktree.check_out_clean(commit, files.root(), strategy)).await?;
    carry::onto_ground(attempt, files.root(), lies == Lies::Within).await?;
    write_spec(attempt, &files.spec())?;
    Ok(how)
}

/// Has the container of the attempt see the ground, where it has one. The error says why it cannot.
async fn show(attempt: &mut Attempt) -> Result<(), String> {
    let gates = attempt.slot.gates();
    let (containers, hides_tmp) = (attempt.tools.containers.clone(), hides_tmp(attempt));
    let Some(Place::Container { container, .. }) = &mut attempt.journal.place else { return Ok(()) };
    let tmp = (gates.tmp(), CONTAINER_TMP);
    for (source, target) in std::iter::once((gates.job(), WORKSPACE)).chain(hides_tmp.then_some(tmp)) {
        containers.show(container, &source, Path::new(target)).await.map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// Whether the directory for temporary files is shown over that of the container. Not where the mirror is below it, whose objects the
/// container has by the path that they have on the host: then it is another directory, and the job's files stay in the first.
fn hides_tmp(attempt: &Attempt) -> bool {
    !attempt.tools.state.root().starts_with(CONTAINER_TMP)
}

/// The files of a ground.
pub(super) fn files(attempt: &Attempt, ground: Ground) -> SlotDir {
    files_at(attempt, ground.lies)
}

fn files_at(attempt: &Attempt, lies: Lies) -> SlotDir {
    match lies {
        Lies::Outside => attempt.slot.gates(),
        Lies::Within => attempt.slot.gates_within(),
    }
}

fn paths(attempt: &Attempt, lies: Lies) -> Paths {
    let (slot, files) = (&attempt.slot, files_at(attempt, lies));
    match (&attempt.journal.place, lies) {
        (Some(Place::Host) | None, _) => Paths::on_host(&files),
        (Some(Place::Container { .. }), Lies::Outside) if hides_tmp(attempt) => {
            Paths { tmp: CONTAINER_TMP.into(), ..Paths::in_container(&files, &files.job()) }
        }
        (Some(Place::Container { .. }), Lies::Outside) => Paths::in_container(&files, &files.job()),
        (Some(Place::Container { .. }), Lies::Within) => Paths::in_container(&files, &slot.job()),
    }
}
