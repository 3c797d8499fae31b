//! The verdict on a job's work does not rest on its word: what it leaves, hides or claims is of no use to it.

mod checks;
mod coverage;
mod critics;
mod evidence;
mod own;
mod retries;
pub(crate) mod revisions;
mod tampering;
mod vacuous;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sawmill::ids::JobId;
use sawmill::job::{Completion, JobState, OutcomeClass};
use serde_json::{Value, json};

use crate::delivery::host::{Host, Lodging, On};
use crate::delivery::remote::publish;

/// A lease that no test outlives.
const LONG: Duration = Duration::from_secs(600);

async fn host(lodging: Lodging) -> Host {
    Host::new(On::Sqlite, LONG, 1).await.lodge(lodging).await
}

/// A host whose workers have containers, and their state not below `/tmp`, as where they are installed: the containers' own `/tmp` can be
/// hidden from gates.
async fn installed() -> Host {
    Host::below(Path::new("/var/tmp"), On::Sqlite, LONG, 1).await.lodge(Lodging::InContainers).await
}

/// A bare repository with these files.
fn remote(root: &Path, files: &[(&str, &str)]) -> PathBuf {
    let seed = root.join("seed");
    for (path, contents) in files {
        let path = seed.join(path);
        fs::create_dir_all(path.parent().expect("it has one")).expect("directories");
        fs::write(path, contents).expect("a file");
    }
    publish(&seed, &root.join("remote.git"))
}

/// A job that runs this command, judged by gates of these commands.
fn job(remote: &Path, command: &str, gates: &[&str]) -> Value {
    let gates: Vec<Value> =
        gates.iter().enumerate().map(|(number, gate)| json!({ "name": format!("gate-{number}"), "command": gate })).collect();
    json!({ "repo": remote, "task": { "command": command }, "gates": gates })
}

async fn delivered(host: &Host, job: JobId) -> Completion {
    host.succeeded(job).await;
    host.completions(Some(job)).await.remove(0).completion
}

/// Why a job was rejected, after nothing of it was delivered.
async fn rejected(host: &Host, job: JobId) -> String {
    let ended = host.ended(job).await;
    let outcome = ended.outcome.expect("it has ended");
    assert_eq!((ended.state, outcome.class), (JobState::Failed, OutcomeClass::Gate), "{}\n{}", outcome.message, host.logs());
    assert_eq!(host.completions(Some(job)).await, []);
    outcome.message
}
