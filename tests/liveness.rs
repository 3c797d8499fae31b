//! A backend that hangs is ended with what was seen of it; one that shows any sign of life is not.

use std::fs;
use std::time::Duration;

use sawmill::ids::JobId;
use sawmill::job::{JobState, OutcomeClass, Stream};
use serde_json::json;

use crate::delivery::host::{Host, Lodging, On};
use crate::delivery::remote::publish;

/// A lease that no test waits for.
const LEASE: Duration = Duration::from_secs(600);

/// Backends by what is watched of them. Those that live go on for longer than that.
const SETTINGS: [(&str, &str); 6] = [
    ("SAWMILL_BACKENDS__SILENCE__KIND", "shell"),
    ("SAWMILL_BACKENDS__SILENCE__STALL__SILENCE", "5s"),
    ("SAWMILL_BACKENDS__START__KIND", "shell"),
    ("SAWMILL_BACKENDS__START__STALL__START", "5s"),
    ("SAWMILL_BACKENDS__EDITS__KIND", "shell"),
    ("SAWMILL_BACKENDS__EDITS__STALL__NO_EDIT", "5s"),
];

const SECRET: &str = "hunter2-of-the-service";
const HANGS: &str = "echo begun; sh -c 'sleep 601; :' \"$SERVICE_TOKEN\"";
const COMPUTES: &str = "end=$(($(date +%s) + 12)); while [ $(date +%s) -lt $end ]; do :; done; echo computed > work.txt";
/// With hardly any processor time, and outside of the worktree.
const WRITES: &str = "for i in $(seq 12); do echo $i > \"$HOME/notes\"; sleep 1; done; echo written > work.txt";
const SPEAKS: &str = "for i in $(seq 12); do echo $i; sleep 1; done; echo spoken > work.txt";
/// As one does that runs the same tests again and again: what it writes git ignores, by its own word or because all tools write that.
const TESTS: &str = "while :; do mkdir -p target pkg/__pycache__ out; echo $$ > target/unit; echo $$ > pkg/__pycache__/a.pyc; \
    echo $$ > .coverage; date > out/new; mv out/new out/log; sleep 1; done";
const EDITS: &str = "for i in $(seq 12); do echo $i > work.txt; sleep 1; done";

async fn is_ended_when_it_hangs(lodging: Lodging) {
    let mut host = Host::new(On::Sqlite, LEASE, 8).await.lodge(lodging).await;
    for (variable, value) in SETTINGS {
        host.set(variable, value);
    }
    let seed = host.root().join("seed");
    fs::create_dir_all(seed.join("pkg")).expect("directories");
    fs::write(seed.join(".gitignore"), "/out/\n").expect("a file");
    fs::write(seed.join("pkg/a.py"), "\n").expect("a file");
    let remote = publish(&seed, &host.root().join("remote"));
    let worker = host.start("a").await;
    let enqueue = |backend: &str, command: &str| -> JobId {
        let env = json!({ "SERVICE_TOKEN": SECRET });
        host.enqueue(&json!({ "repo": remote, "backend": backend, "task": { "command": command }, "env": env }))
    };
    let hung = [
        (enqueue("silence", HANGS), "for 5s it said nothing, computed nothing (", "running: sleep 601 | sh -c sleep 601; : "),
        (
            enqueue("start", "while :; do :; done"),
            "it had not said a word 5s after its start",
            "running: sh -c while :; do :; done",
        ),
        (enqueue("edits", TESTS), "it changed no file of its worktree for 5s", "running: "),
        (enqueue("edits", "while :; do git status; sleep 1; done"), "it changed no file of its worktree for 5s", "running: "),
    ];
    let alive = [enqueue("silence", COMPUTES), enqueue("silence", WRITES), enqueue("silence", SPEAKS), enqueue("edits", EDITS)];

    for (job, why, running) in hung {
        let ended = host.ended(job).await;
        let outcome = ended.outcome.expect("an outcome");
        assert_eq!((ended.state, outcome.class), (JobState::Failed, OutcomeClass::Stalled), "{outcome}");
        assert!(outcome.message.starts_with(why) && outcome.message.contains(running), "{outcome}");
        assert!(!outcome.message.contains(SECRET), "{outcome}");
        assert!(host.log(job, 1, Stream::System).await.contains("it is taken for hung, and ended: "), "{outcome}");
    }
    for job in alive {
        host.succeeded(job).await;
    }
    host.close(vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_hangs_is_ended_and_one_that_lives_is_not() {
    is_ended_when_it_hangs(Lodging::OnTheHost).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_hangs_is_ended_and_one_that_lives_is_not_in_a_container() {
    is_ended_when_it_hangs(Lodging::InContainers).await;
}
