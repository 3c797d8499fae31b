//! `sawmill workers`: who works, by their own account, and draining them.

use std::time::Duration;

use bytesize::ByteSize;

use super::args::WorkersCommand;
use super::client::{Client, escape};
use super::error::{CliError, Exit};
use super::output::{Output, talk};
use super::table::{Cell, age};
use crate::api::wire::{DrainRequest, Page};
use crate::clock::Timestamp;
use crate::ids::WorkerId;
use crate::janitor::host_name;
use crate::store::{Drain, Pressure, SlotContent, SlotRecord, WorkerRecord, WorkerState};

/// How often a worker that drains is looked at.
const LOOK: Duration = Duration::from_millis(300);

/// Carries out a command about workers.
pub(super) async fn run(client: &Client, out: &Output, command: WorkersCommand) -> Result<Exit, CliError> {
    match command {
        WorkersCommand::List => list(client, out).await,
        WorkersCommand::Show { id } => show(out, &client.get(&path(&id, "")).await?),
        WorkersCommand::Drain { id, reason, wait } => {
            let request = DrainRequest { by: Some(own_name()), reason };
            let worker: WorkerRecord = client.post(&path(&id, "/drain"), &request).await?;
            if wait { drained(client, out, &id).await } else { tell(out, &worker, &draining(&worker)) }
        }
        WorkersCommand::Resume { id } => {
            let worker: WorkerRecord = client.post_bytes(&path(&id, "/resume"), Vec::new()).await?;
            let line = match worker.state {
                WorkerState::Stopped | WorkerState::Offline => format!("{id} will take jobs again when it is started"),
                _ => format!("{id} is free to take jobs again"),
            };
            tell(out, &worker, &line)
        }
    }
}

fn path(id: &WorkerId, rest: &str) -> String {
    format!("/v1/workers/{}{rest}", escape(id.as_str()))
}

/// Who asks: the user of this process and its host.
pub(super) fn own_name() -> String {
    let user = nix::unistd::User::from_uid(nix::unistd::getuid()).ok().flatten().map(|user| user.name);
    format!("{}@{}", user.unwrap_or_else(|| nix::unistd::getuid().to_string()), host_name())
}

fn tell(out: &Output, worker: &WorkerRecord, line: &str) -> Result<Exit, CliError> {
    if out.is_json() {
        out.document(worker)?;
    } else {
        out.line(line)?;
    }
    Ok(Exit::Done)
}

fn draining(worker: &WorkerRecord) -> String {
    let id = &worker.report.id;
    match worker.state {
        WorkerState::Stopped => {
            format!("{id} is not running; it will take no jobs when it is started, until: sawmill workers resume {id}")
        }
        _ => format!("{id} drains, with {} left; it takes no more until: sawmill workers resume {id}", jobs(worker.jobs)),
    }
}

fn jobs(count: u32) -> String {
    if count == 1 { "1 job".to_owned() } else { format!("{count} jobs") }
}

/// Waits until a worker that drains has no job left.
async fn drained(client: &Client, out: &Output, id: &WorkerId) -> Result<Exit, CliError> {
    let mut told = None;
    loop {
        let worker: WorkerRecord = client.get(&path(id, "")).await?;
        if worker.drain.is_none() {
            return Err(CliError::TimedOut(format!("{id} was resumed before it had drained; see: sawmill workers show {id}")));
        }
        if worker.is_drained() {
            return tell(out, &worker, &format!("{id} has no job left"));
        }
        if told.replace(worker.jobs) != Some(worker.jobs) {
            talk(&format!("{id} has {} left", jobs(worker.jobs)));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Says so where nobody takes jobs: who waits would wait in vain. Whether there was anything to say.
pub(super) async fn hint_at_none(client: &Client) -> bool {
    // A hint, after what was asked for is done: a failure of its own is not worth a word.
    let Ok(page) = client.get::<Page<WorkerRecord>>("/v1/workers").await else { return false };
    let of = |state: WorkerState| page.items.iter().find(|worker| worker.state == state);
    if of(WorkerState::Running).is_some() {
        return false;
    }
    match of(WorkerState::Paused).or_else(|| of(WorkerState::Draining)) {
        Some(worker) => {
            let id = &worker.report.id;
            talk(&format!("no worker takes jobs now; {id} is {}: {}", worker.state, note(worker).unwrap_or_default()));
        }
        None => talk("no worker is there to take it; start one with: sawmill up"),
    }
    true
}

async fn list(client: &Client, out: &Output) -> Result<Exit, CliError> {
    let page: Page<WorkerRecord> = client.get("/v1/workers").await?;
    if out.is_json() {
        out.document(&page)?;
        return Ok(Exit::Done);
    }
    if page.items.is_empty() {
        talk("no worker has ever reported; start one with: sawmill up");
        return Ok(Exit::Done);
    }
    let now = Timestamp::now();
    let rows: Vec<Vec<Cell>> = page.items.iter().map(|worker| row(worker, now)).collect();
    out.rows(&["WORKER", "STATE", "SEEN", "JOBS", "SLOTS", "HOST", "BACKENDS", "LABELS", "VERSION", "NOTE"], &rows)?;
    Ok(Exit::Done)
}

fn row(worker: &WorkerRecord, now: Timestamp) -> Vec<Cell> {
    let report = &worker.report;
    vec![
        Cell::new(&report.id),
        Cell::state(worker.state),
        Cell::new(age(report.seen_at, now)),
        Cell::new(worker.jobs),
        Cell::new(report.slots.len()),
        Cell::new(&report.host),
        Cell::new(list_of(report.backends.iter().map(|backend| &backend.name))),
        labels(worker),
        Cell::new(&report.version),
        Cell::maybe(note(worker)),
    ]
}

fn list_of<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(",")
}

/// What a person should know of a worker that does not just run.
fn note(worker: &WorkerRecord) -> Option<String> {
    let mut notes = Vec::new();
    if let Some(drain) = &worker.drain {
        let (by, why) = (&drain.asked_by, why(drain));
        notes.push(match worker.is_drained() {
            true => format!("drained, asked by {by}{why}"),
            false => format!("{} left, drain asked by {by}{why}", jobs(worker.jobs)),
        });
    }
    if worker.state != WorkerState::Stopped
        && let Some(shortage) = &worker.report.pressure.shortage
    {
        notes.push(shortage.reason.clone());
    }
    if worker.state != WorkerState::Stopped
        && let Some(failure) = &worker.report.claiming.failure
    {
        notes.push(format!("cannot claim jobs: {}", failure.reason));
    }
    if worker.state != WorkerState::Stopped {
        notes.extend(paused(worker));
    }
    let broken = |slot: &&SlotRecord| matches!(slot.content, SlotContent::Broken { .. });
    match worker.report.slots.iter().filter(broken).count() {
        0 => {}
        1 => notes.push("1 slot is broken".to_owned()),
        count => notes.push(format!("{count} slots are broken")),
    }
    Some(notes.join("; ")).filter(|note| !note.is_empty())
}

/// What it does not start because a credential is used up.
fn paused(worker: &WorkerRecord) -> impl Iterator<Item = String> {
    worker.pauses.iter().map(|pause| {
        let drawing = worker.report.backends.iter().filter(|backend| backend.credential == pause.credential);
        let backends = list_of(drawing.map(|backend| &backend.name));
        format!("{backends} paused until {} (credential {})", pause.until, pause.credential)
    })
}

fn show(out: &Output, worker: &WorkerRecord) -> Result<Exit, CliError> {
    if out.is_json() {
        out.document(worker)?;
        return Ok(Exit::Done);
    }
    let report = &worker.report;
    let backends = report.backends.iter().map(|backend| match list_of(&backend.capabilities) {
        offers if offers.is_empty() => backend.name.clone(),
        offers => format!("{} ({offers})", backend.name),
    });
    let drain = worker.drain.as_ref().map(|drain| format!("asked by {} at {}{}", drain.asked_by, drain.asked_at, why(drain)));
    let short = report.pressure.shortage.as_ref().map(|shortage| format!("{}, since {}", shortage.reason, shortage.since));
    let [memory, stalls, disk, inodes] = pressure(&report.pressure);
    let slots: Vec<(String, Cell)> =
        report.slots.iter().map(|slot| (format!("slot {}", slot.number), Cell::new(in_slot(&slot.content)))).collect();
    let mut fields = vec![
        ("worker", Cell::new(&report.id)),
        ("state", Cell::state(worker.state)),
        ("drain", Cell::maybe(drain)),
        ("short of", Cell::maybe(short)),
        ("paused", Cell::maybe(Some(paused(worker).collect::<Vec<_>>().join("; ")).filter(|paused| !paused.is_empty()))),
        ("host", Cell::new(&report.host)),
        ("version", Cell::new(&report.version)),
        ("process", Cell::new(report.pid)),
        ("boot", Cell::new(&report.boot_id)),
        ("labels", labels(worker)),
        ("backends", Cell::new(backends.collect::<Vec<_>>().join(", "))),
        ("memory", memory),
        ("memory stalls", stalls),
        ("disk", disk),
        ("inodes", inodes),
        ("jobs", Cell::new(worker.jobs)),
    ];
    fields.extend(slots.iter().map(|(name, cell)| (name.as_str(), cell.clone())));
    let no_engine = report.claiming.no_engine.as_ref();
    fields
        .extend(no_engine.map(|failure| ("containers", Cell::new(format!("none since {}: {}", failure.since, failure.reason)))));
    fields.extend([("started", Cell::new(report.started_at)), ("seen", Cell::new(report.seen_at))]);
    out.fields(&fields)?;
    Ok(Exit::Done)
}

fn labels(worker: &WorkerRecord) -> Cell {
    Cell::maybe(Some(list_of(&worker.report.labels)).filter(|labels| !labels.is_empty()))
}

fn why(drain: &Drain) -> String {
    if drain.reason.is_empty() { String::new() } else { format!(": {}", drain.reason) }
}

/// Memory, stalls, disk and inodes, each with its limit.
fn pressure(pressure: &Pressure) -> [Cell; 4] {
    let (limits, size) = (&pressure.limits, |bytes: u64| ByteSize(bytes).to_string());
    let stalls = Some(limits.memory_stalled_percent).filter(|most| *most > 0).map(|most| format!("at most {most} %"));
    [
        measured(pressure.memory_available_bytes.map(size), "available", least(limits.memory_available_bytes, size)),
        measured(pressure.memory_stalled_percent.map(|percent| format!("{percent} %")), "of the time", stalls),
        measured(pressure.disk_free_bytes.map(size), "free", least(limits.disk_needed_bytes(), size)),
        measured(pressure.inodes_free, "free", least(limits.inodes_needed(), |count| count.to_string())),
    ]
}

fn least(value: u64, form: impl Fn(u64) -> String) -> Option<String> {
    (value > 0).then(|| format!("at least {}", form(value)))
}

/// A figure with its limit.
fn measured(value: Option<impl ToString>, of: &str, limit: Option<String>) -> Cell {
    let limit = limit.map_or_else(|| "no limit".to_owned(), |limit| format!("claims need {limit}"));
    Cell::maybe(value.map(|value| format!("{} {of} ({limit})", value.to_string())))
}

fn in_slot(content: &SlotContent) -> String {
    match content {
        SlotContent::Free => "free".to_owned(),
        SlotContent::Busy { job, attempt, stage, since } => {
            let stage = stage.map_or_else(String::new, |stage| format!(" in {stage}"));
            format!("job {job}, attempt {attempt}{stage}, since {since}")
        }
        SlotContent::Broken { reason, since } => format!("broken since {since}: {reason}"),
    }
}
