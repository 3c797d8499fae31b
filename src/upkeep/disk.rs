//! `sawmill disk`: what a worker takes on its host's disk, by class, and what a further job is expected to take.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use bytesize::ByteSize;
use serde::Serialize;

use crate::cli::{Cell, Exit, Output};
use crate::daemon::Composition;
use crate::janitor::{Counter, Measured, Space, measure};
use crate::sandbox::container::Images;
use crate::worker::{Costs, pressure_now};
use crate::workspace::{SlotDir, StateDir};

/// How many files of a class are counted; a class with more is shown as "at least".
const ENTRIES_MAX: u64 = 2_000_000;

#[derive(Serialize)]
struct Ledger {
    classes: Vec<Class>,
    free_bytes: Option<u64>,
    free_inodes: Option<u64>,
    /// What is to stay free.
    reserve_bytes: u64,
    /// How many inodes are to stay free.
    reserve_inodes: u64,
    /// What a further job is expected to take.
    job_bytes: u64,
    /// How many inodes it is expected to take.
    job_inodes: u64,
    /// Whether a further job fits.
    fits: bool,
    repositories: Vec<Repository>,
}

#[derive(Serialize)]
struct Class {
    class: &'static str,
    bytes: u64,
    entries: u64,
    /// Whether everything was counted.
    whole: bool,
    what: &'static str,
}

#[derive(Serialize)]
struct Repository {
    mirror: String,
    attempts: usize,
    most_bytes: u64,
    last_bytes: u64,
}

/// Counts and shows it. Files with several names are counted once, in the first class that has one, and holes are not counted.
///
/// # Errors
/// The directory cannot be used, or the output cannot be written.
pub async fn disk(composition: &Composition, out: &Output) -> anyhow::Result<Exit> {
    let config = composition.config();
    let state = StateDir::create(&config.worker.state_dir)?;
    let database = config.queue.url.strip_prefix("sqlite:").map(PathBuf::from);
    let counted = state.clone();
    let mut classes = tokio::task::spawn_blocking(move || count(&counted, database.as_deref())).await??;
    if let Ok(images) = Images::connect(&config.container.socket).await
        && let Ok(images) = images.list().await
    {
        let bytes = images.iter().map(|image| image.bytes).sum();
        let what = "images of jobs, as the engine says; layers that they share are counted for each";
        classes.push(Class { class: "images", bytes, entries: images.len() as u64, whole: true, what });
    }
    let pressure = pressure_now(&config.worker);
    let (limits, free_bytes, free_inodes) = (&pressure.limits, pressure.disk_free_bytes, pressure.inodes_free);
    let known = Costs::open(state.root(), config.worker.admission.disk_job).known();
    let repositories = known.into_iter().map(|(mirror, cost)| Repository {
        mirror,
        attempts: cost.len(),
        most_bytes: cost.iter().map(|cost| cost.bytes).max().unwrap_or(0),
        last_bytes: cost.back().map_or(0, |cost| cost.bytes),
    });
    let ledger = Ledger {
        free_bytes,
        free_inodes,
        reserve_bytes: limits.disk_free_bytes,
        reserve_inodes: limits.inodes_free,
        job_bytes: limits.disk_job_bytes,
        job_inodes: limits.inodes_job,
        fits: free_bytes.is_none_or(|free| free >= limits.disk_needed_bytes())
            && free_inodes.is_none_or(|free| free >= limits.inodes_needed()),
        repositories: repositories.collect(),
        classes,
    };
    if out.is_json() {
        out.document(&ledger)?;
    } else {
        show(&ledger, out)?;
    }
    Ok(Exit::Done)
}

fn count(state: &StateDir, database: Option<&Path>) -> std::io::Result<Vec<Class>> {
    let of = |class, what, measured: Measured| Class {
        class,
        bytes: measured.bytes,
        entries: measured.entries,
        whole: measured.whole,
        what,
    };
    let sum = |all: Vec<Measured>| {
        all.into_iter().fold(Measured { whole: true, ..Measured::default() }, |sum, one| Measured {
            bytes: sum.bytes + one.bytes,
            entries: sum.entries + one.entries,
            whole: sum.whole && one.whole,
        })
    };
    let mut counter = Counter::default();
    let mut below = |part: &str| counter.measure(&state.root().join(part), ENTRIES_MAX);
    let (mirrors, bases, caches) = (below("mirrors"), below("bases"), below("caches"));
    let slots = state.slots()?;
    let mut of_slots =
        |part: fn(&SlotDir) -> PathBuf| sum(slots.iter().map(|slot| counter.measure(&part(slot), ENTRIES_MAX)).collect());
    let (spools, recycled) = (of_slots(SlotDir::run), of_slots(SlotDir::recycled));
    let counted = |slot: &SlotDir| [slot.run(), slot.recycled()].map(|path| path.file_name().unwrap_or_default().to_owned());
    let worktrees = slots.iter().map(|slot| {
        let counted = counted(slot);
        counter.measure_but(slot.root(), &counted.each_ref().map(OsString::as_os_str), ENTRIES_MAX)
    });
    let worktrees = sum(worktrees.collect());
    let mut below = |part: &str| counter.measure(&state.root().join(part), ENTRIES_MAX);
    let mut classes = vec![
        of("mirrors", "copies of remotes, which all worktrees borrow from", mirrors),
        of("bases", "checkouts that worktrees stand on, up to workspace.bases", bases),
        of("caches", "what jobs saved for later ones, up to caches.size", caches),
        of("worktrees", "what jobs wrote, beside their bases", worktrees),
        of("recycled", "trees of jobs that ended, with which the next ones begin", recycled),
        of("spools", "output and journals of attempts", spools),
        of("kept", "workspaces that are kept for people, until workspace.ttl", below("kept")),
        of("artifacts", "files that are kept of attempts, until their job is removed", below("artifacts")),
        of("trash", "what is being deleted", below("trash")),
        of("containers", "what supervisors of containers keep, and their program", below("containers")),
    ];
    if let Some(database) = database {
        let file = |suffix: &str| measure(Path::new(&format!("{}{suffix}", database.display())), 1);
        classes.push(of("database", "the queue, with logs", sum(vec![file(""), file("-wal"), file("-shm")])));
    }
    Ok(classes)
}

fn show(ledger: &Ledger, out: &Output) -> anyhow::Result<()> {
    let rows: Vec<Vec<Cell>> = ledger
        .classes
        .iter()
        .map(|Class { class, bytes, entries, whole, what }| {
            let least = if *whole { "" } else { "at least " };
            vec![Cell::new(class), Cell::new(format!("{least}{}", ByteSize(*bytes))), Cell::new(entries), Cell::new(what)]
        })
        .collect();
    out.rows(&["CLASS", "SIZE", "FILES", "WHAT"], &rows)?;
    if !ledger.repositories.is_empty() {
        let rows: Vec<Vec<Cell>> = ledger
            .repositories
            .iter()
            .map(|Repository { mirror, attempts, most_bytes, last_bytes }| {
                let sizes = [most_bytes, last_bytes].map(|bytes| Cell::new(ByteSize(*bytes)));
                [vec![Cell::new(mirror), Cell::new(attempts)], sizes.into()].concat()
            })
            .collect();
        out.line("")?;
        out.rows(&["REPOSITORY", "ATTEMPTS", "MOST", "LAST"], &rows)?;
    }
    let free = ledger.free_bytes.map_or_else(|| "unknown".to_owned(), |bytes| ByteSize(bytes).to_string());
    let inodes = ledger.free_inodes.map_or_else(String::new, |inodes| format!(" and {inodes} inodes"));
    let job = Space { bytes: ledger.job_bytes, inodes: ledger.job_inodes };
    let reserve = Space { bytes: ledger.reserve_bytes, inodes: ledger.reserve_inodes };
    let fits = if ledger.fits { "a further job fits" } else { "no further job fits" };
    Ok(out.line(&format!("\n{free}{inodes} free; a job is expected to take {job}, and {reserve} are to stay free: {fits}"))?)
}
