//! The disk: what is on it, what a job is expected to take, and how room is made.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::sys::signal::Signal;
use sawmill::clock::Timestamp;
use sawmill::git::Strategy;
use sawmill::job::JobState;
use serde_json::{Value, json};

use super::{about, answer_at, plant, text, with_fate};
use crate::crash::LONG;
use crate::delivery::daemon::Seat;
use crate::delivery::host::{Host, Lodging, On, until};
use crate::delivery::remote::small_remote;
use crate::git::fixture::strategy;
use crate::trouble::disk::{Small, noise};

fn answer(host: &Host, args: &[&str]) -> Value {
    answer_at(host, &Seat::of("a"), args)
}

/// Everything below a directory.
fn all_below(dir: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut ahead = vec![dir.to_owned()];
    while let Some(dir) = ahead.pop() {
        for path in fs::read_dir(&dir).expect("a directory").flatten().map(|entry| entry.path()) {
            if path.is_dir() && !path.is_symlink() {
                ahead.push(path.clone());
            }
            found.insert(path);
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gc_says_what_it_would_do_and_then_does_just_that() {
    let mut host = Host::new(On::Sqlite, LONG, 1).await;
    let remote = small_remote(host.root(), "remote.git");
    let state = host.state_dir("a");
    let job = host.enqueue(&json!({ "repo": remote, "changes": "none", "task": { "command": "true" } }));
    let mut worker = host.start("a").await;
    host.succeeded(job).await;
    worker.signal(Signal::SIGTERM);
    assert!(worker.exit().await.success());

    fs::create_dir_all(state.join("trash")).expect("made");
    fs::write(state.join("trash/old"), noise(5 << 20)).expect("written");
    let [kept, expired] = ["kept/young-1", "kept/old-1"].map(|place| plant::directory(&state.join(place)));
    let long_ago = SystemTime::now() - plant::OLD * 30;
    File::open(&expired).and_then(|dir| dir.set_modified(long_ago)).expect("set");
    let ledger = answer(&host, &["disk"]);
    let class = |name: &str| {
        let classes = ledger["classes"].as_array().expect("a list");
        classes.iter().find(|class| class["class"] == name).unwrap_or_else(|| panic!("no {name} in {ledger:#}")).clone()
    };
    let trash = class("trash")["bytes"].as_u64().expect("a number");
    assert!((5 << 20..6 << 20).contains(&trash), "{ledger:#}");
    for name in ["mirrors", "kept", "database"] {
        assert!(class(name)["bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{ledger:#}");
    }
    assert_eq!((&ledger["job_bytes"], &ledger["fits"]), (&json!(64 << 20), &json!(true)), "{ledger:#}");

    host.set("SAWMILL_WORKSPACE__BASES", "0 B");
    let before = all_below(&state);
    let planned = answer(&host, &["gc", "--dry-run"]);
    let findings = planned["findings"].as_array().expect("a list");
    assert_eq!(all_below(&state), before, "nothing is changed");
    assert!(text(about(findings, "trash", "old"), "why").starts_with("it was discarded; its daemon, process"));
    assert!(about(findings, "trash", "old")["bytes"].as_u64().is_some_and(|bytes| bytes >= 5 << 20));
    assert!(text(about(findings, "kept", "old-1"), "why").starts_with("it was kept for 72h (workspace.ttl)"), "{planned:#}");
    assert!(text(about(findings, "kept", "young-1"), "why").starts_with("it is kept for a person until"));
    let due = "; it is due for maintenance; it is due for a look for objects that nobody needs";
    assert!(text(about(findings, "mirror", "remote-"), "why").ends_with(due), "{planned:#}");
    if strategy() == Strategy::Overlay {
        let base = about(findings, "base", "/bases/");
        assert!(text(base, "why").contains("and may take 0 B (workspace.bases)"), "{base:#}");
    }
    let goes = with_fate(findings, "goes");

    let done = answer(&host, &["gc"]);
    let done = done["findings"].as_array().expect("a list");
    assert_eq!(with_fate(done, "removed"), goes);
    assert!(goes.iter().all(|(_, path)| !Path::new(path).exists()), "{goes:?}");
    assert!(kept.exists() && !expired.exists());
    assert_eq!(fs::read_dir(state.join("trash")).expect("the trash").count(), 0);
    let again = answer(&host, &["gc", "--dry-run"]);
    let again = again["findings"].as_array().expect("a list");
    assert_eq!(with_fate(again, "goes"), []);
    assert!(!text(about(again, "mirror", "remote-"), "why").contains("due"), "it was maintained and pruned: {again:#?}");
    fs::remove_dir_all(kept).expect("removed");
    host.close(Vec::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_does_not_fit_is_not_claimed_and_explain_says_why() {
    let host = Host::new(On::Sqlite, LONG, 1).await;
    let remote = small_remote(host.root(), "remote.git");
    let costs = plant::file(&host.state_dir("a").join("costs.json"), plant::OLD);
    let took = json!([{ "at": 0, "bytes": 1_u64 << 61 }, { "at": Timestamp::now(), "bytes": 1_u64 << 60 }]);
    fs::write(&costs, json!({ "app-0": took }).to_string()).expect("written");
    let job = host.enqueue(&json!({ "repo": remote, "changes": "none", "task": { "command": "true" } }));
    let worker = host.start("a").await;
    until("it is paused", async || host.sawmill(&["workers", "show", "a"])["state"] == "paused").await;
    let told = host.sawmill(&["job", "explain", &job.to_string()]);
    let obstacle = &told["workers"][0]["obstacles"][0];
    assert_eq!((&obstacle["kind"], &obstacle["of"]), (&json!("short"), &json!(["disk"])), "{told:#}");
    let reason = text(obstacle, "reason");
    assert!(reason.ends_with("1.0 GiB are to stay free, and a job is expected to take 1.0 EiB"), "{reason}");
    assert!(text(obstacle, "measured").ends_with("of disk"), "{told:#}");
    assert!(told.to_string().contains("more room on the disk of its state directory"), "{told:#}");
    assert_eq!(host.job(job).await.state, JobState::Queued);
    worker.kill();
    fs::remove_file(costs).expect("removed");
    let worker = host.start("a").await;
    host.succeeded(job).await;
    host.close(vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_job_took_is_expected_of_the_next_one() {
    let host = Host::new(On::Sqlite, LONG, 1).await;
    let remote = small_remote(host.root(), "remote.git");
    // Longer than the slots are left uncounted.
    let command = "head -c 100000000 /dev/zero | tr '\\0' x > large.txt; sleep 12; rm large.txt";
    let job = host.enqueue(&json!({ "repo": remote, "changes": "none", "task": { "command": command } }));
    let worker = host.start("a").await;
    host.succeeded(job).await;
    let learnt = || answer(&host, &["disk"])["repositories"][0]["most_bytes"].as_u64().unwrap_or(0);
    until("it is known", async || learnt() >= 100_000_000).await;
    assert!(answer(&host, &["disk"])["job_bytes"].as_u64().is_some_and(|bytes| bytes >= 100_000_000));
    host.close(vec![worker]).await;
}

/// Several slots are free, and one claim could fill all of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_jobs_that_fit_one_by_one_no_more_are_claimed_than_fit_together() {
    let mut host = Host::new(On::Sqlite, LONG, 3).await.lodge(Lodging::OnTheHost).await;
    host.set("SAWMILL_WORKER__ADMISSION__DISK_FREE", "4 MiB");
    host.set("SAWMILL_WORKER__ADMISSION__DISK_JOB", "1 MiB");
    host.set("SAWMILL_WORKER__ADMISSION__INODES_FREE", "10");
    host.set("SAWMILL_WORKER__ADMISSION__EVERY", "100ms");
    let remote = small_remote(host.root(), "remote.git");
    let small = Small::mount(&host.state_dir("a"), 96);
    // Two fit, and three do not.
    let took = json!([{ "at": Timestamp::now(), "bytes": 40 << 20 }]);
    fs::write(host.state_dir("a").join("costs.json"), json!({ "app-0": took }).to_string()).expect("written");
    let latch = host.job_latch("held");
    latch.close();
    let jobs: Vec<_> = (0..3)
        .map(|_| host.enqueue(&json!({ "repo": remote, "changes": "none", "task": { "command": latch.here() } })))
        .collect();
    let mut worker = host.start("a").await;
    let states = async || {
        let mut states = Vec::new();
        for job in &jobs {
            states.push(host.job(*job).await.state);
        }
        states
    };
    let count = async |state: JobState| states().await.into_iter().filter(|one| *one == state).count();
    until("two run", async || count(JobState::Running).await == 2).await;
    until("it is paused", async || host.sawmill(&["workers", "show", "a"])["state"] == "paused").await;
    assert_eq!((count(JobState::Running).await, count(JobState::Queued).await), (2, 1));
    let left = states().await.iter().position(|state| *state == JobState::Queued).expect("one waits");
    let told = host.sawmill(&["job", "explain", &jobs[left].to_string()]);
    let reason = text(&told["workers"][0]["obstacles"][0], "reason").to_owned();
    assert!(reason.contains(": 4.0 MiB are to stay free, those that run are expected to take "), "{reason}");
    assert!(reason.ends_with(" yet and a job is expected to take 40.0 MiB"), "{reason}");
    latch.lift();
    until("those that were held have gone on", async || {
        latch.let_go();
        count(JobState::Succeeded).await == 3
    })
    .await;
    worker.signal(Signal::SIGTERM);
    assert!(worker.exit().await.success());
    drop(small);
    host.close(Vec::new()).await;
}
