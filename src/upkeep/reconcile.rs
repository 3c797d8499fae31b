//! `sawmill reconcile`, and `sawmill gc`, which makes room as well.

use bytesize::ByteSize;

use crate::caches::Shelf;
use crate::cli::{Cell, Exit, Output};
use crate::daemon::{Composition, executable};
use crate::git::{Bases, Git};
use crate::janitor::{Fate, Finding, Kind, Mode};
use crate::sandbox::Roster;
use crate::sandbox::container::{Containers, ContainersSetup};
use crate::worker::{self, Reclaim, Reconciled, Visitor};
use crate::workspace::StateDir;

/// Lists every owned thing of the state directory, with what becomes of it and why; removes what goes where that is wanted. The exit
/// status is 1 when something could not be removed.
///
/// # Errors
/// The directory cannot be used, or the output cannot be written.
pub async fn reconcile(composition: &Composition, mode: Mode, out: &Output) -> anyhow::Result<Exit> {
    report(&worker::reconcile(&visitor(composition).await?, None, mode).await?, out)
}

/// As [`reconcile`], and makes room: the trash, kept workspaces whose time is over, bases and saved caches beyond their budgets or
/// where the disk lacks room. Then the mirrors that are due are maintained.
///
/// # Errors
/// The directory cannot be used, or the output cannot be written.
pub async fn gc(composition: &Composition, mode: Mode, out: &Output) -> anyhow::Result<Exit> {
    let (config, visitor) = (composition.config(), visitor(composition).await?);
    let limits = worker::pressure_now(&config.worker);
    let target = limits.limits.disk_needed_bytes();
    let target = target.saturating_add(target / 4);
    let reclaim = Reclaim {
        bases: Bases::open(&visitor.git, config.workspace.bases)?,
        caches: visitor.caches.clone(),
        ttl: config.workspace.ttl,
        wanted: limits.disk_free_bytes.map_or(0, |free| target.saturating_sub(free)),
    };
    let mut found = worker::reconcile(&visitor, Some(reclaim), mode).await?;
    for mirror in visitor.git.unmaintained(config.git.maintenance) {
        let (fate, why, bytes) = match mode {
            Mode::List => (Fate::Stays, "nothing is pruned from a mirror; it is due for maintenance".to_owned(), None),
            Mode::Apply => match visitor.git.maintain(&mirror).await {
                Ok(done) => {
                    let before = ByteSize(done.before_bytes);
                    let why = format!("nothing is pruned from a mirror; it was maintained, its objects took {before} before");
                    (Fate::Stays, why, Some(done.after_bytes))
                }
                Err(error) => (Fate::Failed, error.to_string(), None),
            },
        };
        let (name, owner) = (mirror.display().to_string(), "the worker of this directory".to_owned());
        found.findings.push(Finding { kind: Kind::Mirror, name, owner, fate, why, bytes });
    }
    report(&found, out)
}

fn report(found: &Reconciled, out: &Output) -> anyhow::Result<Exit> {
    if out.is_json() {
        out.document(found)?;
    } else {
        show(found, out)?;
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
        caches: Shelf::open(state.root(), &config.caches)?,
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
