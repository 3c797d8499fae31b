//! What is on record of a gate: how long it took, and where in the log its output is; also of one that was ended, or taken up.

use sawmill::ids::AttemptNo;
use sawmill::job::{GateEvidence, OutcomeClass, Stream};
use serde_json::json;

use super::revisions::{job as revised, scripted, told, with_agent};
use super::{delivered, host, job, remote};
use crate::delivery::host::{Host, lodging, until};

/// What the evidence says that the gate printed.
async fn printed(host: &Host, id: sawmill::ids::JobId, gate: &GateEvidence) -> String {
    let (mut at, mut bytes) = (gate.log_from, Vec::new());
    while at < gate.log_to {
        let most = usize::try_from(gate.log_to - at).expect("a short log");
        let page = host.store.read_log(id, AttemptNo(1), at, most).await.expect("the log can be read");
        at = page.next_offset(at);
        let whole = page.chunks.iter().filter(|chunk| chunk.offset < gate.log_to && chunk.stream != Stream::System);
        bytes.extend(whole.flat_map(|chunk| chunk.data.clone()));
    }
    String::from_utf8(bytes).expect("text")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_gate_has_its_own_part_of_the_log_and_its_own_duration() {
    let host = host(lodging()).await;
    let remote = remote(host.root(), &[("kept", "1\n")]);
    let worker = host.start("a").await;
    let begun = std::time::Instant::now();
    let gates = ["echo one; sleep 0.4; echo one more", "echo two >&2"];
    let completion = delivered(&host, host.enqueue(&job(&remote, "echo of the job; echo work > work.txt", &gates))).await;
    let all = i64::try_from(begun.elapsed().as_millis()).expect("a short test");
    let [one, two] = completion.gates.as_slice() else { panic!("{:?}", completion.gates) };
    assert_eq!(printed(&host, completion.job, one).await, "one\none more\n");
    assert_eq!(printed(&host, completion.job, two).await, "two\n");
    assert!(one.log_to <= two.log_from, "{one:?} {two:?}");
    assert!((390..all).contains(&one.duration_ms) && (0..all).contains(&two.duration_ms), "{all}: {one:?} {two:?}");
    host.close(vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_gate_printed_before_its_worker_was_killed_is_in_its_part_of_the_log() {
    let host = host(lodging()).await;
    let remote = remote(host.root(), &[("kept", "1\n")]);
    let latch = host.job_latch("gate");
    latch.close();
    let case = "echo '<testcase name=\"a\"/>'";
    let gate = format!("{case} > own.xml; echo judged first; {}; echo judged second", latch.here());
    let mut spec = job(&remote, &format!("echo of the job; {case} > planted.xml"), &[&gate]);
    spec["gates"][0]["tests"] = json!("junit");
    spec["gates"][0]["reports"] = json!(["*.xml"]);
    let id = host.enqueue(&spec);
    let worker = host.start("a").await;
    latch.reached().await;
    latch.lift();
    until("that is in the log", async || host.log(id, 1, Stream::Stdout).await.contains("judged first")).await;
    worker.kill();
    let worker = host.start("a").await;
    latch.release().await;
    let completion = delivered(&host, id).await;
    assert_eq!(printed(&host, id, &completion.gates[0]).await, "judged first\njudged second\n");
    let counts = completion.gates[0].tests.expect("it ran some");
    assert_eq!((counts.passed, counts.total), (1, 1), "what it wrote before counts, and what the commit has does not");
    host.close(vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gate_that_meets_its_time_limit_leaves_evidence_and_the_next_attempt_hears_what_it_printed() {
    let host = with_agent(host(lodging()).await);
    let remote = scripted(host.root(), "echo $SAWMILL_ATTEMPT > work.txt");
    let worker = host.start("a").await;
    let mut spec = revised(&remote, "echo looking; [ $(cat work.txt) = 2 ] || sleep 600", 2);
    spec["attempts"] = json!(2);
    spec["gates"][0]["timeout"] = json!("5s");
    let id = host.enqueue(&spec);
    delivered(&host, id).await;

    let first = host.attempts(id).await.remove(0);
    let outcome = first.outcome.expect("it has ended");
    assert_eq!(outcome.class, OutcomeClass::Timeout, "{}", outcome.message);
    assert!(outcome.message.starts_with("gate unit met its deadline and was ended after "), "{}", outcome.message);
    let [rejection] = first.rejections.as_slice() else { panic!("{:?}", first.rejections) };
    assert_eq!((rejection.class, &rejection.message), (OutcomeClass::Timeout, &outcome.message));
    assert_eq!(rejection.output.as_deref(), Some("looking"));
    let [gate] = rejection.gates.as_slice() else { panic!("{:?}", rejection.gates) };
    assert_eq!((gate.exit, gate.passed, Some(&gate.tree)), (None, false, rejection.tree.as_ref()));
    // The limit is a moment of the database's clock, and the duration is told by the host's.
    assert!((4_500..60_000).contains(&gate.duration_ms), "{gate:?}");
    assert_eq!(told(&host, id, 1).await.len(), 1, "it said nothing that a revision could mend");
    let previous = &told(&host, id, 2).await[0].1["previous"];
    assert_eq!(previous["rejections"][0]["output"], json!("looking"));
    host.close(vec![worker]).await;
}
