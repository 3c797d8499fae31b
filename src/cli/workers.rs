//! `sawmill workers`: who works, by their own account.

use super::args::WorkersCommand;
use super::client::{Client, escape};
use super::error::{CliError, Exit};
use super::output::Output;
use super::table::{Cell, age};
use crate::api::wire::Page;
use crate::clock::Timestamp;
use crate::store::WorkerRecord;

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

async fn list(client: &Client, out: &Output) -> Result<Exit, CliError> {
    let page: Page<WorkerRecord> = client.get("/v1/workers").await?;
    if out.is_json() {
        out.document(&page)?;
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
