//! `sawmill reconcile`.

use bytesize::ByteSize;

use crate::cli::{Cell, Exit, Output};
use crate::daemon::{Composition, executable};
use crate::git::Git;
use crate::janitor::{Fate, Finding, Mode};
use crate::sandbox::Roster;
use crate::sandbox::container::{Containers, ContainersSetup};
use crate::worker::{self, Reconciled, Visitor};
use crate::workspace::StateDir;

/// Lists every owned thing of the state directory, with what becomes of it and why; removes what goes where that is wanted. The exit
/// status is 1 when something could not be removed.
///
/// # Errors
/// The directory cannot be used, or the output cannot be written.
pub async fn reconcile(composition: &Composition, mode: Mode, out: &Output) -> anyhow::Result<Exit> {
    let found = worker::reconcile(visitor(composition).await?, mode).await?;
    if out.is_json() {
        out.document(&found)?;
    } else {
        show(&found, out)?;
    }
    let failed = found.findings.iter().any(|finding| finding.fate == Fate::Failed);
    Ok(if failed { Exit::Failed } else { Exit::Done })
}

async fn visitor(composition: &Composition) -> anyhow::Result<Visitor> {
    let config = composition.config();
    let state = StateDir::create(&config.worker.state_dir)?;
    let executable = executable()?;
    let containers = Containers::open(ContainersSetup {
        config: config.container.clone(),
        worker: config.worker.name.clone(),
        state: state.root().to_owned(),
        executable: executable.clone(),
        orphan_after: config.queue.lease,
        roster: Roster::default(),
    })?;
    Ok(Visitor {
        git: Git::open(&config.git, &executable, &state.mirrors())?,
        containers,
        store: composition.store().await.map_err(|error| format!("{error:#}")),
        executable,
        salvage_ttl: config.workspace.salvage_ttl,
        state,
    })
}

fn show(found: &Reconciled, out: &Output) -> anyhow::Result<()> {
    let rows: Vec<Vec<Cell>> = found
        .findings
        .iter()
        .map(|Finding { kind, name, owner, fate, why, bytes }| {
            let word = match fate {
                Fate::Stays => "stays",
                Fate::Goes => "goes",
                Fate::Removed => "removed",
                Fate::Failed => "failed",
            };
            let size = Cell::maybe(bytes.map(ByteSize));
            vec![Cell::state(word), Cell::new(kind), Cell::new(name), Cell::new(owner), size, Cell::new(why)]
        })
        .collect();
    if rows.is_empty() {
        out.line("nothing of a worker is here")?;
    } else {
        out.rows(&["FATE", "KIND", "WHAT", "WHOSE", "SIZE", "WHY"], &rows)?;
    }
    for what in &found.unseen {
        out.line(&format!("not looked at: {what}"))?;
    }
    Ok(())
}
