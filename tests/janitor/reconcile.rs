//! `sawmill reconcile` on the directories of workers that were killed, that live, and that nobody can tell.

use std::fs;
use std::path::Path;
use std::time::Duration;

use sawmill::ids::JobId;
use sawmill::janitor::Process;
use serde_json::json;

use super::{about, plant, reconcile, text, with_fate};
use crate::crash::LONG;
use crate::delivery::host::{Host, Lodging, On, until};
use crate::delivery::remote::{git, refs, small_remote};
use crate::git::fixture::mounts_below;

/// A lease that is waited out.
const SHORT: Duration = Duration::from_secs(10);

/// What is left of containers is the subject of `janitor::containers`.
async fn host(lease: Duration) -> Host {
    Host::new(On::Sqlite, lease, 1).await.lodge(Lodging::OnTheHost).await
}

fn mirror(state: &Path) -> std::path::PathBuf {
    let entries = fs::read_dir(state.join("mirrors")).expect("mirrors").flatten().map(|entry| entry.path());
    entries.filter(|path| path.is_dir()).find(|path| path.extension().is_some_and(|e| e == "git")).expect("a mirror")
}

/// A job that goes on until the file is there, in its first attempt.
fn waiting(host: &Host, remote: &Path, go: &str) -> JobId {
    let go = host.root().join(go);
    let command =
        format!("echo work > work.txt; while [ $SAWMILL_ATTEMPT = 1 ] && [ ! -e {} ]; do sleep 0.05; done", go.display());
    host.enqueue(&json!({ "repo": remote, "task": { "command": command } }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_worker_left_goes_and_nothing_of_the_one_beside_it() {
    let host = host(SHORT).await;
    let remote = small_remote(host.root(), "remote.git");
    let (state, other) = (host.state_dir("a"), host.state_dir("b"));
    let lost = waiting(&host, &remote, "never");
    let worker = host.start("a").await;
    until("its job works", async || state.join("slots/0/job/tree/work.txt").exists()).await;
    worker.kill();

    // Its claim holds: a daemon that comes back goes on with the job.
    let findings = reconcile(&host, "a", &[]);
    let slot = about(&findings, "slot", "slots/0");
    assert_eq!(slot["fate"], "stays", "{slot:#}");
    assert!(text(slot, "why").contains(&format!("the claim of job {lost} holds until")), "{slot:#}");
    assert_eq!(about(&findings, "process", "supervisor of")["fate"], "stays");
    assert_eq!(with_fate(&findings, "goes"), []);

    until("its supervisor ends the job, and itself", async || host.processes_of("a").is_empty()).await;
    let second = host.start("b").await;
    host.succeeded(lost).await;
    let beside = waiting(&host, &remote, "go");
    until("the job beside works", async || other.join("slots/0/job/tree/work.txt").exists()).await;

    let mirror = mirror(&state);
    let expired = plant::salvage(&mirror, JobId::generate(), "2020-01-01T00:00:00Z");
    let moved = plant::salvage(&mirror, JobId::generate(), "2020-01-01T00:00:00Z");
    // As a worker pushes it; but somebody has put another commit in the place of one.
    git(&mirror, &["push", "--quiet", remote.to_str().expect("UTF-8"), &expired, &format!("refs/heads/main:{moved}")]);
    let fresh = format!("refs/sawmill/salvage/{lost}/1");
    assert!(refs(&mirror, &fresh).len() == 1, "the supervisor has salvaged");
    let mounted = plant::mount(&state, 7);
    let planted = [
        ("slot", state.join("slots/0")),
        ("process", plant::supervisor(&state, 5)),
        ("socket", plant::socket(&state, 6)),
        ("mount", mounted.clone()),
        ("base_lease", plant::lease(&state)),
        ("unfinished", plant::directory(&state.join("mirrors/.incoming-app-0123.git-xyz"))),
        ("unfinished", plant::directory(&state.join("bases/app-0/.new-1"))),
        ("unfinished", plant::directory(&state.join("caches/app-0/target-0/.new-2"))),
        ("unfinished", plant::directory(&state.join("bases/.probe-4294967294-x"))),
        ("unfinished", plant::file(&mirror.join("refs/heads/main.lock"), plant::OLD)),
        ("unfinished", plant::file(&mirror.join("objects/pack/tmp_pack_x"), plant::OLD)),
        ("ref", expired.clone().into()),
        ("ref", moved.clone().into()),
    ];
    let young = plant::file(&mirror.join("config.lock"), Duration::ZERO);

    let before = reconcile(&host, "a", &[]);
    for (kind, part) in &planted {
        let finding = about(&before, kind, part.to_str().expect("UTF-8"));
        assert_eq!(finding["fate"], "goes", "{finding:#}");
        assert!(text(finding, "why").contains("has ended"), "the proof: {finding:#}");
    }
    assert!(text(about(&before, "slot", "slots/0"), "why").starts_with("nobody holds the claim for attempt 1 of job"));
    assert!(about(&before, "slot", "slots/0")["bytes"].as_u64().is_some_and(|bytes| bytes > 0));
    let stays = about(&before, "unfinished", "config.lock");
    assert!(text(stays, "why").contains("a git command may still be writing it"), "{stays:#}");
    assert!(text(about(&before, "ref", &fresh), "why").contains("it is kept until"));
    assert_eq!(reconcile(&host, "a", &[]), before, "looking changes nothing");
    // The one whose daemon lives is looked at from outside, too.
    let living = reconcile(&host, "b", &["--apply"]);
    assert_eq!(with_fate(&living, "stays").len(), living.len(), "{living:#?}");
    assert!(!living.is_empty());

    let applied = reconcile(&host, "a", &["--apply"]);
    assert_eq!(with_fate(&applied, "removed"), with_fate(&before, "goes"));
    for path in planted.iter().filter(|(kind, _)| !["slot", "process", "mount", "ref"].contains(kind)).map(|(_, path)| path) {
        assert!(!path.exists(), "{} is left", path.display());
    }
    assert_eq!(mounts_below(&state), [] as [std::path::PathBuf; 0]);
    // It lets go of its lock, which is waited for, before it is gone.
    until("the planted supervisor is gone", async || host.processes("nonce=planted").is_empty()).await;
    assert!(refs(&mirror, &expired).is_empty() && refs(&mirror, &fresh).len() == 1 && young.exists());
    assert!(refs(&remote, &expired).is_empty(), "what the worker pushed is gone");
    assert!(refs(&mirror, &moved).is_empty() && refs(&remote, &moved).len() == 1, "what others put there is theirs");
    assert_eq!(refs(&remote, &fresh).len(), 1);
    let after = reconcile(&host, "a", &["--apply"]);
    assert_eq!(with_fate(&after, "stays").len(), after.len(), "{after:#?}");

    fs::write(host.root().join("go"), "").expect("written");
    let job = host.succeeded(beside).await;
    assert_eq!(job.attempts_used, 1, "nobody disturbed it");
    fs::remove_file(young).expect("removed");
    git(&mirror, &["fsck", "--full", "--no-dangling", "--no-progress"]);
    let first = host.start("a").await;
    host.close(vec![first, second]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_starts_removes_what_an_earlier_one_left() {
    let host = host(LONG).await;
    let state = host.state_dir("a");
    let left = plant::directory(&state.join("mirrors/.incoming-app-0123.git-xyz"));
    plant::mount(&state, 7);
    let worker = host.start("a").await;
    until("it looks", async || !left.exists() && mounts_below(&state).is_empty()).await;
    until("it says so", async || worker.log().contains(&format!("removed unfinished {}", left.display()))).await;
    host.close(vec![worker]).await;
}

#[tokio::test]
async fn only_a_process_that_is_proven_dead_is_taken_for_dead() {
    let host = host(LONG).await;
    let state = host.state_dir("a");
    let left = plant::directory(&state.join("bases/app-0/.new-1"));
    let own = Process::own();
    let check = |process: Option<&Process>, fate: &str, why: &str| {
        match process {
            Some(process) => plant::master(&state, process),
            None => fs::write(state.join("lock"), "").expect("written"),
        }
        let findings = reconcile(&host, "a", &[]);
        let finding = about(&findings, "unfinished", ".new-1");
        assert_eq!(finding["fate"], fate, "{finding:#}");
        assert!(text(finding, "why").contains(why), "{finding:#}");
    };
    check(Some(&own), "stays", "its daemon lives");
    check(None, "stays", "no daemon has left its name");
    let elsewhere = Process { host: "elsewhere".to_owned(), boot: "another".to_owned(), ..own.clone() };
    check(Some(&elsewhere), "stays", "its daemon ran on host elsewhere");
    check(Some(&Process { boot: "another".to_owned(), ..own.clone() }), "goes", "ran before this boot of the host");
    // Its number is that of a process that lives, and is another one.
    check(Some(&Process { began: own.began - 1, ..own }), "goes", "the one with that number now began");
    reconcile(&host, "a", &["--apply"]);
    assert!(!left.exists());
    fs::remove_dir_all(state.join("trash")).expect("removed");
    host.close(Vec::new()).await;
}
