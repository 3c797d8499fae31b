//! Gates that a repository brings: they are those of the base commit, whatever the job does to their file.

use std::os::unix::fs::symlink;

use sawmill::job::{JobState, OutcomeClass, Stream};
use serde_json::json;

use super::{delivered, host, rejected, remote};
use crate::delivery::host::{Lodging, lodging};
use crate::delivery::remote::{git, publish};

const OWN: &str = "[[gates]]\nname = \"own\"\ncommand = \"test ! -e bad\"\n";

async fn hold(lodging: Lodging) {
    let host = host(lodging).await;
    let remote = remote(host.root(), &[(".sawmill/gates.toml", OWN), ("kept.txt", "kept\n")]);
    let worker = host.start("a").await;
    let job = |command: &str| {
        host.enqueue(
            &json!({ "repo": remote, "task": { "command": command }, "gates": [{ "name": "first", "command": "true" }] }),
        )
    };
    let good = delivered(&host, job("echo good > good")).await;
    let names: Vec<_> = good.gates.iter().map(|gate| (gate.name.as_str(), gate.passed)).collect();
    assert_eq!(names, [("first", true), ("own", true)]);

    // Neither a file that is gone nor another one counts for the job that made it so.
    assert_eq!(rejected(&host, job("echo bad > bad; rm -r .sawmill")).await, "gate own exited with status 1");
    let weaker = "echo bad > bad; printf '[[gates]]\\nname = \"own\"\\ncommand = \"true\"\\n' > .sawmill/gates.toml";
    let weakened = job(weaker);
    assert_eq!(rejected(&host, weakened).await, "gate own exited with status 1");
    assert!(host.log(weakened, 1, Stream::System).await.contains("gates of the base commit: own"));
    host.close(vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gates_of_the_base_commit_hold_whatever_the_job_does_to_their_file() {
    hold(Lodging::OnTheHost).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gates_of_the_base_commit_hold_in_a_container() {
    hold(Lodging::InContainers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_base_commit_with_a_file_that_is_no_list_of_gates_ends_its_jobs_before_they_begin() {
    let host = host(lodging()).await;
    let malformed = remote(host.root(), &[(".sawmill/gates.toml", "[[gates]]\nname = \"own\"\n")]);
    let seed = host.root().join("linked-seed");
    std::fs::create_dir_all(seed.join(".sawmill")).expect("directories");
    symlink("/etc/passwd", seed.join(".sawmill/gates.toml")).expect("a link");
    let linked = publish(&seed, &host.root().join("linked.git"));
    let worker = host.start("a").await;
    for (remote, why) in [(malformed, "missing field `command`"), (linked, "it is no plain file")] {
        let job = host.enqueue(&json!({ "repo": remote, "task": { "command": "echo begun; echo x > x" } }));
        let ended = host.ended(job).await;
        let outcome = ended.outcome.expect("an outcome");
        assert_eq!((ended.state, outcome.class), (JobState::Failed, OutcomeClass::Invalid), "{outcome}");
        let base = git(&remote, &["rev-parse", "--short=10", "main"]);
        let begins = format!(".sawmill/gates.toml of the base commit {base} is no list of gates: ");
        assert!(outcome.message.starts_with(&begins) && outcome.message.contains(why), "{outcome}");
        assert_eq!(host.log(job, 1, Stream::Stdout).await, "");
    }
    host.close(vec![worker]).await;
}
