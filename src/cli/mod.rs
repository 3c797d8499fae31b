//! The command line: a client of the API, and the door to what works on this host.
//!
//! The one rule: a client command goes through [`Client`], to a server with `--server` and else to the same router in this
//! process, so that there is one set of rules and one wire format. Commands that work on this host (`demo`, `up`, `serve`,
//! `worker`, `doctor`, `migrate`, `version`) are parsed here and carried out by whoever calls [`run`].

mod args;
mod artifacts;
mod budget;
mod client;
mod completions;
mod completions_args;
mod configuration;
mod enqueue;
mod enqueue_args;
mod enqueue_terms;
mod error;
mod events;
mod explain;
mod fates;
mod forecast;
mod jobs;
mod logs;
mod output;
mod pauses;
mod table;
mod workers;

use clap::{CommandFactory as _, FromArgMatches as _};

pub use args::{Args, BackendsCommand, ClientCommand, Command, DemoArgs, Global, HostCommand, ImagesCommand, JobCommand};
pub use client::{Broken, Client};
pub use error::{CliError, Exit};
pub use output::{Captured, Form, Output, talk};
pub use table::{Cell, age, plain, span};

/// Reads the process's command line. Ends the process where that is wrong, or asks for help or for `version`.
#[must_use]
pub fn parse(version: &'static str) -> Args {
    let matches = Args::command().version(version).get_matches();
    Args::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

/// What a client command needs of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// All of it, over the configured database.
    Database,
    /// What it says of the configuration, which needs no database.
    Configuration,
}

/// Does what the command line says, and says on standard error why not where it does not.
///
/// `router` is called for client commands without `--server`: it builds the API over what the command needs.
/// `host` is called for commands of this host, which handle signals themselves.
pub async fn run<R, H>(args: Args, router: R, host: H) -> Exit
where
    R: AsyncFnOnce(&Global, Needs) -> Result<axum::Router, CliError>,
    H: AsyncFnOnce(HostCommand, &Global) -> Result<Exit, CliError>,
{
    let Args { global, command } = args;
    let ended = match command {
        Command::Host(command) => host(command, &global).await,
        Command::Completion { shell } => write_completion(shell),
        Command::Client(command) => {
            tokio::select! {
                ended = ask(command, &global, router) => ended,
                _ = tokio::signal::ctrl_c() => Ok(Exit::Interrupted),
            }
        }
    };
    match ended {
        Ok(exit) => exit,
        Err(error) => {
            if !matches!(error, CliError::ReaderGone) {
                output::complain(&error.sentence());
            }
            error.exit()
        }
    }
}

async fn ask<R>(command: ClientCommand, global: &Global, router: R) -> Result<Exit, CliError>
where
    R: AsyncFnOnce(&Global, Needs) -> Result<axum::Router, CliError>,
{
    let needs = if matches!(command, ClientCommand::Config(_)) { Needs::Configuration } else { Needs::Database };
    let client = match &global.server {
        Some(url) => Client::http(url)?,
        None => Client::InProcess(router(global, needs).await?),
    };
    let form = if global.json { Form::Json } else { Form::Text };
    perform(&client, &Output::new(form), command).await
}

/// Carries out a client command.
///
/// # Errors
/// Why it was not done.
pub async fn perform(client: &Client, out: &Output, command: ClientCommand) -> Result<Exit, CliError> {
    match command {
        ClientCommand::Enqueue(args) => enqueue::run(client, out, *args).await,
        ClientCommand::Jobs(args) => jobs::list(client, out, args).await,
        ClientCommand::Job(command) => jobs::run(client, out, command).await,
        ClientCommand::Logs(args) => logs::run(client, out, args).await,
        ClientCommand::Completions(command) => completions::run(client, out, command).await,
        ClientCommand::Workers(command) => workers::run(client, out, command).await,
        ClientCommand::Budget(args) => budget::run(client, out, args).await,
        ClientCommand::Pauses { command } => pauses::run(client, out, command).await,
        ClientCommand::Config(command) => configuration::run(client, out, command).await,
    }
}

fn write_completion(shell: clap_complete::Shell) -> Result<Exit, CliError> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "sawmill", &mut script);
    Output::new(Form::Text).bytes(&script)?;
    Ok(Exit::Done)
}
