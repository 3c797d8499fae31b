//! Results that break a rule are rejected with the file, the line, the rule and the next step; what is only flagged is delivered.

use sawmill::job::Stream;
use sawmill::job::checks::{Response, Rule};
use serde_json::{Value, json};

use super::{delivered, host, job, rejected, remote};
use crate::delivery::host::lodging;

const TESTS: &str = "def test_one():\n    assert 1\n\ndef test_two():\n    assert 2\n";

/// A job with checks of its own beside those that all have.
fn checked(remote: &std::path::Path, command: &str, checks: &Value) -> Value {
    let mut spec = job(remote, command, &[]);
    spec["checks"] = json!([checks]);
    spec
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_rule_rejects_with_its_reason() {
    let host = host(lodging()).await;
    let files =
        [("src/a.txt", "1\n2\n"), ("Cargo.toml", "[dependencies]\n"), ("Cargo.lock", "version = 4\n"), ("test_a.py", TESTS)];
    let remote = remote(host.root(), &files);
    let worker = host.start("a").await;
    let token = "printf 'key: ghp_%s\\n' a1B2a1B2a1B2a1B2a1B2a1B2a1B2a1B2a1B2 >> src/a.txt";
    let cases: [(&str, Value, &str); 10] = [
        ("echo '<<<<<<< HEAD' >> src/a.txt", json!({}), "src/a.txt:3: the line is a conflict marker (<<<<<<<)"),
        (token, json!({}), "src/a.txt:3: it has what looks like a secret"),
        (
            "printf 'bin\\0ghp_a1B2a1B2a1B2a1B2a1B2a1B2a1B2a1B2a1B2\\n' > b.bin",
            json!({}),
            "b.bin: it has what looks like a secret",
        ),
        ("echo x > other", json!({ "allow": ["src/**"] }), "other: it may not change (what may is src/**)"),
        ("git mv src/a.txt b.txt", json!({ "forbid": ["src/**"] }), "src/a.txt: it may not change (src/** is forbidden)"),
        ("echo > a; echo > b", json!({ "files": 1 }), "2 files changed, and 1 may"),
        ("seq 9 > a", json!({ "lines": 8 }), "9 lines were added or removed, and 8 may be"),
        ("seq 900 > a", json!({ "file_size": "1 KiB" }), "a: its 3.4 KiB are more than the 1.0 KiB that a changed file may have"),
        ("sed -i '/two/,$d' test_a.py", json!({ "weakened_tests": "reject" }), "test_a.py:4: 1 test is fewer here than before"),
        (
            "echo 'x = \"1\"' >> Cargo.toml",
            json!({ "lock_files": "reject" }),
            "Cargo.lock: the dependencies in Cargo.toml changed",
        ),
    ];
    for (command, checks, expected) in cases {
        let id = host.enqueue(&checked(&remote, command, &checks));
        let why = rejected(&host, id).await;
        assert!(why.starts_with("rejected: ") && why.contains(expected), "{command}: {why}");
        assert!(!why.contains("a1B2a1B2"), "a secret is not repeated: {why}");
    }
    host.close(vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_flagged_is_delivered_and_on_the_record() {
    let host = host(lodging()).await;
    let remote = remote(host.root(), &[("tests/test_a.py", TESTS), ("kept", "1\n")]);
    let worker = host.start("a").await;
    let id = host.enqueue(&job(&remote, "rm tests/test_a.py; echo '=======' > kept", &[]));
    let completion = delivered(&host, id).await;
    let [finding] = completion.findings.as_slice() else { panic!("{:?}", completion.findings) };
    assert_eq!((finding.rule, finding.response), (Rule::WeakenedTest, Response::Flag));
    assert_eq!(finding.path.as_deref(), Some("tests/test_a.py"));
    let said = host.log(id, 1, Stream::System).await;
    assert!(said.contains("flagged: tests/test_a.py: a file of tests was removed"), "{said}");
    host.close(vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_file_is_delivered_and_said_to_be_unread() {
    let host = host(lodging()).await;
    let remote = remote(host.root(), &[("kept", "1\n")]);
    let worker = host.start("a").await;
    let completion = delivered(&host, host.enqueue(&job(&remote, "head -c 5000000 /dev/zero > large", &[]))).await;
    let [finding] = completion.findings.as_slice() else { panic!("{:?}", completion.findings) };
    assert_eq!((finding.path.as_deref(), finding.rule, finding.response), (Some("large"), Rule::Unread, Response::Flag));
    host.close(vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_jobs_own_checks_cannot_make_those_of_the_operator_milder() {
    let host = host(lodging()).await;
    let remote = remote(host.root(), &[("kept", "1\n")]);
    let worker = host.start("a").await;
    let milder = json!({ "conflict_markers": "off", "leaks": "flag", "allow": ["**"] });
    let id = host.enqueue(&checked(&remote, "echo '>>>>>>> theirs' > kept", &milder));
    let why = rejected(&host, id).await;
    assert!(why.contains("kept:1: the line is a conflict marker"), "{why}");
    host.close(vec![worker]).await;
}
