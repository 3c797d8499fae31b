//! The containers of a worker, and when nothing is made or removed among them.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::image;

/// The states of the containers of a worker.
pub(crate) fn owned(state: &Path) -> Vec<String> {
    let filter = format!("label=sawmill.state={}", state.canonicalize().unwrap_or_else(|_| state.to_owned()).display());
    docker(&["ps", "-a", "--filter", &filter, "--format", "{{.State}}"]).lines().map(str::to_owned).collect()
}

/// Waits until a worker has so many containers, and no other one that is being made or removed.
pub(crate) async fn settled(state: &Path, count: usize) {
    loop {
        let states = owned(state);
        if states.len() == count && states.iter().all(|state| state == "running") {
            break;
        }
        // Each look is a process of Docker's client, and the engine's work: not at once again.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Until its supervisor answers, and it is on its shelf, which no client of the daemon is told.
    tokio::time::sleep(Duration::from_millis(500)).await;
}

/// Docker's own client.
pub(crate) fn client() -> Command {
    let mut command = Command::new("docker");
    command.arg("-H").arg(format!("unix://{}", image::socket().display()));
    command
}

pub(crate) fn docker(args: &[&str]) -> String {
    let output = client().args(args).output().expect("docker runs");
    assert!(output.status.success(), "docker {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
