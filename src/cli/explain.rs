//! `sawmill job explain`: why a job does not run, and what would change that.

use super::client::Client;
use super::error::{CliError, Exit};
use super::output::Output;
use super::table::{Cell, age, plain};
use crate::ids::JobId;
use crate::job::Explanation;

/// Says why a job does not run: one sentence, then each worker, then what would change it.
pub(super) async fn run(client: &Client, out: &Output, id: JobId) -> Result<Exit, CliError> {
    let found: Explanation = client.get(&format!("/v1/jobs/{id}/explain")).await?;
    if out.is_json() {
        out.document(&found)?;
        return Ok(Exit::Done);
    }
    out.line(&plain(&found.answer))?;
    if let Some(start_by) = found.start_by {
        out.line(&format!("it fails unless it has started by {start_by}"))?;
    }
    if !found.workers.is_empty() {
        let rows: Vec<Vec<Cell>> = found
            .workers
            .iter()
            .map(|worker| {
                vec![
                    Cell::new(&worker.worker),
                    Cell::state(worker.state),
                    Cell::new(age(worker.seen_at, found.at)),
                    Cell::new(&worker.answer),
                ]
            })
            .collect();
        out.line("")?;
        out.rows(&["WORKER", "STATE", "SEEN", "WHY NOT THERE"], &rows)?;
    }
    if !found.changes.is_empty() {
        out.line(if found.state.is_final() { "\nwhat to do next:" } else { "\nwhat would change it:" })?;
    }
    found.changes.iter().try_for_each(|change| out.line(&format!("- {}", plain(change))))?;
    let said = |change: &&String| found.changes.contains(change);
    let elsewhere = found.workers.iter().flat_map(|worker| &worker.changes).filter(|change| !said(change));
    let elsewhere: Vec<String> = elsewhere.map(|change| format!("- {}", plain(change))).collect();
    if !elsewhere.is_empty() {
        out.line("\nwhat would change it on one worker:")?;
    }
    elsewhere.iter().try_for_each(|line| out.line(line))?;
    Ok(Exit::Done)
}
