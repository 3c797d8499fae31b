//! `sawmill pauses`: credentials that are used up for now.

use super::args::PausesCommand;
use super::client::{Client, escape};
use super::error::{CliError, Exit};
use super::output::{Output, talk};
use super::table::{Cell, age};
use crate::api::wire::Page;
use crate::clock::{Timestamp, human};
use crate::job::Pause;

/// Carries out a command about pauses.
pub(super) async fn run(client: &Client, out: &Output, command: Option<PausesCommand>) -> Result<Exit, CliError> {
    match command {
        None | Some(PausesCommand::List) => list(client, out).await,
        Some(PausesCommand::Lift { credential }) => {
            let lifted: Pause = client.post_bytes(&format!("/v1/pauses/{}/lift", escape(&credential)), Vec::new()).await?;
            if out.is_json() {
                out.document(&lifted)?;
            } else {
                out.line(&format!("{credential} is tried again; it was paused until {}", lifted.until))?;
            }
            Ok(Exit::Done)
        }
    }
}

async fn list(client: &Client, out: &Output) -> Result<Exit, CliError> {
    let page: Page<Pause> = client.get("/v1/pauses").await?;
    if out.is_json() {
        out.document(&page)?;
        return Ok(Exit::Done);
    }
    if page.items.is_empty() {
        talk("no credential is paused");
        return Ok(Exit::Done);
    }
    let now = Timestamp::now();
    let row = |pause: &Pause| {
        let seconds = std::time::Duration::from_secs(pause.until.since(now).as_secs());
        vec![
            Cell::new(&pause.credential),
            Cell::new(age(pause.since, now)),
            Cell::new(human::format(seconds)),
            Cell::new(pause.until),
            Cell::new(if pause.reset_known { "told" } else { "guessed" }),
            Cell::new(pause.times),
            Cell::new(&pause.reason),
        ]
    };
    let rows: Vec<Vec<Cell>> = page.items.iter().map(row).collect();
    out.rows(&["CREDENTIAL", "SINCE", "LEFT", "UNTIL", "RESET", "TIMES", "REASON"], &rows)?;
    Ok(Exit::Done)
}
