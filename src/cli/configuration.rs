//! `sawmill config show`: what is in force, and where it comes from.

use super::args::ConfigCommand;
use super::client::Client;
use super::error::{CliError, Exit};
use super::output::Output;
use super::table::Cell;
use crate::api::wire::{Configuration, Setting};

/// Carries out a command about the configuration.
pub(super) async fn run(client: &Client, out: &Output, command: ConfigCommand) -> Result<Exit, CliError> {
    let ConfigCommand::Show { origin } = command;
    let configuration: Configuration = client.get("/v1/config").await?;
    if out.is_json() {
        out.document(&configuration)?;
    } else if origin {
        let row = |setting: &Setting| vec![Cell::new(&setting.key), Cell::new(&setting.origin), Cell::new(&setting.value)];
        out.rows(&["KEY", "ORIGIN", "VALUE"], &configuration.settings.iter().map(row).collect::<Vec<_>>())?;
    } else {
        for setting in &configuration.settings {
            out.line(&format!("{} = {}", setting.key, setting.value))?;
        }
    }
    Ok(Exit::Done)
}
