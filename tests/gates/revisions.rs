//! A backend that hears within one attempt what was wrong with its work: it goes on from there, as often as it may and no longer.

use std::path::{Path, PathBuf};

use sawmill::ids::JobId;
use sawmill::job::Stage::{Commit, Execute, Judge, Prepare, Publish};
use sawmill::job::checks::Rule;
use sawmill::job::{JobState, OutcomeClass, Stream};
use serde_json::{Value, json};

use super::{delivered, host, rejected, remote};
use crate::delivery::host::{Host, Lodging, lodging};
use crate::delivery::remote::{git, refs};

/// What every round begins with: it knows its number, and says what it was told.
const BEGIN: &str = "round=$(sed -n 's/.*\"number\": \\([0-9]*\\),.*/\\1/p' \"$SAWMILL_SPEC\"); round=${round:-0}\n\
    printf 'told %s %s\\n' \"$round\" \"$(tr -d '\\n' < \"$SAWMILL_SPEC\")\"\n";

/// What every round ends with.
const END: &str = "\nprintf '{\"schema\":1,\"ok\":true,\"summary\":\"Round %s\",\"session\":\"s-1\",\
    \"usage\":{\"prompt_tokens\":100,\"completion_tokens\":30}}' \"$round\" > \"$SAWMILL_RESULT\"\n";

/// A host whose backend `agent` runs the script of that name in the worktree, and may revise.
pub(crate) fn with_agent(mut host: Host) -> Host {
    host.set("SAWMILL_BACKENDS__AGENT__KIND", "command");
    host.set("SAWMILL_BACKENDS__AGENT__COMMAND", "[\"sh\", \"agent.sh\"]");
    host.set("SAWMILL_BACKENDS__AGENT__REVISES", "true");
    host
}

/// A repository with a script that does this in each round.
pub(crate) fn scripted(root: &Path, rounds: &str) -> PathBuf {
    remote(root, &[("agent.sh", &format!("{BEGIN}{rounds}{END}")), ("kept.txt", "kept\n"), ("gone.txt", "gone\n")])
}

/// A job for that, which may be revised so often.
pub(crate) fn job(remote: &Path, gate: &str, revisions: u32) -> Value {
    json!({ "repo": remote, "backend": "agent", "task": { "instruction": "Do it" }, "revisions": revisions,
        "gates": [{ "name": "unit", "command": gate }] })
}

/// What each round of an attempt was told.
pub(crate) async fn told(host: &Host, job: JobId, attempt: u32) -> Vec<(u32, Value)> {
    let log = host.log(job, attempt, Stream::Stdout).await;
    let told = log.lines().filter_map(|line| line.strip_prefix("told ")?.split_once(' '));
    told.map(|(round, text)| (round.parse().expect("a number"), serde_json::from_str(text).expect("JSON"))).collect()
}

async fn is_revised(lodging: Lodging) {
    let host = with_agent(host(lodging).await);
    // The second round has what the first one had, whatever was shown in its place meanwhile.
    let rounds = "case $round in\n0) echo bad > work.txt; : > \"$HOME/mark\"; : > \"$TMPDIR/mark\";;\n\
        1) set -e; test \"$(cat work.txt)\" = bad; test -e \"$HOME/mark\"; test -e \"$TMPDIR/mark\"; echo good > work.txt;;\nesac";
    let remote = scripted(host.root(), rounds);
    let worker = host.start("a").await;
    let id = host.enqueue(&job(&remote, "echo looking for good; grep -q good work.txt", 2));
    let completion = delivered(&host, id).await;

    let told = told(&host, id, 1).await;
    assert_eq!(told.iter().map(|(round, _)| *round).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(told[0].1.get("revision"), None);
    let revision = &told[1].1["revision"];
    assert_eq!((&revision["number"], &revision["of"], &revision["session"]), (&json!(1), &json!(2), &json!("s-1")));
    let rejection = &revision["rejection"];
    assert_eq!((&rejection["message"], &rejection["summary"]), (&json!("gate unit exited with status 1"), &json!("Round 0")));
    assert_eq!((&rejection["gates"][0]["exit"], &rejection["output"]), (&json!(1), &json!("looking for good")));
    assert!(revision["diff"].as_str().expect("a diff").contains("\n+bad\n"), "{revision}");

    let branch = completion.branch.as_deref().expect("a branch");
    assert_eq!(git(&remote, &["rev-list", "--count", &format!("main..{branch}")]), "1");
    assert_eq!(git(&remote, &["show", &format!("{branch}:work.txt")]), "good");
    assert!(git(&remote, &["log", "-1", "--format=%s", branch]).starts_with("Round 1"));
    let [before] = completion.rejections.as_slice() else { panic!("{:?}", completion.rejections) };
    assert_eq!((before.class, before.gates[0].exit, completion.gates[0].exit), (OutcomeClass::Gate, Some(1), Some(0)));
    assert_ne!(before.tree, completion.tree);
    let usage = completion.usage.expect("usage");
    assert_eq!((usage.prompt_tokens, usage.completion_tokens), (200, 60), "that of both rounds");

    let attempts = host.attempts(id).await;
    let [attempt] = attempts.as_slice() else { panic!("{attempts:?}") };
    assert_eq!((attempt.usage.as_ref(), attempt.rejections.len()), (Some(&usage), 1));
    let stages: Vec<_> = attempt.stages.iter().map(|stage| stage.stage).take(7).collect();
    assert_eq!(stages, [Prepare, Execute, Commit, Judge, Execute, Commit, Judge]);
    assert_eq!(attempt.stages[7].stage, Publish);
    let says = "revision 1 of 2: gate unit exited with status 1";
    assert_eq!((attempt.stages[3].outcome, attempt.stages[3].detail.as_deref()), (Some(OutcomeClass::Gate), Some(says)));
    let log = host.log(id, 1, Stream::System).await;
    assert!(log.contains(says), "{log}");
    host.close(vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_gate_rejects_is_revised_and_delivered_as_one_commit() {
    is_revised(Lodging::OnTheHost).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_container_a_revision_sees_its_own_files_again_after_the_gates() {
    is_revised(Lodging::InContainers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_check_finds_is_told_with_file_and_line() {
    let host = with_agent(host(lodging()).await);
    let rounds = "case $round in\n0) printf 'one\\n<<<<<<< HEAD\\n' > work.txt;;\n1) echo one > work.txt;;\nesac";
    let remote = scripted(host.root(), rounds);
    let worker = host.start("a").await;
    let id = host.enqueue(&job(&remote, "test -s work.txt", 1));
    let completion = delivered(&host, id).await;
    let found = &completion.rejections[0].findings[0];
    assert_eq!((found.rule, found.path.as_deref(), found.line), (Rule::ConflictMarker, Some("work.txt"), Some(2)));
    let told = told(&host, id, 1).await;
    let finding = &told[1].1["revision"]["rejection"]["findings"][0];
    assert_eq!((&finding["path"], &finding["line"]), (&json!("work.txt"), &json!(2)));
    host.close(vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rounds_that_end_alike_are_the_last() {
    let host = with_agent(host(lodging()).await);
    // The same tree; other trees with the same output, numbers aside; and no change at all.
    let cases = [
        ("echo bad > work.txt", "echo judged; false", "gate unit exited with status 1"),
        ("echo $round > work.txt", "echo took $(cat work.txt) s; false", "gate unit exited with status 1"),
        (":", "true", "agent changed nothing, and a change was required"),
    ];
    let mut workers = Vec::new();
    for (at, (rounds, gate, why)) in cases.into_iter().enumerate() {
        let remote = scripted(&host.root().join(format!("case-{at}")), rounds);
        if workers.is_empty() {
            workers.push(host.start("a").await);
        }
        let id = host.enqueue(&job(&remote, gate, 5));
        let ended = host.ended(id).await;
        let outcome = ended.outcome.expect("it has ended");
        assert_eq!(outcome.message, format!("{why}; revision 1 of 5 ended as the round before it"));
        assert_eq!((ended.state, told(&host, id, 1).await.len()), (JobState::Failed, 2));
        let log = host.log(id, 1, Stream::Stdout).await;
        assert!(log.lines().filter(|line| *line == "judged").count() <= 1, "the same tree is not judged twice: {log}");
        assert_eq!(refs(&remote, "refs/heads/sawmill/"), []);
    }
    host.close(workers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_are_no_more_rounds_than_allowed_and_nothing_of_them_is_delivered() {
    let host = with_agent(host(lodging()).await);
    let remote = scripted(host.root(), "for n in 0 $(seq $round); do echo x >> work.txt; done");
    let worker = host.start("a").await;
    let id = host.enqueue(&job(&remote, "cat work.txt; false", 2));
    assert_eq!(rejected(&host, id).await, "gate unit exited with status 1; that was revision 2 of 2");
    assert_eq!(told(&host, id, 1).await.len(), 3);
    let attempt = host.attempts(id).await.remove(0);
    assert_eq!((attempt.rejections.len(), attempt.usage.map(|usage| usage.prompt_tokens)), (3, Some(300)));
    assert!(attempt.salvage.is_some(), "what it came to is kept");
    assert_eq!(refs(&remote, "refs/heads/sawmill/"), []);
    host.close(vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_that_is_used_up_ends_the_rounds() {
    let host = with_agent(host(lodging()).await);
    let remote = scripted(host.root(), "echo $round > work.txt");
    let worker = host.start("a").await;
    let mut spec = job(&remote, "cat work.txt; exit $(cat work.txt)1", 5);
    spec["budget"] = json!({ "tokens": 200 });
    let why = rejected(&host, host.enqueue(&spec)).await;
    assert!(why.starts_with("gate unit exited with status 11; it is not revised, for the budget of job "), "{why}");
    assert!(why.ends_with(": 260 of 200 tokens used"), "{why}");
    host.close(vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_is_of_its_own_round() {
    let host = with_agent(host(lodging()).await);
    // The second round says nothing, and what the first one said is not taken for its word. Links are not followed.
    let rounds =
        "echo $round > work.txt; if [ $round = 1 ]; then exit 0; fi; rm \"$SAWMILL_SPEC\"; ln -s /dev/null \"$SAWMILL_SPEC\"";
    let remote = scripted(host.root(), rounds);
    let worker = host.start("a").await;
    let ended = host.ended(host.enqueue(&job(&remote, "false", 3))).await;
    let outcome = ended.outcome.expect("it has ended");
    assert_eq!(outcome.message, "agent exited with status 0, and no result file");
    assert_eq!(host.attempts(ended.id).await[0].rejections.len(), 1);
    host.close(vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_knows_nothing_of_revisions_is_not_run_again() {
    let host = host(lodging()).await;
    let remote = remote(host.root(), &[("kept.txt", "kept\n")]);
    let worker = host.start("a").await;
    let spec = |revisions: Option<u32>| {
        json!({ "repo": remote, "task": { "command": "echo run; echo bad > work.txt" }, "revisions": revisions,
            "gates": [{ "name": "unit", "command": "false" }] })
    };
    let plain = host.enqueue(&spec(None));
    assert_eq!(rejected(&host, plain).await, "gate unit exited with status 1");
    let asked = host.enqueue(&spec(Some(2)));
    assert_eq!(rejected(&host, asked).await, "gate unit exited with status 1; shell cannot be told, so there is no revision");
    assert_eq!(host.log(asked, 1, Stream::Stdout).await, "run\n");
    host.close(vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_one_deadline_ends_a_revision_that_began_within_it() {
    let host = with_agent(host(lodging()).await);
    // A deadline of its own would leave the second round another twenty seconds.
    let remote = scripted(host.root(), "echo $round > work.txt; if [ $round = 0 ]; then sleep 5; else sleep 600; fi");
    let worker = host.start("a").await;
    let mut spec = job(&remote, "false", 3);
    spec["timeout"] = json!("20s");
    let id = host.enqueue(&spec);
    let ended = host.ended(id).await;
    let outcome = ended.outcome.expect("it has ended");
    assert_eq!((ended.state, outcome.class), (JobState::Failed, OutcomeClass::Timeout), "{}", outcome.message);
    let attempt = host.attempts(id).await.remove(0);
    let stages: Vec<_> = attempt.stages.iter().map(|stage| stage.stage).collect();
    assert_eq!(stages[..5], [Prepare, Execute, Commit, Judge, Execute]);
    let took = attempt.stages[4].ended_at.expect("it has ended").since(attempt.stages[0].started_at);
    assert!(took.as_secs() < 23, "{took:?}");
    assert_eq!((attempt.rejections.len(), attempt.salvage.is_some()), (1, true), "{attempt:?}");
    assert_eq!(host.completions(Some(id)).await, []);
    assert_eq!(refs(&remote, "refs/heads/sawmill/"), []);
    host.close(vec![worker]).await;
}
