//! Gates that pass because they run no tests, and what is put on record of those that run some.

use sawmill::job::counts::{TestCounts, TestFormat};
use serde_json::{Value, json};

use super::{delivered, host, rejected, remote};
use crate::delivery::host::lodging;

/// A job with one gate, which runs tests as `tests` says.
fn tested(remote: &std::path::Path, gate: &str, tests: &str) -> Value {
    let gate = json!({ "name": "unit", "command": gate, "tests": tests, "reports": ["out/**/*.xml"] });
    json!({ "repo": remote, "task": { "command": "echo work > work.txt" }, "gates": [gate] })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gate_that_runs_no_tests_rejects_although_it_exits_with_0() {
    let host = host(lodging()).await;
    let remote = remote(host.root(), &[("kept", "1\n")]);
    let worker = host.start("a").await;
    let none = "test result: ok. 0 passed; 0 failed; 2 ignored; 0 measured; 9 filtered out";
    let failed = "test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out";
    let cases = [
        (format!("echo '{none}'"), "cargo", "ran no tests (0 passed, 0 failed, 2 skipped)"),
        ("true".to_owned(), "auto", "did not say how many tests it ran"),
        (format!("echo '{failed}' | cat"), "auto", "exited with status 0 although tests failed (1 passed, 1 failed, 0 skipped)"),
        (format!("echo '{failed}'; exit 3"), "cargo", "exited with status 3 (1 passed, 1 failed, 0 skipped)"),
        ("echo '4 passed in 0.1s'".to_owned(), "junit", "did not say how many tests it ran"),
        ("mkdir out; echo '<testsuite tests=\"3\"/>' > out/a.xml".to_owned(), "junit", "ran no tests"),
    ];
    for (gate, tests, expected) in cases {
        let why = rejected(&host, host.enqueue(&tested(&remote, &gate, tests))).await;
        assert!(why.starts_with("gate unit ") && why.contains(expected), "{gate}: {why}");
    }
    host.close(vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_run_is_in_the_evidence_and_is_the_gates_own() {
    let host = host(lodging()).await;
    let remote = remote(host.root(), &[("kept", "1\n")]);
    let worker = host.start("a").await;
    let case = "<testcase name='a'/><testcase name='b'><skipped/></testcase>";
    let mut spec = tested(&remote, "echo '=== 2 passed, 1 skipped in 0.10s ===' >&2", "auto");
    let report = format!("mkdir -p out/x && echo \"{case}\" > out/x/a.xml && ln -s a.xml out/x/b.xml");
    let second = json!({ "name": "report", "command": report, "tests": "junit", "reports": ["out/**/*.xml"] });
    spec["gates"].as_array_mut().expect("gates").push(second);
    spec["task"]["command"] = "echo work > work.txt; echo '=== 99 passed in 0.10s ==='".into();
    let completion = delivered(&host, host.enqueue(&spec)).await;
    let counts: Vec<_> = completion.gates.iter().map(|gate| gate.tests).collect();
    let expected = [TestCounts::new(TestFormat::Pytest, 2, 0, 1), TestCounts::new(TestFormat::Junit, 1, 0, 1)];
    assert_eq!(counts, expected.map(Some), "what the job itself prints does not count");
    host.close(vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_that_the_commit_has_is_none_that_the_gate_wrote() {
    let host = host(lodging()).await;
    let passed = "<testsuite><testcase name='a'/></testsuite>";
    let remote = remote(host.root(), &[("kept", "1\n"), ("out/base.xml", passed)]);
    let worker = host.start("a").await;
    let plant = format!("echo work > work.txt; echo \"{passed}\" > out/planted.xml");
    let mut spec = tested(&remote, "cat out/*.xml", "junit");
    spec["task"]["command"] = plant.clone().into();
    let why = rejected(&host, host.enqueue(&spec)).await;
    assert!(why.contains("did not say how many tests it ran: 2 reports were there before it began"), "{why}");
    // What it writes itself counts, in the place of one that was there too, and nothing else does.
    let mut spec = tested(&remote, "echo '<testcase name=\"x\"/><testcase name=\"y\"/>' > out/base.xml", "junit");
    spec["task"]["command"] = plant.into();
    let completion = delivered(&host, host.enqueue(&spec)).await;
    assert_eq!(completion.gates[0].tests, Some(TestCounts::new(TestFormat::Junit, 2, 0, 0)));
    host.close(vec![worker]).await;
}
