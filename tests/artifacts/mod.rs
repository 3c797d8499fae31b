//! Files that outlive their workspace: what is kept, what is refused, and where it can be had, against the real daemon.

mod bucket;
mod server;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use sawmill::ids::{AttemptNo, JobId};
use sawmill::job::{Artifact, ArtifactKind, ArtifactState, JobState, OutcomeClass, Stream};
use serde_json::{Value, json};

use crate::delivery::daemon::Seat;
use crate::delivery::host::{Host, Lodging, On, until};
use crate::delivery::remote::{git, small_remote, write_program};

/// A lease that no test outlives.
const LONG: Duration = Duration::from_secs(600);

async fn host(on: On) -> Host {
    let mut host = Host::new(on, LONG, 1).await;
    host.set("SAWMILL_ARTIFACTS__FILE_SIZE", "100 KiB");
    host
}

/// A job that does this, and leaves a result that names these files.
fn job(remote: &Path, does: &str, wanted: &Value, named: &Value) -> Value {
    let result = json!({ "schema": 1, "ok": true, "summary": "Did it", "artifacts": named });
    let command = format!("set -e; echo more >> README.md; {does}\ncat > \"$SAWMILL_RESULT\" <<'END'\n{result}\nEND\n");
    json!({ "repo": remote, "task": { "command": command }, "artifacts": wanted, "attempts": 1 })
}

async fn artifacts(host: &Host, job: JobId) -> Vec<Artifact> {
    host.store.artifacts(job).await.expect("the record can be read")
}

fn named<'a>(all: &'a [Artifact], name: &str) -> &'a Artifact {
    all.iter().find(|artifact| artifact.name == name).unwrap_or_else(|| panic!("no {name} in {all:#?}"))
}

/// What an agent does that is no real one, and writes the events of one.
const AGENT: &str = r#"#!/bin/sh
say() { printf '%s\n' "$1"; }
say '{"type":"system","subtype":"init","session_id":"s","model":"m","claude_code_version":"1"}'
say '{"type":"assistant","message":{"content":[{"type":"tool_use","id":"t","name":"Bash","input":{"command":"echo more >> README.md"}}]}}'
echo more >> README.md
echo "on the side: $MODEL_KEY" >&2
say '{"type":"assistant","message":{"content":[{"type":"text","text":"I have seen '"$MODEL_KEY"'."}]}}'
[ "$OUTCOME" = none ] && exit 3
say '{"type":"result","subtype":"success","is_error":false,"result":"Did it"}'
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_an_agent_the_transcript_is_kept_as_the_log_has_it_beside_its_raw_events() {
    let mut host = host(On::Sqlite).await.lodge(Lodging::OnTheHost).await;
    let remote = small_remote(host.root(), "remote.git");
    let agent = host.root().join("agent");
    write_program(&agent, AGENT);
    host.set("SAWMILL_BACKENDS__AGENT__KIND", "claude_code");
    host.set("SAWMILL_BACKENDS__AGENT__COMMAND", &format!("[{agent:?}]"));
    host.set("SAWMILL_BACKENDS__AGENT__ENV", r#"["MODEL_KEY"]"#);
    host.set("MODEL_KEY", "correct-horse-battery");
    let worker = host.start("a").await;
    let spec = |outcome: &str| json!({ "repo": remote, "backend": "agent", "attempts": 1, "env": { "OUTCOME": outcome }, "task": { "instruction": "Do it" } });
    let done = host.succeeded(host.enqueue(&spec("done"))).await;
    let completion = host.completions(Some(done.id)).await.remove(0).completion;
    let names: Vec<&str> = completion.artifacts.iter().map(|artifact| artifact.name.as_str()).collect();
    assert_eq!(names, ["changes.patch", "changes.json", "events.jsonl", "transcript.txt"]);
    let failed = host.ended(host.enqueue(&spec("none"))).await;
    assert_eq!(failed.state, JobState::Failed, "{:?}", failed.outcome);
    for id in [done.id, failed.id] {
        let all = artifacts(&host, id).await;
        let (events, transcript) = (named(&all, "events.jsonl"), named(&all, "transcript.txt"));
        assert_eq!((events.kind, transcript.kind), (ArtifactKind::Events, ArtifactKind::Transcript));
        let text = |name: &str| String::from_utf8(download(&host, id, &[name]).stdout).expect("text");
        assert!(text("events.jsonl").contains(r#""text":"I have seen [redacted].""#), "{}", text("events.jsonl"));
        let transcript = text("transcript.txt");
        for line in
            ["[claude 1, model m, session s]", "$ echo more >> README.md", "on the side: [redacted]", "I have seen [redacted]."]
        {
            assert!(transcript.lines().any(|one| one == line), "{line:?} is not in\n{transcript}");
        }
        // It is the beginning of the log, with nothing left out and nothing beside.
        let mut log = Vec::new();
        let page = host.store.read_log(id, AttemptNo(1), 0, 1 << 20).await.expect("the log can be read");
        page.chunks.iter().for_each(|chunk| log.extend_from_slice(&chunk.data));
        assert!(log.starts_with(transcript.as_bytes()), "{transcript}");
    }
    host.close(vec![worker]).await;
}

/// What the command line gives of an artifact.
fn download(host: &Host, job: JobId, args: &[&str]) -> Output {
    let line: Vec<String> = ["job", "artifacts"].map(str::to_owned).into_iter().chain([job.to_string()]).collect();
    let line: Vec<&str> = line.iter().map(String::as_str).chain(args.iter().copied()).collect();
    host.command(&Seat::of("a"), &line).output().expect("the program runs")
}

fn everything_in(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.path().is_dir() { found.extend(everything_in(&entry.path())) } else { found.push(entry.path()) }
    }
    found
}

async fn what_is_named_is_kept_and_can_be_had_after_the_workspace_is_gone(on: On) {
    let host = host(on).await;
    let remote = small_remote(host.root(), "remote.git");
    let worker = host.start("a").await;
    let does = "printf 'out/\\n' > .gitignore; mkdir -p out/deep; echo '<ok/>' > out/deep/junit.xml; printf 'one\\0two' > out/core; \
                printf 'key ghp_%s\\n' a1B2a1B2a1B2a1B2a1B2a1B2a1B2a1B2a1B2 > out/notes.txt";
    let wanted = json!([{ "path": "**/junit.xml", "required": true }, { "path": "out/*" }]);
    let id = host.enqueue(&job(&remote, does, &wanted, &json!([{ "name": "the notes", "path": "out/notes.txt" }])));
    let ended = host.succeeded(id).await;

    let all = artifacts(&host, id).await;
    let names: Vec<&str> = all.iter().map(|artifact| artifact.name.as_str()).collect();
    assert_eq!(names, ["out/deep/junit.xml", "changes.patch", "changes.json", "out/core", "out/notes.txt", "the notes"]);
    assert!(all.iter().all(|artifact| artifact.state == ArtifactState::Kept), "{all:#?}");
    let completion = host.completions(Some(id)).await.remove(0).completion;
    assert_eq!(completion.artifacts, all.iter().filter_map(Artifact::delivered).collect::<Vec<_>>());
    assert_eq!(download(&host, id, &["out/deep/junit.xml"]).stdout, b"<ok/>\n");
    assert_eq!(download(&host, id, &["out/core", "--attempt", "1"]).stdout, b"one\0two");
    assert_eq!(download(&host, id, &["the notes"]).stdout, b"key [redacted]\n", "as in the log");
    let redacted = |name: &str| named(&all, name).kept.as_ref().expect("kept").redacted;
    assert!(redacted("the notes") && !redacted("out/core"));

    // The patch is the commit: applied to the base it makes the same tree.
    let patch = host.root().join("got.patch");
    assert!(download(&host, id, &["changes.patch", "--output", patch.to_str().expect("UTF-8")]).status.success());
    let clone = host.root().join("clone");
    git(host.root(), &["clone", "--quiet", remote.to_str().expect("UTF-8"), "clone"]);
    let apply = ["-c", "user.name=n", "-c", "user.email=e@x", "am", "--quiet", patch.to_str().expect("UTF-8")];
    git(&clone, &apply);
    let tree = git(&clone, &["rev-parse", "HEAD^{tree}"]);
    assert_eq!(tree.trim(), completion.tree.expect("a tree").as_str());
    let json = download(&host, id, &["changes.json"]).stdout;
    assert_eq!(serde_json::from_slice::<Value>(&json).expect("JSON")["files"], 2);
    assert!(ended.commit.is_some());

    let missing = download(&host, id, &["none"]);
    assert_eq!(missing.status.code(), Some(3), "{}", String::from_utf8_lossy(&missing.stderr));
    // A host of its own, whose directory is another one.
    let elsewhere = host.command(&Seat::of("b"), &["job", "artifacts", &id.to_string(), "the notes"]).output().expect("it runs");
    let said = String::from_utf8_lossy(&elsewhere.stderr).into_owned();
    assert_eq!(elsewhere.status.code(), Some(4), "{said}");
    assert!(said.contains("which this server does not reach") && said.contains("artifacts.store"), "{said}");
    host.close(vec![worker]).await;
}

async fn what_is_no_plain_file_of_the_worktree_or_too_large_is_refused_with_the_reason(on: On) {
    let host = host(on).await;
    let remote = small_remote(host.root(), "remote.git");
    let worker = host.start("a").await;
    let does = "printf 'x.*\\nbig\\ndir\\nsecret\\n' > .gitignore; ln -s /etc/passwd x.link; mkfifo x.pipe; ln -s /etc dir; \
                head -c 200000 /dev/zero > big; printf 'a\\0ghp_%s\\n' a1B2a1B2a1B2a1B2a1B2a1B2a1B2a1B2a1B2 > secret";
    let file = |path: &str| json!({ "name": path, "path": path });
    let named_files = json!([file("dir/passwd"), file("../result.json"), file("/etc/passwd"), file("gone"), file("secret")]);
    let id = host.enqueue(&job(&remote, does, &json!([{ "path": "x.*" }, { "path": "big" }]), &named_files));
    host.succeeded(id).await;

    let all = artifacts(&host, id).await;
    let check = |name: &str, state: ArtifactState, reason: &str| {
        let found = named(&all, name);
        let said = found.reason.clone().unwrap_or_default();
        assert!(found.state == state && found.kept.is_none() && said.contains(reason), "{found:#?}");
    };
    check("x.link", ArtifactState::Refused, "x.link is a symbolic link");
    check("x.pipe", ArtifactState::Refused, "x.pipe is a named pipe");
    check("big", ArtifactState::Refused, "102400 are left of artifacts.file_size");
    check("dir/passwd", ArtifactState::Refused, "dir is a symbolic link");
    check("../result.json", ArtifactState::Refused, "leaves the worktree");
    check("/etc/passwd", ArtifactState::Refused, "leaves the worktree");
    check("secret", ArtifactState::Refused, "has a secret in it");
    check("gone", ArtifactState::Missing, "there is no such file");
    let log = host.log(id, 1, Stream::System).await;
    assert!(log.contains("artifact x.link is not kept: x.link is a symbolic link"), "{log}");
    assert_eq!(download(&host, id, &["x.link"]).status.code(), Some(3));
    let kept = everything_in(&host.state_dir("a").join("artifacts"));
    assert!(kept.iter().all(|path| !fs::read_to_string(path).unwrap_or_default().contains("root:")), "{kept:?}");
    host.close(vec![worker]).await;
}

async fn a_required_file_that_is_missing_rejects_the_attempt_whose_other_files_are_kept(on: On) {
    let host = host(on).await;
    let remote = small_remote(host.root(), "remote.git");
    let worker = host.start("a").await;
    let wanted = json!([{ "path": "report.xml", "required": true }, { "path": "README.md" }]);
    let id = host.enqueue(&job(&remote, "true", &wanted, &json!([])));
    let ended = host.ended(id).await;
    let outcome = ended.outcome.expect("it has ended");
    assert_eq!((ended.state, outcome.class), (JobState::Failed, OutcomeClass::Gate), "{}", outcome.message);
    assert_eq!(outcome.message, "required artifact report.xml is not kept: there is no such file");
    assert_eq!(host.completions(Some(id)).await, []);
    let all = artifacts(&host, id).await;
    assert_eq!((named(&all, "report.xml").state, named(&all, "README.md").state), (ArtifactState::Missing, ArtifactState::Kept));

    // One whose program fails is not asked for what is required, and what there is of it is kept.
    let mut failing = job(&remote, "echo half > half.txt; exit 7", &wanted, &json!([]));
    failing["artifacts"] = json!([{ "path": "half.txt" }, { "path": "none", "required": true }]);
    let id = host.enqueue(&failing);
    let outcome = host.ended(id).await.outcome.expect("it has ended");
    assert_eq!(outcome.class, OutcomeClass::Backend, "{}", outcome.message);
    let all = artifacts(&host, id).await;
    assert_eq!((named(&all, "half.txt").state, named(&all, "none").state), (ArtifactState::Kept, ArtifactState::Missing));
    let patch = String::from_utf8(download(&host, id, &["salvage.patch"]).stdout).expect("text");
    assert!(patch.contains("+half"), "{patch}");
    host.close(vec![worker]).await;
}

/// Of work that no gate or critic judges, and of which nothing is required, files are kept while it is pushed.
async fn what_is_rejected_by_a_check_or_by_the_remote_has_its_files_kept_too(on: On) {
    let host = host(on).await;
    let remote = small_remote(host.root(), "remote.git");
    write_program(
        &remote.join("hooks/update"),
        "#!/bin/sh\ncase $1 in refs/heads/*) echo 'no pushes on Fridays' >&2; exit 1;; esac\n",
    );
    let worker = host.start("a").await;
    let mut checked = job(&remote, "true", &json!([{ "path": "README.md" }]), &json!([]));
    checked["checks"] = json!([{ "forbid": ["README.md"] }]);
    let refused = job(&remote, "true", &json!([{ "path": "README.md" }]), &json!([]));
    for (spec, class) in [(checked, OutcomeClass::Gate), (refused, OutcomeClass::Invalid)] {
        let id = host.enqueue(&spec);
        let outcome = host.ended(id).await.outcome.expect("it has ended");
        assert_eq!(outcome.class, class, "{}", outcome.message);
        let all = artifacts(&host, id).await;
        let names: Vec<&str> = all.iter().filter(|one| one.kept.is_some()).map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["changes.patch", "changes.json", "README.md"], "{class:?}");
    }
    host.close(vec![worker]).await;
}

async fn what_is_required_is_kept_before_limits_are_met_and_the_rest_is_refused(on: On) {
    let mut host = host(on).await;
    host.set("SAWMILL_ARTIFACTS__ATTEMPT_SIZE", "100 KiB");
    host.set("SAWMILL_ARTIFACTS__FILES", "3");
    let remote = small_remote(host.root(), "remote.git");
    let worker = host.start("a").await;
    // The patch alone would take most of it.
    let does = "head -c 60000 /dev/urandom > patched; echo ignored > .gitignore; head -c 60000 /dev/zero > ignored";
    let wanted = json!([{ "path": "README.md" }, { "path": "ignored", "required": true }]);
    let id = host.enqueue(&job(&remote, does, &wanted, &json!([{ "name": "last", "path": "README.md" }])));
    host.succeeded(id).await;
    let all = artifacts(&host, id).await;
    let kept: Vec<&str> = all.iter().filter(|one| one.kept.is_some()).map(|one| one.name.as_str()).collect();
    assert_eq!(kept, ["ignored", "changes.json", "README.md"]);
    let why = |name: &str| named(&all, name).reason.clone().expect("a reason");
    assert!(why("changes.patch").ends_with("are left of artifacts.attempt_size"), "{}", why("changes.patch"));
    assert_eq!(why("last"), "artifacts.files allows 3");
    assert_eq!((named(&all, "last").state, named(&all, "changes.patch").state), (ArtifactState::Refused, ArtifactState::Refused));

    // What is more than there may be of a required file rejects.
    let does = "seq 9 > a; seq 9 > b; seq 9 > c; seq 9 > d";
    let id = host.enqueue(&job(&remote, does, &json!([{ "path": "?", "required": true }]), &json!([])));
    let outcome = host.ended(id).await.outcome.expect("it has ended");
    let expected = (OutcomeClass::Gate, "required artifact d is not kept: artifacts.files allows 3");
    assert_eq!((outcome.class, outcome.message.as_str()), expected);
    // Nor does one take the name of what is kept of every attempt.
    let id =
        host.enqueue(&job(&remote, "seq 9 > changes.json", &json!([{ "path": "changes.json", "required": true }]), &json!([])));
    let outcome = host.ended(id).await.outcome.expect("it has ended");
    assert!(outcome.message.ends_with("another artifact of the attempt has this name"), "{}", outcome.message);
    host.close(vec![worker]).await;
}

async fn a_directory_that_is_away_fails_only_who_requires_a_file(on: On) {
    let mut host = host(on).await;
    let place = host.root().join("no-directory");
    fs::write(&place, "a file, where a directory is to be").expect("written");
    host.set("SAWMILL_ARTIFACTS__STORE", place.to_str().expect("UTF-8"));
    let remote = small_remote(host.root(), "remote.git");
    let worker = host.start("a").await;
    let id = host.enqueue(&job(&remote, "true", &json!([{ "path": "README.md" }]), &json!([])));
    host.succeeded(id).await;
    let all = artifacts(&host, id).await;
    assert!(all.len() == 3 && all.iter().all(|artifact| artifact.state == ArtifactState::Failed), "{all:#?}");
    let reason = named(&all, "README.md").reason.clone().expect("a reason");
    assert!(reason.contains("cannot use") && reason.contains("no-directory"), "{reason}");
    let id = host.enqueue(&job(&remote, "true", &json!([{ "path": "README.md", "required": true }]), &json!([])));
    until("an attempt fails", async || host.attempts(id).await.first().is_some_and(|attempt| attempt.outcome.is_some())).await;
    let outcome = host.attempts(id).await.remove(0).outcome.expect("it has ended");
    assert_eq!(outcome.class, OutcomeClass::Infrastructure, "{}", outcome.message);
    assert!(outcome.message.starts_with("required artifact README.md is not kept: cannot use"), "{}", outcome.message);
    // It is tried again at no charge, as long as that lasts.
    host.store.cancel(id, "enough").await.expect("asked");
    host.ended(id).await;
    host.close(vec![worker]).await;
}

async fn objects_go_with_their_job(on: On) {
    let mut host = host(on).await;
    host.set("SAWMILL_QUEUE__RETENTION", "1s");
    let remote = small_remote(host.root(), "remote.git");
    let worker = host.start("a").await;
    let id = host.enqueue(&job(&remote, "exit 1", &json!([{ "path": "README.md" }]), &json!([])));
    let dir = host.state_dir("a").join("artifacts");
    until("something is kept", async || everything_in(&dir).len() > 1).await;
    until("the job is gone", async || host.store.job(id).await.is_err()).await;
    until("its objects are gone", async || everything_in(&dir) == [dir.join("place")]).await;
    host.close(vec![worker]).await;
}

macro_rules! on_both {
    ($($story:ident)*) => { $(
        mod $story {
            use super::On;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() {
                super::$story(On::Sqlite).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres() {
                super::$story(On::Postgres).await;
            }
        }
    )* };
}

on_both! {
    what_is_named_is_kept_and_can_be_had_after_the_workspace_is_gone
    objects_go_with_their_job
}

macro_rules! on_sqlite {
    ($($story:ident)*) => { $(
        mod $story {
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() {
                super::$story(super::On::Sqlite).await;
            }
        }
    )* };
}

on_sqlite! {
    what_is_required_is_kept_before_limits_are_met_and_the_rest_is_refused
    what_is_no_plain_file_of_the_worktree_or_too_large_is_refused_with_the_reason
    a_required_file_that_is_missing_rejects_the_attempt_whose_other_files_are_kept
    what_is_rejected_by_a_check_or_by_the_remote_has_its_files_kept_too
    a_directory_that_is_away_fails_only_who_requires_a_file
}
