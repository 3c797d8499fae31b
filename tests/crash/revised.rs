//! A worker that is killed while its backend revises: no round is done twice, and none is lost.

use std::fs;

use sawmill::ids::JobId;

use super::{LONG, WriteLock};
use crate::delivery::host::{Host, On, until};
use crate::delivery::remote::{Latch, git};
use crate::gates::revisions::{job, scripted, told, with_agent};

/// Where the worker is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum In {
    /// While the backend is in its second round.
    Backend,
    /// While a gate judges that.
    Gate,
    /// When the second round is rejected, and the third one has not begun.
    Between,
}

/// Three rounds, of which the last one is good, with a worker that is killed in the second.
async fn goes_on(place: In) {
    let host = with_agent(Host::new(On::Sqlite, LONG, 1).await);
    let (backend, gate) = (host.job_latch("backend"), host.job_latch("gate"));
    let latch = if place == In::Backend { &backend } else { &gate };
    latch.close();
    // In a container a latch is closed wherever it stands.
    let held = |at: In, latch: &Latch| if (at == In::Backend) == (place == In::Backend) { latch.here() } else { ":".to_owned() };
    let in_second = |what: String| format!("if [ $round = 1 ]; then {what}; fi");
    let remote = scripted(host.root(), &format!("echo round-$round >> work.txt; {}", in_second(held(In::Backend, &backend))));
    let judging = format!(
        "round=$(grep -c round work.txt); round=$((round - 1)); {}; echo judged $round; cat work.txt; [ $round = 2 ]",
        in_second(held(In::Gate, &gate))
    );
    let id = host.enqueue(&job(&remote, &judging, 3));
    let worker = host.start("a").await;
    latch.reached().await;
    latch.lift();
    if place == In::Between {
        let lock = WriteLock::take(&host).await;
        latch.release().await;
        until("the second round is rejected", async || is_rejected(&host)).await;
        worker.kill();
        lock.release().await;
    } else {
        worker.kill();
    }
    let worker = host.start("a").await;
    if place != In::Between {
        latch.release().await;
    }
    assert_each_round_once(&host, &remote, id).await;
    host.close(vec![worker]).await;
}

fn is_rejected(host: &Host) -> bool {
    let journal = host.state_dir("a").join("slots/0/run/attempt.json");
    let journal: serde_json::Value =
        fs::read(journal).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    journal["phase"]["phase"] == "rejected" && journal["rejections"].as_array().is_some_and(|all| all.len() == 1)
}

async fn assert_each_round_once(host: &Host, remote: &std::path::Path, id: JobId) {
    let job = host.succeeded(id).await;
    let rounds: Vec<u32> = told(host, id, 1).await.into_iter().map(|(round, _)| round).collect();
    assert_eq!(rounds, [0, 1, 2]);
    let branch = job.branch.as_str();
    assert_eq!(git(remote, &["show", &format!("{branch}:work.txt")]), "round-0\nround-1\nround-2");
    assert_eq!(git(remote, &["rev-list", "--count", &format!("main..{branch}")]), "1");
    let log = host.log(id, 1, sawmill::job::Stream::Stdout).await;
    let judged: Vec<&str> = log.lines().filter(|line| line.starts_with("judged ")).collect();
    assert_eq!(judged, ["judged 0", "judged 1", "judged 2"]);
    let attempts = host.attempts(id).await;
    assert_eq!((attempts.len(), attempts[0].rejections.len()), (1, 2));
    assert_eq!(attempts[0].usage.as_ref().map(|usage| usage.prompt_tokens), Some(300), "each round is counted once");
    let completion = host.completions(Some(id)).await.remove(0).completion;
    assert_eq!(completion.rejections, attempts[0].rejections);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_while_the_backend_revises_costs_no_round() {
    goes_on(In::Backend).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_while_a_revision_is_judged_costs_no_round() {
    goes_on(In::Gate).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_between_two_rounds_costs_no_round() {
    goes_on(In::Between).await;
}
