//! `sawmill reconcile`, and `sawmill gc`, which makes room as well.

use std::path::PathBuf;

use bytesize::ByteSize;

use crate::caches::Shelf;
use crate::cli::{Cell, Exit, Output};
use crate::daemon::{Composition, executable};
use crate::git::{Bases, Git};
use crate::janitor::{Fate, Finding, Kind, Mode};
use crate::sandbox::Roster;
use crate::sandbox::container::{AGENT_IMAGE, Containers, ContainersSetup, Images};
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
/// where the disk lacks room, mirrors that no job has used for long. Then those that are due are maintained and pruned.
///
/// # Errors
/// The directory cannot be used, or the output cannot be written.
pub async fn gc(composition: &Composition, mode: Mode, out: &Output) -> anyhow::Result<Exit> {
    let (config, visitor) = (composition.config(), visitor(composition).await?);
    let reclaim = Reclaim {
        bases: Bases::open(&visitor.git, config.workspace.bases)?,
        caches: visitor.caches.clone(),
        git: visitor.git.clone(),
        ttl: config.workspace.ttl,
        wanted: worker::space_lacking(&worker::pressure_now(&config.worker)),
    };
    let mut found = worker::reconcile(&visitor, Some(reclaim), mode).await?;
    let due = Due { maintenance: visitor.git.unmaintained(config.git.maintenance), pruning: visitor.git.unpruned() };
    for finding in found.findings.iter_mut().filter(|one| one.kind == Kind::Mirror && one.fate == Fate::Stays) {
        look_after(&visitor.git, finding, &due, mode).await;
    }
    if let Ok(images) = Images::connect(&config.container.socket).await {
        let container = &config.container;
        match images.clear_superseded(AGENT_IMAGE, &container.image, container.image_ttl, mode).await {
            Ok(more) => found.findings.extend(more),
            Err(error) => found.unseen.push(format!("images: {error}")),
        }
    }
    report(&found, out)
}

/// The mirrors for which something is due.
struct Due {
    maintenance: Vec<PathBuf>,
    pruning: Vec<PathBuf>,
}

/// Maintains and prunes a mirror that stays, where that is due.
async fn look_after(git: &Git, finding: &mut Finding, due: &Due, mode: Mode) {
    let mirror = PathBuf::from(&finding.name);
    let (unmaintained, unpruned) = (due.maintenance.contains(&mirror), due.pruning.contains(&mirror));
    if mode == Mode::List {
        let due = [(unmaintained, "maintenance"), (unpruned, "a look for objects that nobody needs")];
        for (_, what) in due.into_iter().filter(|(due, _)| *due) {
            finding.why += &format!("; it is due for {what}");
        }
        return;
    }
    if unmaintained {
        match git.maintain(&mirror).await {
            Ok(done) => {
                finding.why += &format!("; it was maintained, its objects took {} before", ByteSize(done.before_bytes));
                finding.bytes = Some(done.after_bytes);
            }
            Err(error) => (finding.fate, finding.why) = (Fate::Failed, error.to_string()),
        }
    }
    if unpruned {
        match git.prune(&mirror).await {
            Ok(true) => finding.why += "; what nobody needs of it was removed",
            Ok(false) => {}
            Err(error) => (finding.fate, finding.why) = (Fate::Failed, error.to_string()),
        }
    }
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
