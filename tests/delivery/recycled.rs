//! Jobs that follow each other in one slot whose worktrees are recycled.

use std::fs;

use nix::sys::signal::Signal;
use sawmill::job::{JobState, Stream};
use serde_json::{Value, json};

use super::daemon::Seat;
use super::host::{Host, On, until};
use super::remote::small_remote;
use crate::crash::LONG;

/// Says which file the README is, and all that is not as it was checked out.
const LOOK: &str =
    "stat -c %i README.md; git status --porcelain --ignored; ls -d left .git/hooks 2>/dev/null; git config --get core.pager";

fn answer(host: &Host, args: &[&str]) -> Value {
    let said = host.command(&Seat::of("a"), args).arg("--json").output().expect("the program runs");
    assert!(said.status.success(), "{args:?}: {}", String::from_utf8_lossy(&said.stderr));
    serde_json::from_slice(&said.stdout).expect("JSON")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_job_of_a_repository_begins_with_the_last_ones_files_and_nothing_else_of_it() {
    let mut host = Host::new(On::Sqlite, LONG, 1).await;
    host.set("SAWMILL_WORKSPACE__STRATEGY", "recycled");
    let remote = small_remote(host.root(), "remote.git");
    let slot = host.state_dir("a").join("slots/0");
    let job = |command: String| json!({ "repo": remote, "changes": "none", "task": { "command": command } });
    let mut worker = host.start("a").await;
    assert!(worker.log().contains("worktrees are made by recycled: workspace.strategy says so"), "{}", worker.log());

    let smuggling = "mkdir -p .git/hooks && touch .git/hooks/pre-commit && mkdir left && git config core.pager evil";
    let first = host.enqueue(&job(format!("{LOOK}; {smuggling}")));
    let failing = "mkdir left; exit 1";
    host.succeeded(first).await;
    // The slot is cleared when the job's end is on record.
    until("it waits as it was left", async || slot.join("recycled/tree/left").exists()).await;
    let second = host.enqueue(&job(format!("{LOOK}; true")));
    host.succeeded(second).await;
    let said = [host.log(first, 1, Stream::Stdout).await, host.log(second, 1, Stream::Stdout).await];
    assert_eq!(said[0], said[1], "the same file, and nothing beside it");
    assert_eq!(said[0].lines().count(), 1, "{said:?}");

    // What a job leaves whose processes did not end by themselves in time is not used again.
    let mut slow = job("mkdir left; sleep 600".to_owned());
    slow["timeout"] = json!("5s");
    slow["attempts"] = json!(1);
    let slow = host.enqueue(&slow);
    assert_eq!(host.ended(slow).await.state, JobState::Failed);
    assert!(!slot.join("recycled").exists());
    let mut failed = job(failing.to_owned());
    failed["attempts"] = json!(1);
    let failed = host.enqueue(&failed);
    assert_eq!(host.ended(failed).await.state, JobState::Failed);
    until("one that failed by itself is", async || slot.join("recycled").exists()).await;
    worker.signal(Signal::SIGTERM);
    assert!(worker.exit().await.success());

    // It is on the ledger, and goes where the disk lacks room.
    let ledger = answer(&host, &["disk"]);
    let class = ledger["classes"].as_array().and_then(|all| all.iter().find(|class| class["class"] == "recycled"));
    assert!(class.is_some_and(|class| class["bytes"].as_u64() > Some(0)), "{ledger:#}");
    host.set("SAWMILL_WORKER__ADMISSION__DISK_FREE", "1 EiB");
    let found = answer(&host, &["gc"]);
    let tree = found["findings"].as_array().and_then(|all| all.iter().find(|one| one["kind"] == "recycled"));
    let tree = tree.unwrap_or_else(|| panic!("no recycled tree in {found:#}"));
    assert_eq!(tree["fate"], "removed", "{found:#}");
    assert!(tree["why"].as_str().is_some_and(|why| why.starts_with("the disk lacks ")), "{found:#}");
    assert!(!slot.join("recycled").exists());
    assert_eq!(fs::read_dir(host.state_dir("a").join("trash")).expect("the trash").count(), 0);
    host.close(Vec::new()).await;
}
