//! `sawmill workers`: who works, by their own account.

use std::time::Duration;

use super::args::WorkersCommand;
use super::client::{Client, escape};
use super::error::{CliError, Exit};
use super::output::{Output, talk};
use super::table::{Cell, age};
use crate::api::wire::Page;
use crate::clock::Timestamp;
use crate::store::{WorkerRecord, WorkerState};

/// Carries out a command about workers.
pub(super) async fn run(client: &Client, out: &Output, command: WorkersCommand) -> Result<Exit, CliError> {
    match command {
        WorkersCommand::List => list(client, out).await,
        WorkersCommand::Show { id } => {
            let worker: WorkerRecord = client.get(&format!("/v1/workers/{}", escape(id.as_str()))).await?;
            show(out, &worker)
        }
    }
}

/// How long ago a worker that is at work has reported at most.
const AT_WORK: Duration = Duration::from_secs(60);

/// Says so where nobody is there to take a job: who waits would wait in vain.
pub(super) async fn hint_at_none(client: &Client) {
    // A hint, after what was asked for is done: a failure of its own is not worth a word.
    let Ok(page) = client.get::<Page<WorkerRecord>>("/v1/workers").await else { return };
    let now = Timestamp::now();
    let at_work = |worker: &WorkerRecord| worker.state != WorkerState::Stopped && now.since(worker.seen_at) < AT_WORK;
    if !page.items.iter().any(at_work) {
        talk("no worker is there to take it; start one with: sawmill up");
    }
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
    let rows: Vec<Vec<Cell>> = page
        .items
        .iter()
        .map(|worker| {
            vec![
                Cell::new(&worker.id),
                Cell::state(worker.state),
                Cell::new(age(worker.seen_at, now)),
                Cell::new(worker.slots),
                Cell::new(&worker.host),
                Cell::new(worker.backends.join(",")),
                Cell::new(&worker.version),
            ]
        })
        .collect();
    out.rows(&["WORKER", "STATE", "SEEN", "SLOTS", "HOST", "BACKENDS", "VERSION"], &rows)?;
    Ok(Exit::Done)
}

fn show(out: &Output, worker: &WorkerRecord) -> Result<Exit, CliError> {
    if out.is_json() {
        out.document(worker)?;
        return Ok(Exit::Done);
    }
    out.fields(&[
        ("worker", Cell::new(&worker.id)),
        ("state", Cell::state(worker.state)),
        ("host", Cell::new(&worker.host)),
        ("version", Cell::new(&worker.version)),
        ("process", Cell::new(worker.pid)),
        ("boot", Cell::new(&worker.boot_id)),
        ("slots", Cell::new(worker.slots)),
        ("labels", Cell::new(worker.labels.join(", "))),
        ("backends", Cell::new(worker.backends.join(", "))),
        ("started", Cell::new(worker.started_at)),
        ("seen", Cell::new(worker.seen_at)),
    ])?;
    Ok(Exit::Done)
}
