//! What a job in a container may take, and what happens when it wants more.

use std::time::{Duration, Instant};

use bytesize::ByteSize;
use sawmill::job::{JobState, OutcomeClass};
use sawmill::sandbox::End;
use serde_json::json;

use super::beside::Beside;
use super::{Yard, image, until};

#[tokio::test]
async fn memory_that_runs_out_is_told_from_failure_with_the_peak_and_the_largest_process() {
    let yard = Yard::with(|config| config.memory = ByteSize::mib(64)).await;
    let guest = yard.take(0).await;
    let (report, _) =
        guest.run("dd if=/dev/zero of=/dev/null bs=1k count=1; dd if=/dev/zero of=/dev/null bs=400M count=2; exit 7").await;
    assert_eq!(report.end, End::Exited(7), "the shell went on");
    assert!(report.out_of_memory);
    assert!(report.peak_memory_bytes > 50 << 20 && report.peak_memory_bytes <= 64 << 20, "{}", report.peak_memory_bytes);
    let grows = "{ head -c 30000000 /dev/zero; sleep 2; head -c 90000000 /dev/zero; } | tail > /dev/null; exit 7";
    let (report, _) = guest.run(grows).await;
    assert!(report.out_of_memory && report.largest.as_ref().is_some_and(|line| line.contains("tail")), "{report:?}");
    let (report, _) = guest.run("kill -9 $$").await;
    assert_eq!((report.end, report.out_of_memory, report.largest), (End::Signalled(9), false, None), "a mere KILL");
    let (report, _) = guest.run("exit 7").await;
    assert!(!report.out_of_memory, "a failure after that is its own");
    guest.leave();
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_runs_out_of_memory_is_told_so_and_the_one_beside_it_is_delivered() {
    let beside = Beside::with("SAWMILL_CONTAINER__MEMORY", "64 MiB").await;
    let (host, remote) = (&beside.host, &beside.remote);
    let command = "{ head -c 30000000 /dev/zero; sleep 5; head -c 90000000 /dev/zero; } | tail > /dev/null";
    let job = host.enqueue(&json!({ "repo": remote, "task": { "command": command } }));
    let ended = host.ended(job).await;
    let outcome = ended.outcome.expect("an outcome");
    assert_eq!((ended.state, outcome.class), (JobState::Failed, OutcomeClass::OutOfMemory), "{outcome:?}");
    let told = &outcome.message;
    assert!(told.starts_with("ran out of memory at a peak of ") && told.contains("tail"), "{told}");
    let attempt = host.attempts(job).await.remove(0);
    let peak = attempt.resources.peak_memory_bytes.expect("measured");
    assert!(peak > 50 << 20 && peak <= 64 << 20, "{peak}");
    beside.goes_on().await;
    beside.host.close(vec![beside.worker]).await;
}

#[tokio::test]
async fn a_fork_bomb_meets_the_limit_and_is_ended_with_certainty() {
    let yard = Yard::with(|config| config.pids = 64).await;
    let guest = yard.take(0).await;
    let command = guest.start("echo ready; (while true; do sleep 1000 & done) 2>/dev/null; trap '' TERM; exec sleep 1000").await;
    until("the limit is met", async || guest.processes().await.len() > 50).await;
    assert!(guest.processes().await.len() <= 64);
    guest.supervisor.stop(&command.id).await.expect("it lives");
    guest.supervisor.wait(&command.id).await.expect("a report");
    assert_eq!(guest.processes().await.len(), 1, "the supervisor is alone");
    assert_eq!(guest.run("echo well").await.1, "well\n");
    guest.leave();
    yard.close().await;
}

#[tokio::test]
async fn a_full_tmp_is_the_jobs_own_trouble() {
    let yard = Yard::open().await;
    let guest = yard.take(0).await;
    let (report, said) = guest.run("dd if=/dev/zero of=/tmp/large bs=1M count=64 || exit 9").await;
    assert_eq!(report.end, End::Exited(9));
    assert!(said.contains("No space left"), "{said}");
    assert!(!report.out_of_memory);
    guest.leave();
    yard.close().await;
}

#[tokio::test]
async fn a_job_has_as_much_of_the_processors_as_it_may_and_no_more() {
    let yard = Yard::with(|config| config.cpus = 0.5).await;
    let guest = yard.take(0).await;
    let about = image::docker().await.inspect_container(guest.name(), None).await.expect("it is there");
    assert_eq!(about.host_config.expect("what it may").nano_cpus, Some(500_000_000));
    let busy = "timeout 4 sh -c 'while :; do :; done'";
    let begun = Instant::now();
    let (report, _) = guest.run(&format!("{busy} & {busy} & wait")).await;
    // It has its share of each tenth of a second at once.
    let most = begun.elapsed().mul_f64(0.5) + Duration::from_millis(300);
    assert!(u128::from(report.cpu_ms) <= most.as_millis(), "{} ms of {most:?}", report.cpu_ms);
    assert!(report.cpu_ms > 0, "{report:?}");
    guest.leave();
    yard.close().await;
}
