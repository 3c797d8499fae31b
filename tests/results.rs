//! What a program leaves as its result, and what it waits for, against the real daemon: too much, garbage, something else than a file,
//! at another time, or nothing at all.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sawmill::job::{JobState, OutcomeClass, Stream};
use serde_json::{Value, json};

use crate::delivery::daemon::Seat;
use crate::delivery::host::{Host, On, until};
use crate::delivery::remote::{git, refs, small_remote};

/// A lease that no test outlives.
const LONG: Duration = Duration::from_secs(600);

/// A host with a program of kind `command`, which runs the script that is in its environment, wherever jobs run.
async fn host(on: On) -> (Host, PathBuf) {
    host_with(on, 1).await
}

/// The same with so many slots.
async fn host_with(on: On, slots: u32) -> (Host, PathBuf) {
    let mut host = Host::new(on, LONG, slots).await;
    host.set("SAWMILL_BACKENDS__PROGRAM__KIND", "command");
    host.set("SAWMILL_BACKENDS__PROGRAM__COMMAND", r#"["sh", "-c", "exec sh -ec \"$SCRIPT\""]"#);
    let remote = small_remote(host.root(), "remote.git");
    (host, remote)
}

fn job(remote: &Path, script: &str) -> Value {
    let env = json!({ "SCRIPT": format!("echo more >> README.md\n{script}") });
    json!({ "repo": remote, "backend": "program", "attempts": 1, "env": env, "task": { "instruction": "Run the script" } })
}

/// A line of shell that writes this result in one go, there or as what is moved there.
fn leave(ok: bool, summary: &str) -> String {
    let result = json!({ "schema": 1, "ok": ok, "summary": summary });
    format!("printf '%s' '{result}' > \"$SAWMILL_RESULT.new\"; mv \"$SAWMILL_RESULT.new\" \"$SAWMILL_RESULT\"\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_small_plain_file_with_the_document_is_no_result_and_the_worker_goes_on() {
    let (host, remote) = host(On::Sqlite).await;
    let worker = host.start("a").await;
    let good = host.root().join("good.json");
    fs::write(&good, r#"{"schema":1,"ok":true,"summary":"not its own"}"#).expect("a file");
    let cases = [
        ("truncate -s 1G \"$SAWMILL_RESULT\"".to_owned(), "the result file has 1073741824 bytes; 1048576 are allowed"),
        ("head -c 5000 /dev/urandom > \"$SAWMILL_RESULT\"".to_owned(), "the result file is malformed: "),
        (format!("ln -s {} \"$SAWMILL_RESULT\"", good.display()), "the result is not a plain file"),
        ("mkfifo \"$SAWMILL_RESULT\"".to_owned(), "the result is not a plain file"),
        ("ln -s /dev/zero \"$SAWMILL_RESULT\"".to_owned(), "the result is not a plain file"),
        ("mkdir \"$SAWMILL_RESULT\"".to_owned(), "the result is not a plain file"),
        (":".to_owned(), "no result file"),
    ];
    for (script, expected) in cases {
        let ended = host.ended(host.enqueue(&job(&remote, &script))).await;
        let outcome = ended.outcome.expect("it has ended");
        assert_eq!((ended.state, outcome.class), (JobState::Failed, OutcomeClass::Backend), "{script}");
        let message = outcome.message.strip_prefix("program exited with status 0, and ").unwrap_or_default();
        assert!(message.starts_with(expected), "{script}: {}", outcome.message);
    }
    assert_eq!(refs(&remote, "refs/heads/sawmill/"), []);
    // Nothing of it is in the way of the next one.
    host.succeeded(host.enqueue(&job(&remote, &leave(true, "Did it")))).await;
    host.close(vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_after_the_program_has_ended_counts_for_nothing() {
    let (host, remote) = host(On::Sqlite).await;
    let worker = host.start("a").await;
    let wait = "until [ -e \"$HOME/never\" ]; do sleep 0.1; done";
    // One that wrote none itself, and leaves a process that would write one when nobody looks any more.
    let late = format!(
        "setsid sh -c 'trap \"\" TERM; sleep 30; {}' > /dev/null 2>&1 & exit 0",
        leave(true, "Too late").trim().replace('\'', "'\\''")
    );
    let ended = host.ended(host.enqueue(&job(&remote, &late))).await;
    let outcome = ended.outcome.expect("it has ended");
    assert_eq!(
        (outcome.class, outcome.message.as_str()),
        (OutcomeClass::Backend, "program exited with status 0, and no result file")
    );
    let log = host.log(ended.id, 1, Stream::System).await;
    assert!(log.contains("sleep"), "what was left is named: {log}");
    // One that wrote its own, beside a process that waits to write another.
    let both = format!("setsid sh -c '{wait}; echo late' > /dev/null 2>&1 &\n{}", leave(true, "In time"));
    let job = host.succeeded(host.enqueue(&job(&remote, &both))).await;
    assert_eq!(host.completions(Some(job.id)).await[0].completion.summary.as_deref(), Some("In time"));
    host.close(vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_result_that_is_written_twice_the_last_one_counts() {
    let (host, remote) = host(On::Sqlite).await;
    let worker = host.start("a").await;
    let mended = format!("echo garbage > \"$SAWMILL_RESULT\"\n{}{}", leave(false, "No idea"), leave(true, "Found it after all"));
    let job_of = |script: &str| host.enqueue(&job(&remote, script));
    let done = host.succeeded(job_of(&mended)).await;
    assert_eq!(host.completions(Some(done.id)).await[0].completion.summary.as_deref(), Some("Found it after all"));
    assert!(git(&remote, &["log", "-1", "--format=%s", done.branch.as_str()]).starts_with("Found it after all"));
    let undone = format!("{}{}", leave(true, "Done"), leave(false, "It was not"));
    let outcome = host.ended(job_of(&undone)).await.outcome.expect("it has ended");
    assert_eq!(outcome.message, "program reported failure: It was not");
    host.close(vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prompt_on_standard_input_finds_its_end_and_hangs_nobody() {
    let (host, remote) = host(On::Sqlite).await;
    let worker = host.start("a").await;
    let prompt = "if read -r -p 'Go on? [y/N] ' answer; then echo \"was told $answer\"; else echo 'nobody is there'; fi\n";
    let script = format!("{prompt}if [ -t 0 ]; then echo a terminal; fi\n{}", leave(true, "Asked nobody"));
    let asked = host.succeeded(host.enqueue(&job(&remote, &script))).await;
    assert_eq!(host.log(asked.id, 1, Stream::Stdout).await, "nobody is there\n");
    // The job's own command, and a gate, find the same.
    let command = "cat; read -r answer || echo went on >> README.md";
    let spec = json!({ "repo": remote, "task": { "command": command }, "gates": [{ "name": "asks", "command": "read -r x; test -z \"$x\"" }] });
    let plain = host.succeeded(host.enqueue(&spec)).await;
    assert!(git(&remote, &["show", &format!("{}:README.md", plain.branch)]).ends_with("went on"));
    host.close(vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_that_a_result_repeats_is_published() {
    const KEY: &str = "correct-horse-battery";
    let (mut host, remote) = host(On::Sqlite).await;
    host.set("SAWMILL_BACKENDS__PROGRAM__ENV", r#"["MODEL_KEY"]"#);
    host.set("MODEL_KEY", KEY);
    let worker = host.start("a").await;
    let result_of = |result: &str| {
        let script = format!("cat > \"$SAWMILL_RESULT.new\" <<E\n{result}\nE\nmv \"$SAWMILL_RESULT.new\" \"$SAWMILL_RESULT\"");
        host.enqueue(&job(&remote, &script))
    };
    let usage = r#""usage":{"prompt_tokens":1,"completion_tokens":1,"model":"of-$MODEL_KEY"}"#;
    let done = format!(r#"{{"schema":1,"ok":true,"summary":"Did it with $MODEL_KEY\n\nAnd $MODEL_KEY again",{usage}}}"#);
    let done = host.succeeded(result_of(&done)).await;
    let completion = host.completions(Some(done.id)).await.remove(0).completion;
    assert_eq!(completion.summary.as_deref(), Some("Did it with [redacted]\n\nAnd [redacted] again"));
    assert_eq!(completion.usage.and_then(|usage| usage.model).as_deref(), Some("of-[redacted]"));
    let message = git(&remote, &["log", "-1", "--format=%B", done.branch.as_str()]);
    assert!(message.starts_with("Did it with [redacted]\n\nAnd [redacted] again\n"), "{message}");

    let ends = [
        (
            r#"{"schema":1,"ok":false,"summary":"no luck with $MODEL_KEY"}"#,
            OutcomeClass::Backend,
            "program reported failure: no luck with [redacted]",
        ),
        (
            r#"{"schema":1,"ok":false,"clarification":"Is $MODEL_KEY right?"}"#,
            OutcomeClass::Clarification,
            "Is [redacted] right?",
        ),
        (r#"{"schema":1,"ok":"$MODEL_KEY"}"#, OutcomeClass::Backend, "invalid type: string \"[redacted]\", expected a boolean"),
        (
            r#"{"schema":1,"ok":false,"summary":"$MODEL_KEY is used up","retry_at":0}"#,
            OutcomeClass::UsageLimit,
            "program met a usage limit: [redacted] is used up",
        ),
    ];
    for (result, class, message) in ends {
        let id = result_of(result);
        let mut outcome = None;
        until("the attempt ends", async || {
            outcome = host.attempts(id).await.pop().and_then(|attempt| attempt.outcome);
            outcome.is_some()
        })
        .await;
        let outcome = outcome.expect("an outcome");
        assert_eq!(outcome.class, class, "{outcome}");
        assert!(outcome.message.ends_with(message), "{outcome}");
        let told = host.sawmill(&["job", "show", &id.to_string()]).to_string();
        assert!(!told.contains(KEY), "{told}");
        if !host.job(id).await.state.is_final() {
            host.sawmill(&["job", "cancel", &id.to_string()]);
            host.ended(id).await;
        }
    }
    let log = worker.log();
    assert!(!log.contains(KEY), "{log}");
    host.close(vec![worker]).await;
}

async fn the_second_job_of_a_used_up_budget_is_not_started_and_explain_says_so(on: On) {
    let (mut host, remote) = host(on).await;
    host.set("SAWMILL_PROJECTS__APP__REPO", remote.to_str().expect("UTF-8"));
    host.set("SAWMILL_PROJECTS__APP__BUDGET", "{ tokens = 100, per = \"all\" }");
    let worker = host.start("a").await;
    let uses =
        json!({ "schema": 1, "ok": true, "summary": "Did it", "usage": { "prompt_tokens": 100, "completion_tokens": 30 } });
    let script = format!("printf '%s' '{uses}' > \"$SAWMILL_RESULT\"");
    let spec = || {
        let mut spec = job(&remote, &script);
        spec["project"] = json!("app");
        spec.as_object_mut().expect("an object").remove("repo");
        spec
    };
    let first = host.succeeded(host.enqueue(&spec())).await;
    let used = host.completions(Some(first.id)).await.remove(0).completion.usage.expect("usage");
    assert_eq!(used.prompt_tokens + used.completion_tokens, 130, "what runs may go beyond it");

    let second = host.enqueue(&spec());
    until("it is held by the budget", async || host.job(second).await.held.is_some_and(|held| held.as_str() == "budget")).await;
    let told = host.sawmill(&["job", "explain", &second.to_string()]);
    let reason =
        told["reasons"].as_array().and_then(|all| all.iter().find(|reason| reason["kind"] == "budget")).expect("the budget");
    assert_eq!(
        (&reason["budget"]["name"], &reason["budget"]["spent"]["completion_tokens"]),
        (&json!("app"), &json!(30)),
        "{told}"
    );
    let said = host.command(&Seat::of("client"), &["job", "explain", &second.to_string()]).output().expect("it runs");
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("130 of 100 tokens used") && said.contains("a higher budget in [projects.app]"), "{said}");
    // What draws on no budget goes on.
    host.succeeded(host.enqueue(&job(&remote, &leave(true, "Of no project")))).await;
    assert_eq!(host.job(second).await.attempt, None);
    host.close(vec![worker]).await;
}

mod the_second_job_of_a_used_up_budget_is_not_started_and_explain_says_so {
    use super::On;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn sqlite() {
        super::the_second_job_of_a_used_up_budget_is_not_started_and_explain_says_so(On::Sqlite).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn postgres() {
        super::the_second_job_of_a_used_up_budget_is_not_started_and_explain_says_so(On::Postgres).await;
    }
}

/// It says after each step that it has used 100 tokens and a dollar more, and does not end by itself.
const SPENDS: &str = "grep -A 3 '\"budget\"' \"$SAWMILL_SPEC\"; n=0
    while :; do
        n=$((n + 1))
        printf '{\"prompt_tokens\":%d00,\"completion_tokens\":0,\"cost_usd\":%d.25}' $n $n > \"$SAWMILL_USAGE.new\"
        mv \"$SAWMILL_USAGE.new\" \"$SAWMILL_USAGE\"; sleep 0.2
    done";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_uses_more_than_a_budget_has_left_is_ended_while_it_works_and_is_not_tried_again() {
    let (mut host, remote) = host(On::Sqlite).await;
    host.set("SAWMILL_PROJECTS__APP__REPO", remote.to_str().expect("UTF-8"));
    host.set("SAWMILL_PROJECTS__APP__BUDGET", "{ tokens = 1000, per = \"all\" }");
    let worker = host.start("a").await;
    let mut spec = job(&remote, SPENDS);
    (spec["attempts"], spec["budget"]) = (json!(3), json!({ "cost_usd": 2.0 }));
    let ended = host.ended(host.enqueue(&spec)).await;
    let outcome = ended.outcome.expect("it has ended");
    assert_eq!((ended.state, outcome.class), (JobState::Failed, OutcomeClass::Budget), "{outcome}");
    let attempts = host.attempts(ended.id).await;
    let [attempt] = attempts.as_slice() else { panic!("{attempts:?}") };
    let cost = attempt.usage.as_ref().and_then(|usage| usage.cost_usd).expect("it is on record");
    assert!((2.25..20.0).contains(&cost), "{cost}");
    let why = format!("the budget of job {}: ${cost:.2} of $2.00 used", ended.id);
    // What is on record may be a step later than what it was ended for.
    let told = attempt.outcome.clone().expect("it has ended");
    assert_eq!(told.class, OutcomeClass::Budget);
    assert!(
        told.message.starts_with(&why[..why.find('$').expect("a sum")]) && told.message.ends_with(" of $2.00 used"),
        "{told}"
    );
    assert!(attempt.salvage.is_some(), "what it had is kept");
    let said = host.log(ended.id, 1, Stream::System).await;
    assert!(said.contains("it is at work still, and ended: the budget of job "), "{said}");
    let read = host.log(ended.id, 1, Stream::Stdout).await;
    assert!(read.contains("\"cost_usd\": 2.0"), "it was told what it may use: {read}");

    let of_project = |script: &str| {
        let mut spec = job(&remote, script);
        (spec["project"], spec["attempts"]) = (json!("app"), json!(2));
        spec.as_object_mut().expect("an object").remove("repo");
        spec
    };
    let used = json!({ "schema": 1, "ok": true, "summary": "Did it", "usage": { "prompt_tokens": 600, "completion_tokens": 0 } });
    host.succeeded(host.enqueue(&of_project(&format!("printf '%s' '{used}' > \"$SAWMILL_RESULT\"")))).await;
    let second = host.enqueue(&of_project(SPENDS));
    until("it is held by the budget", async || host.job(second).await.held.is_some_and(|held| held.as_str() == "budget")).await;
    let attempts = host.attempts(second).await;
    let [attempt] = attempts.as_slice() else { panic!("{attempts:?}") };
    let tokens = attempt.usage.as_ref().expect("it is on record").prompt_tokens;
    assert!((500..3000).contains(&tokens), "with what was on record it is too much: {tokens}");
    let told = attempt.outcome.clone().expect("it has ended");
    assert_eq!(told.class, OutcomeClass::Budget);
    assert!(told.message.starts_with("the budget of project app: "), "{told}");
    host.sawmill(&["job", "cancel", &second.to_string()]);
    host.close(vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_runs_at_once_and_uses_more_than_a_budget_together_is_ended_while_it_works() {
    let (host, remote) = host_with(On::Sqlite, 2).await;
    let worker = host.start("a").await;
    // Each for itself might go on like this for ever.
    let script = "printf '{\"prompt_tokens\":600,\"completion_tokens\":0}' > \"$SAWMILL_USAGE\"; while :; do sleep 0.2; done";
    let mut spec = job(&remote, script);
    spec["attempts"] = json!(3);
    spec["execution"] = json!({ "id": "plan", "budget": { "tokens": 1000 } });
    let both = [host.enqueue(&spec), host.enqueue(&spec)];
    // They never end by themselves, and what each is told at its end has both in it.
    until("both say what they use", async || {
        let (one, other) = (host.attempts(both[0]).await, host.attempts(both[1]).await);
        one.iter().chain(&other).filter(|attempt| attempt.usage.is_some()).count() == 2
    })
    .await;
    let sum = host.sawmill(&["budget", "--execution", "plan"]);
    assert_eq!(sum["items"][0]["spent"]["prompt_tokens"], json!(1200), "{sum}");
    for id in both {
        let ended = host.ended(id).await;
        assert_eq!(ended.outcome.expect("it has ended").class, OutcomeClass::Budget);
        let attempts = host.attempts(id).await;
        let [attempt] = attempts.as_slice() else { panic!("{attempts:?}") };
        let told = attempt.outcome.clone().expect("it has ended");
        let expected = "the budget of execution plan: 1200 of 1000 tokens used, of which this attempt used 600 tokens";
        assert_eq!((told.class, told.message.as_str()), (OutcomeClass::Budget, expected));
        assert_eq!(attempt.usage.as_ref().map(|usage| usage.prompt_tokens), Some(600));
    }
    let sum = host.sawmill(&["budget", "--execution", "plan"]);
    let spent = &sum["items"][0]["spent"];
    assert_eq!((&spent["attempts"], &spent["prompt_tokens"]), (&json!(2), &json!(1200)), "each counts once");
    host.close(vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_cancelled_while_it_works_has_on_record_what_it_had_said_in_this_round_and_those_before() {
    let (mut host, remote) = host(On::Sqlite).await;
    host.set("SAWMILL_BACKENDS__PROGRAM__REVISES", "true");
    host.set("SAWMILL_PROJECTS__APP__REPO", remote.to_str().expect("UTF-8"));
    host.set("SAWMILL_PROJECTS__APP__BUDGET", "{ tokens = 1000000, per = \"all\" }");
    let worker = host.start("a").await;
    let says = |tokens: u32| {
        let said = json!({ "prompt_tokens": tokens, "completion_tokens": 0 });
        format!("printf '%s' '{said}' > \"$SAWMILL_USAGE.new\"; mv \"$SAWMILL_USAGE.new\" \"$SAWMILL_USAGE\"\n")
    };
    let works = format!("{}echo at work; while :; do sleep 0.2; done", says(70));
    let revised =
        format!("if ! grep -q '\"revision\"' \"$SAWMILL_SPEC\"; then {}{}exit 0; fi\n{works}", says(500), leave(true, "Did it"));
    let cancelled = async |spec: Value| {
        let id = host.enqueue(&spec);
        until("it is at work", async || {
            !host.attempts(id).await.is_empty() && host.log(id, 1, Stream::Stdout).await.contains("at work")
        })
        .await;
        if spec["project"].is_string() {
            let is_on_record = async || host.attempts(id).await[0].usage.as_ref().is_some_and(|usage| usage.prompt_tokens == 570);
            until("the sum of both rounds is on record", is_on_record).await;
        }
        host.sawmill(&["job", "cancel", &id.to_string()]);
        assert_eq!(host.ended(id).await.state, JobState::Cancelled);
        host.attempts(id).await.remove(0).usage.map(|usage| usage.prompt_tokens)
    };
    // No budget concerns it, so nobody has put on record what it said.
    assert_eq!(cancelled(job(&remote, &works)).await, Some(70));
    let mut spec = job(&remote, &revised);
    (spec["revisions"], spec["gates"]) = (json!(1), json!([{ "name": "unit", "command": "false" }]));
    assert_eq!(cancelled(spec.clone()).await, Some(570));
    spec["project"] = json!("app");
    spec.as_object_mut().expect("an object").remove("repo");
    assert_eq!(cancelled(spec).await, Some(570), "it was on record before");
    host.close(vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_that_is_done_is_not_thrown_away_for_what_its_last_answer_used() {
    let (host, remote) = host(On::Sqlite).await;
    let worker = host.start("a").await;
    // It takes its time to exit: several looks.
    let script = format!(
        "printf '{{\"prompt_tokens\":500,\"completion_tokens\":0}}' > \"$SAWMILL_USAGE\"; {}sleep 2",
        leave(true, "Did it")
    );
    let mut spec = job(&remote, &script);
    spec["budget"] = json!({ "tokens": 100 });
    let done = host.succeeded(host.enqueue(&spec)).await;
    let used = host.attempts(done.id).await.remove(0).usage.expect("it is on record");
    assert!(used.prompt_tokens > 100, "{used:?}");
    // Who says that and works on is at work.
    spec = job(&remote, &format!("{}{SPENDS}", leave(true, "Did it")));
    spec["budget"] = json!({ "tokens": 100 });
    let ended = host.ended(host.enqueue(&spec)).await;
    let outcome = ended.outcome.expect("it has ended");
    assert_eq!(outcome.class, OutcomeClass::Budget, "{outcome}");
    host.close(vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_usage_limit_without_a_reset_pauses_for_the_backoff_and_goes_on_by_itself() {
    let (mut host, remote) = host(On::Sqlite).await;
    host.set("SAWMILL_QUEUE__PAUSE__BACKOFF", "2s");
    let worker = host.start("a").await;
    // 0 is "not known when", as the protocol has it.
    let limited = json!({ "schema": 1, "ok": false, "summary": "used up", "retry_at": 0 });
    let script = format!(
        "if [ $SAWMILL_ATTEMPT = 1 ]; then printf '%s' '{limited}' > \"$SAWMILL_RESULT\"; exit 0; fi\n{}",
        leave(true, "Did it")
    );
    let id = host.enqueue(&job(&remote, &script));
    let ended = host.succeeded(id).await;
    assert_eq!(ended.attempts_used, 1, "the limit burns no attempt");
    let attempts = host.attempts(id).await;
    let [first, second] = attempts.as_slice() else { panic!("{attempts:?}") };
    let outcome = first.outcome.as_ref().expect("ended");
    assert_eq!((outcome.class, outcome.message.as_str()), (OutcomeClass::UsageLimit, "program met a usage limit: used up"));
    let waited = second.started_at.since(first.ended_at.expect("ended"));
    assert!(waited >= Duration::from_millis(1_900), "{waited:?}");
    host.close(vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn artifacts_are_asked_for_on_the_command_line_as_in_a_document() {
    let (host, remote) = host(On::Sqlite).await;
    let worker = host.start("a").await;
    let line = |required: &str| {
        let script = format!(
            "SCRIPT=mkdir -p out; echo one > out/a.txt; echo two > out/b.log; echo more >> README.md\n{}",
            leave(true, "Did it")
        );
        let remote = remote.to_str().expect("UTF-8");
        let task = ["enqueue", "--repo", remote, "-b", "program", "-i", "Run the script", "--env", &script];
        let args = ["--attempts", "1", "--artifact", "out/*.log"];
        let answer = host.sawmill(&[&task[..], &args, &["--required-artifact", required]].concat());
        answer["id"].as_str().expect("an id").parse().expect("an id")
    };
    let job = host.succeeded(line("out/*.txt")).await;
    let listed = host.sawmill(&["job", "artifacts", &job.id.to_string()]);
    let all = listed["items"].as_array().expect("a list");
    let of = |name: &str| all.iter().find(|one| one["name"] == name).unwrap_or_else(|| panic!("no {name} in {listed}"));
    assert_eq!((&of("out/a.txt")["required"], &of("out/b.log")["required"]), (&json!(true), &json!(false)));
    let short = host.ended(line("out/*.xml")).await;
    let outcome = short.outcome.expect("it has ended");
    assert_eq!(outcome.class, OutcomeClass::Gate);
    assert!(outcome.message.starts_with("required artifact out/*.xml is not kept: "), "{}", outcome.message);
    host.close(vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn doctor_says_whether_files_can_be_kept_and_leaves_nothing_behind() {
    let (mut host, _) = host(On::Sqlite).await;
    let finding = |host: &Host| {
        let output = host.command(&Seat::of("a"), &["doctor", "--json"]).output().expect("it runs");
        let all: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        all.as_array().and_then(|all| all.iter().find(|one| one["check"] == "artifacts").cloned()).expect("a finding")
    };
    let place = host.root().join("kept");
    host.set("SAWMILL_ARTIFACTS__STORE", place.to_str().expect("UTF-8"));
    let good = finding(&host);
    assert_eq!(good["state"], "ready", "{good}");
    assert!(good["seen"].as_str().is_some_and(|seen| seen.contains("/kept on ")), "{good}");
    let left: Vec<_> = fs::read_dir(&place).expect("the place").flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left, ["place"]);

    let file = host.root().join("no-directory");
    fs::write(&file, "").expect("a file");
    host.set("SAWMILL_ARTIFACTS__STORE", file.to_str().expect("UTF-8"));
    let bad = finding(&host);
    assert_eq!(bad["state"], "failed", "{bad}");
    assert!(bad["remedy"].as_str().is_some_and(|remedy| remedy.contains("artifacts.store")), "{bad}");
    host.set("SAWMILL_ARTIFACTS__STORE", "s3://nowhere/prefix");
    host.set("SAWMILL_ARTIFACTS__TIMEOUT", "3s");
    host.set("AWS_ENDPOINT", "http://127.0.0.1:1");
    host.set("AWS_ALLOW_HTTP", "true");
    host.set("AWS_ACCESS_KEY_ID", "nobody");
    host.set("AWS_SECRET_ACCESS_KEY", "nothing-0123456789");
    let away = finding(&host);
    assert_eq!(away["state"], "failed", "{away}");
    assert!(!away.to_string().contains("nothing-0123456789"), "{away}");
}
