//! The labels by which a container is known to be ours: whose it is, for which slot, of what it was made, and by which daemon.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use super::recipe::Recipe;
use crate::janitor::{Owner, Process};

/// The worker's state directory, of which one daemon at a time is the master: by this a worker finds its containers.
pub(super) const STATE: &str = "sawmill.state";
const WORKER: &str = "sawmill.worker";
const SLOT: &str = "sawmill.slot";
const NONCE: &str = "sawmill.nonce";
const RECIPE: &str = "sawmill.recipe";
/// The boot on which the daemon ran that made it, and its process: number and start time in clock ticks.
const BOOT: &str = "sawmill.boot";
const DAEMON: &str = "sawmill.daemon";

/// What a container's labels say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tag {
    pub(super) slot: u32,
    pub(super) nonce: String,
    pub(super) recipe: Recipe,
}

/// The labels of a container that this process makes.
pub(super) fn write(worker: &str, state: &Path, tag: &Tag) -> BTreeMap<String, String> {
    let own = Process::own();
    let recipe = serde_json::to_string(&tag.recipe).expect("a recipe is made of texts and numbers");
    [
        (STATE, state.to_string_lossy().into_owned()),
        (WORKER, worker.to_owned()),
        (SLOT, tag.slot.to_string()),
        (NONCE, tag.nonce.clone()),
        (RECIPE, recipe),
        (BOOT, own.boot),
        (DAEMON, format!("{} {}", own.pid, own.began)),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// Reads them back; nothing where they are not whole, or of another build.
pub(super) fn read(labels: &HashMap<String, String>) -> Option<Tag> {
    let label = |name: &str| labels.get(name).map(String::as_str);
    Some(Tag {
        slot: label(SLOT)?.parse().ok()?,
        nonce: label(NONCE)?.to_owned(),
        recipe: serde_json::from_str(label(RECIPE)?).ok()?,
    })
}

/// Which daemon made what has these labels; that of its state directory where they do not say.
pub(super) fn owner(labels: &HashMap<String, String>) -> Owner {
    let process = || {
        let (pid, began) = labels.get(DAEMON)?.split_once(' ')?;
        let boot = labels.get(BOOT).filter(|boot| !boot.is_empty())?.clone();
        // The boot tells one host from another.
        Some(Process { host: String::new(), boot, pid: pid.parse().ok()?, began: began.parse().ok()? })
    };
    process().map_or(Owner::Directory, Owner::Process)
}

/// What the directory of the container's supervisor is named by.
pub(super) fn nonce(labels: &HashMap<String, String>) -> Option<&str> {
    labels.get(NONCE).map(String::as_str).filter(|nonce| !nonce.is_empty() && !nonce.contains(['/', '.']))
}
