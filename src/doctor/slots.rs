//! The slots of the worker of this state directory, as it reported them last.

use super::checks::{flawed, good};
use super::{Finding, State};
use crate::config::Config;
use crate::job::worker_record::{SlotContent, WorkerState};
use crate::store::Store;
use crate::worker::name_of;
use crate::workspace::StateDir;

const CHECK: &str = "slots";

/// Whether the worker has slots that it cannot use; nothing where none runs here, or nobody knows.
pub(super) async fn check(config: &Config, store: &Store) -> Option<Finding> {
    let state = StateDir::create(&config.worker.state_dir).ok()?;
    let worker = store.worker(&name_of(&state, &config.worker.name)?).await.ok()?;
    if matches!(worker.state, WorkerState::Stopped | WorkerState::Offline) {
        return None;
    }
    let (name, slots) = (&worker.report.id, &worker.report.slots);
    let broken: Vec<String> = slots
        .iter()
        .filter_map(|slot| match &slot.content {
            SlotContent::Broken { reason, since } => Some(format!("{reason} (since {since})")),
            SlotContent::Free | SlotContent::Busy { .. } => None,
        })
        .collect();
    if broken.is_empty() {
        return Some(good(CHECK, format!("{} of worker {name}, none broken", slots.len())));
    }
    let state = if broken.len() == slots.len() { State::Bad } else { State::Warning };
    let remedy = "take away what is in the way; the worker tries again by itself, every minute at least";
    Some(flawed(CHECK, state, broken.join("; "), remedy))
}
