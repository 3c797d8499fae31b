//! Starting the backend for a job, and taking what its run leaves beside its result.
//!
//! The one rule: what the daemon writes where a job can reach is moved there, and what it takes from there is moved away first: the job
//! may have put anything in its place.

use std::fs;
use std::path::PathBuf;

use tracing::warn;

use super::halt::Halt;
use super::open::Attempt;
use super::place::Place;
use super::prepare;
use crate::backends::{AGENT_EXECUTABLE, AGENT_SUBCOMMAND, Backend, Started};
use crate::job::OutcomeClass;
use crate::redact::Redactor;
use crate::workspace::SlotDir;

/// How the backend is to be started for this job.
pub(super) fn start(attempt: &Attempt) -> Result<Started, Halt> {
    let started = attempt.backend.start(&prepare::document(attempt));
    started.map_err(|error| Halt::failed(OutcomeClass::Invalid, error.to_string()))
}

/// The command line for that, where the attempt runs.
pub(super) fn argv(attempt: &Attempt, started: Started) -> Result<Vec<String>, Halt> {
    let order = match started {
        Started::By(argv) => return Ok(argv),
        Started::Inside(order) => order,
    };
    let failed = |error: &dyn std::error::Error| Halt::infrastructure("cannot write the agent's order", error);
    let bytes = serde_json::to_vec_pretty(&order).map_err(|error| failed(&error))?;
    let draft = attempt.slot.run().join("agent.json");
    fs::write(&draft, bytes).and_then(|()| fs::rename(&draft, attempt.slot.order())).map_err(|error| failed(&error))?;
    let paths = attempt.paths();
    let path = |path: PathBuf| path.to_string_lossy().into_owned();
    let mut argv = match &attempt.journal.place {
        Some(Place::Container { container, .. }) => container.program(),
        Some(Place::Host) | None => vec![AGENT_EXECUTABLE.to_owned()],
    };
    argv.extend([AGENT_SUBCOMMAND.to_owned(), path(paths.order), path(paths.events)]);
    Ok(argv)
}

/// Reads what it left. That is as large as the job wants, up to a limit, and so is read off the threads on which others wait.
pub(super) async fn read<T: Send + 'static>(
    attempt: &Attempt,
    reading: impl FnOnce(&Backend, &SlotDir, &Redactor) -> T + Send + 'static,
) -> Result<T, Halt> {
    let (backend, slot, redactor) = (attempt.backend.clone(), attempt.slot.clone(), attempt.redactor.clone());
    let read = tokio::task::spawn_blocking(move || reading(&backend, &slot, &redactor)).await;
    read.map_err(|error| Halt::infrastructure("cannot read what the backend left", &error))
}

/// The events of all rounds so far that were taken out of the job's reach, by their names.
pub(super) fn kept_events(attempt: &Attempt) -> Vec<(String, PathBuf)> {
    let all = (0..=attempt.round()).map(events_of).map(|name| (name.clone(), attempt.slot.run().join(name)));
    all.filter(|(_, path)| path.symlink_metadata().is_ok_and(|about| about.is_file())).collect()
}

fn events_of(round: usize) -> String {
    if round == 0 { "events.jsonl".to_owned() } else { format!("events-{round}.jsonl") }
}

/// Takes an agent's raw events out of the job's reach, to the other files of the attempt.
pub(super) fn keep_events(attempt: &Attempt) {
    let (from, to) = (attempt.slot.events(), attempt.slot.run().join(events_of(attempt.round())));
    // Only a plain file is one: anything else was put there by the job.
    if from.symlink_metadata().is_ok_and(|about| about.is_file())
        && let Err(error) = fs::rename(&from, to)
    {
        warn!("cannot keep the events of job {}: {error}", attempt.claimed.claim.job);
    }
}
