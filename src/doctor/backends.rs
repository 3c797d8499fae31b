//! `sawmill backends`: what is configured, what it can do, and whether it is there; and what an agent is told.

use serde::Serialize;

use super::probe::{self, Found, Probed};
use super::{Finding, State, Stop, checks};
use crate::backends::{Abilities, Backend, BackendError, Kind, Registry};
use crate::cli::{BackendsCommand, Cell, Exit, Output};
use crate::daemon::Composition;

/// Does what a command asks for.
///
/// # Errors
/// The configuration of a backend cannot work, there is none of that name, or the output cannot be written.
pub async fn backends(command: &BackendsCommand, composition: &Composition, stop: &Stop, out: &Output) -> anyhow::Result<Exit> {
    let registry = Registry::new(&composition.config().backends)?;
    match command {
        BackendsCommand::List => list(composition, &registry, stop, out).await,
        BackendsCommand::Show { name } => show(&registry, name, out),
    }
}

/// The check of those whose programs can be asked.
pub(super) async fn check(composition: &Composition, stop: &Stop) -> Vec<Finding> {
    let registry = match Registry::new(&composition.config().backends) {
        Ok(registry) => registry,
        Err(error) => {
            return vec![checks::flawed("backends", State::Bad, error.to_string(), "mend that section of the configuration")];
        }
    };
    let found = probe::all(composition.config(), composition.environment(), &registry, stop).await;
    found.iter().filter_map(finding).collect()
}

fn finding(probed: &Probed) -> Option<Finding> {
    let places = [("on the host", &probed.host), ("in the image", &probed.image)];
    let told: Vec<String> = places.iter().filter_map(|(place, found)| Some(told(place, found.as_ref()?))).collect();
    let (seen, all) = (format!("{}: {}", probed.backend, told.join("; ")), places.iter().filter_map(|(_, found)| found.as_ref()));
    let (there, not): (Vec<&Found>, Vec<&Found>) = all.partition(|found| matches!(found, Found::Version(_)));
    let remedy = "install it there, name its program with command, or run jobs where it is (see docs/backends.md)";
    match (there.is_empty(), not.is_empty()) {
        (true, true) => None,
        (false, true) => Some(checks::good("backend", seen)),
        (false, false) => Some(checks::flawed("backend", State::Warning, seen, remedy)),
        (true, false) => Some(checks::flawed("backend", State::Bad, seen, remedy)),
    }
}

fn told(place: &str, found: &Found) -> String {
    match found {
        Found::Version(version) => format!("{version} {place}"),
        Found::Not(why) => format!("{place}, {why}"),
    }
}

#[derive(Serialize)]
struct Row {
    name: String,
    kind: Kind,
    abilities: Abilities,
    probed: Probed,
}

async fn list(composition: &Composition, registry: &Registry, stop: &Stop, out: &Output) -> anyhow::Result<Exit> {
    let probing = probe::all(composition.config(), composition.environment(), registry, stop);
    let Some(found) = stop.unless_asked(probing).await else { return Ok(Exit::Interrupted) };
    let rows: Vec<Row> = registry
        .all()
        .zip(found)
        .map(|(backend, probed)| Row {
            name: backend.name().to_owned(),
            kind: backend.kind(),
            abilities: backend.abilities(),
            probed,
        })
        .collect();
    if out.is_json() {
        out.document(&rows)?;
        return Ok(Exit::Done);
    }
    let cells: Vec<Vec<Cell>> = rows
        .iter()
        .map(|row| {
            let cell = |found: &Option<Found>| match found {
                None => Cell::new("-"),
                Some(Found::Version(version)) => Cell::new(version),
                Some(Found::Not(why)) => Cell::new(why),
            };
            let abilities = words(row.abilities);
            vec![Cell::new(&row.name), Cell::new(row.kind), Cell::new(abilities), cell(&row.probed.host), cell(&row.probed.image)]
        })
        .collect();
    out.rows(&["NAME", "KIND", "CAN", "ON THE HOST", "IN THE IMAGE"], &cells)?;
    Ok(Exit::Done)
}

fn words(abilities: Abilities) -> String {
    let Abilities { edits, revises, resumes, reports_usage } = abilities;
    let all = [(edits, "edit"), (revises, "revise"), (resumes, "resume"), (reports_usage, "report usage")];
    let words: Vec<&str> = all.iter().filter(|(can, _)| *can).map(|(_, word)| *word).collect();
    if words.is_empty() { "run a command".to_owned() } else { words.join(", ") }
}

fn show(registry: &Registry, name: &str, out: &Output) -> anyhow::Result<Exit> {
    let Some(backend) = registry.get(name) else {
        return Err(BackendError::Unknown { name: name.to_owned(), known: registry.names() }.into());
    };
    if out.is_json() {
        let (kind, abilities) = (backend.kind(), backend.abilities());
        let document = serde_json::json!({ "name": name, "kind": kind, "abilities": abilities, "env": backend.env(), "warmup": backend.warmup(), "prompt": backend.template() });
        out.document(&document)?;
        return Ok(Exit::Done);
    }
    about(backend, out)?;
    Ok(Exit::Done)
}

fn about(backend: &Backend, out: &Output) -> anyhow::Result<()> {
    out.line(&format!("{} is of kind {}, and can {}", backend.name(), backend.kind(), words(backend.abilities())))?;
    if !backend.env().is_empty() {
        out.line(&format!("it gets {} of the worker's environment", backend.env().join(", ")))?;
    }
    if let Some(argv) = backend.warmup() {
        out.line(&format!("workers warm it up with {}", argv.join(" ")))?;
    }
    if let Some(template) = backend.template() {
        out.line("it is told:")?;
        out.line("")?;
        out.line(template.trim_end())?;
    }
    Ok(())
}
