//! Real agents in the default image, against a server that follows a script: what they deliver, what their log says, and what they used.

mod limits;
mod resets;
pub(crate) mod server;
mod site;
mod warm;

use sawmill::job::{Hold, JobState, Outcome, OutcomeClass, Stream};
use serde_json::json;

use crate::delivery::daemon::Seat;
use crate::delivery::host::until;
use crate::delivery::remote::{git, refs};
use server::{PROMPT_TOKENS, Turn};
use site::{CLAUDE, CODEX, LOOKS, MINISWE, OPENHANDS, Site, WORKS, Which, last};

async fn does_a_small_task(which: Which) {
    let site = Site::open(which, [LOOKS, WORKS, last(which)]).await;
    let ahead = site.container_made_ahead().await;
    let job = site.enqueue();
    let job = site.host.succeeded(job).await;
    site.check_delivered(&job, 3).await;
    // It would be there still for the next job.
    until("it ran in the container that was made ahead", async || !site.containers().await.contains(&ahead)).await;
    site.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claude_code_does_a_small_task() {
    does_a_small_task(CLAUDE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mini_swe_agent_does_a_small_task() {
    does_a_small_task(MINISWE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn codex_does_a_small_task() {
    does_a_small_task(CODEX).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openhands_does_a_small_task() {
    does_a_small_task(OPENHANDS).await;
}

/// An agent that forgets the test, and hears of it where it did the work.
async fn revises(which: Which, how: &str) {
    let half = Turn::Runs("The mean is to be exact.", "sed -i 's|//|/|' calc.py");
    let site = Site::open(which, [LOOKS, half, last(which), WORKS, last(which)]).await;
    let job = site.enqueue();
    let job = site.host.succeeded(job).await;
    site.check_delivered(&job, 5).await;
    let completion = site.host.completions(Some(job.id)).await.remove(0).completion;
    let used: Vec<_> = completion.rejections.iter().map(|one| one.usage.as_ref().map(|usage| usage.prompt_tokens)).collect();
    assert_eq!(used, [Some(3 * PROMPT_TOKENS)]);
    let said = site.host.log(job.id, 1, Stream::System).await;
    assert!(said.contains("revision 1 of 1: gate unit exited with status 5") && said.contains(how), "{said}");
    let heard = site.server.heard();
    assert!(heard.contains("This is revision 1 of 1.") && heard.contains("NO TESTS RAN"), "{heard}");
    site.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revision_goes_on_in_the_session_where_the_agent_can_resume_it_and_usage_adds_up() {
    revises(CLAUDE, "status 5; in session ").await;
    revises(CODEX, "status 5; in session ").await;
    revises(MINISWE, "status 5\n").await;
    revises(OPENHANDS, "status 5\n").await;
}

/// A server that has a bad moment costs a try, and not the job.
async fn gets_over(which: Which, trouble: Turn) {
    let site = Site::open(which, [LOOKS, trouble, WORKS, last(which)]).await;
    let job = site.enqueue();
    let job = site.host.succeeded(job).await;
    site.check_delivered(&job, 3).await;
    site.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_of_500_is_got_over() {
    gets_over(CLAUDE, Turn::Refuses(500, Vec::new())).await;
    gets_over(CODEX, Turn::Refuses(500, Vec::new())).await;
    gets_over(MINISWE, Turn::Refuses(500, Vec::new())).await;
    gets_over(OPENHANDS, Turn::Refuses(500, Vec::new())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_breaks_off_is_got_over() {
    for which in [CODEX, CLAUDE, MINISWE, OPENHANDS] {
        gets_over(which, Turn::Breaks).await;
    }
}

/// The first attempt ends as a limit: what it was told is in its outcome, and when it is over on record where that is said.
async fn meets_a_limit(which: Which, headers: Vec<(&'static str, String)>, reset_known: bool) {
    let site = Site::open(which, [LOOKS, Turn::Refuses(429, headers)]).await;
    let job = site.enqueue();
    let mut outcome = None;
    until("the attempt ends", async || {
        outcome = site.host.attempts(job).await.into_iter().find_map(|attempt| attempt.outcome);
        outcome.is_some()
    })
    .await;
    let outcome = outcome.expect("an outcome");
    assert!(outcome.message.starts_with("agent met a usage limit: "), "{which:?}: {outcome:?}");
    let pauses = site.host.sawmill(&["pauses"]);
    assert_eq!(pauses["items"][0]["reset_known"], json!(reset_known), "{which:?}: {pauses}");
    // The next attempt is not waited for.
    if !site.host.job(job).await.state.is_final() {
        site.host.sawmill(&["job", "cancel", &job.to_string()]);
        site.host.ended(job).await;
    }
    site.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_usage_limit_is_told_from_a_failure() {
    let later = || vec![("retry-after", "3600".to_owned())];
    meets_a_limit(CLAUDE, vec![("x-should-retry", "false".to_owned())], false).await;
    meets_a_limit(MINISWE, later(), true).await;
    meets_a_limit(CODEX, later(), false).await;
    meets_a_limit(OPENHANDS, later(), true).await;
    for which in [MINISWE, OPENHANDS] {
        meets_a_limit(which, Vec::new(), false).await;
    }
}

/// The only attempt fails, nothing is delivered, and the next job of the slot finds nothing of it.
async fn fails(site: Site) -> Outcome {
    let which = site.which;
    let refs_before = refs(&site.remote, "refs/heads/");
    let job = site.enqueue();
    let ended = site.host.ended(job).await;
    assert_eq!(ended.state, JobState::Failed, "{which:?}: {:?}", ended.outcome);
    assert_eq!(site.host.completions(Some(job)).await, []);
    assert_eq!(refs(&site.remote, "refs/heads/"), refs_before);
    let next = site.host.enqueue(&json!({
        "repo": site.remote, "backend": "shell", "changes": "optional",
        "task": { "command": "set -e; cat calc.py; git status --short" },
    }));
    site.host.succeeded(next).await;
    assert_eq!(site.host.log(next, 1, Stream::Stdout).await, "def mean(values):\n    return sum(values) // len(values)\n");
    site.close().await;
    ended.outcome.expect("an outcome")
}

async fn stalls(which: Which, turns: [Turn; 2], setting: &'static str, why: &str) {
    let outcome = fails(Site::open_with(which, turns, &[(setting, "15s")]).await).await;
    assert_eq!(outcome.class, OutcomeClass::Stalled, "{which:?}: {outcome}");
    assert!(outcome.message.contains(why), "{which:?}: {outcome}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_whose_model_falls_silent_is_ended_before_its_deadline() {
    let setting = "SAWMILL_BACKENDS__AGENT__STALL__SILENCE";
    for which in [CLAUDE, MINISWE, CODEX, OPENHANDS] {
        stalls(which, [LOOKS, Turn::Hangs], setting, "for 15s it said nothing").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_goes_round_in_circles_is_ended_as_one_that_edits_nothing() {
    let setting = "SAWMILL_BACKENDS__AGENT__STALL__NO_EDIT";
    let turns = || [LOOKS, Turn::Loops("cat calc.py; sleep 1")];
    for which in [CLAUDE, MINISWE, CODEX] {
        stalls(which, turns(), setting, "it changed no file of its worktree for 15s").await;
    }
    // It sees by itself that it does, and sooner.
    let outcome = fails(Site::open_with(OPENHANDS, turns(), &[(setting, "5m")]).await).await;
    assert_eq!(outcome.class, OutcomeClass::Backend, "{outcome}");
    assert!(outcome.message.contains("it did the same again and again"), "{outcome}");
}

/// An agent that says what it has not done: nothing at all, or half of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_lies_about_its_success_is_not_believed() {
    let half = Turn::Runs("The mean is to be exact.", "sed -i 's|//|/|' calc.py");
    let once = [("SAWMILL_ATTEMPT__REVISIONS", "0")];
    for which in [CODEX, OPENHANDS, CLAUDE, MINISWE] {
        let outcome = fails(Site::open_with(which, [LOOKS, last(which)], &once).await).await;
        assert_eq!(outcome.class, OutcomeClass::NoChange, "{which:?}: {outcome}");
        let outcome = fails(Site::open_with(which, [LOOKS, half.clone(), last(which)], &once).await).await;
        assert_eq!(outcome.class, OutcomeClass::Gate, "{which:?}: {outcome}");
        assert!(outcome.message.contains("gate unit"), "{which:?}: {outcome}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_destroys_what_it_can_reach_destroys_nothing_that_lasts() {
    let destroys = "find / -delete 2> /dev/null; ls /workspace/tree";
    for which in [CLAUDE, MINISWE, CODEX, OPENHANDS] {
        let turns = [Turn::Runs("I clean up first.", destroys), last(which)];
        let outcome = fails(Site::open_with(which, turns, &[("SAWMILL_ATTEMPT__REVISIONS", "0")]).await).await;
        assert!([OutcomeClass::Gate, OutcomeClass::Backend].contains(&outcome.class), "{which:?}: {outcome}");
    }
}

/// An agent that asks where it may, and goes on with the answer and with what it had.
async fn asks(which: Which, question: Turn) {
    let half = Turn::Runs("I begin with the test.", "printf 'half\\n' > notes.txt");
    let site =
        Site::open_with(which, [LOOKS, half, question, WORKS, last(which)], &[("SAWMILL_BACKENDS__AGENT__QUESTIONS", "true")])
            .await;
    let id = site.enqueue();
    until("it asks", async || site.host.job(id).await.held == Some(Hold::Answer)).await;
    let attempt = site.host.attempts(id).await.remove(0);
    let outcome = attempt.outcome.expect("it has ended");
    assert_eq!((outcome.class, outcome.message.as_str()), (OutcomeClass::Clarification, "Exact, or rounded to two places?"));
    assert!(attempt.salvage.is_some(), "what it had is kept");
    assert!(site.server.heard().contains("begins with the word QUESTION:"), "it was told how");
    site.host.sawmill(&["job", "answer", &id.to_string(), "Exact, by all means"]);
    let job = site.host.succeeded(id).await;
    assert_eq!(job.attempts_used, 1, "asking burns none");
    let heard = site.server.heard();
    assert!(heard.contains("Exact, or rounded to two places?") && heard.contains("Exact, by all means"), "{heard}");
    assert!(git(&site.remote, &["show", &format!("{}:calc.py", job.branch)]).contains("sum(values) / len"));
    site.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claude_code_asks_where_it_may() {
    asks(CLAUDE, Turn::Says("QUESTION: Exact, or rounded to two places?")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mini_swe_agent_asks_where_it_may() {
    let question = Turn::Runs("QUESTION: Exact, or rounded to two places?", "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT");
    asks(MINISWE, question).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn codex_asks_where_it_may() {
    asks(CODEX, Turn::Says("QUESTION: Exact, or rounded to two places?")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openhands_asks_where_it_may() {
    asks(OPENHANDS, Turn::Says("QUESTION: Exact, or rounded to two places?")).await;
}

/// What an agent runs finds what is listed for its backend, and of the worker's environment nothing else; a gate not even that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_the_workers_environment_but_what_is_listed_is_seen_by_an_agent() {
    for which in [CLAUDE, MINISWE, CODEX, OPENHANDS] {
        let shows =
            Turn::Runs("I look around.", "env | cut -d= -f1 | sort > names.txt; env | grep -c swordfish >> names.txt; true");
        let site = Site::open(which, [shows, WORKS, last(which)]).await;
        let mut spec = site.spec();
        spec["gates"] = json!([{ "name": "no-key", "command": format!("! env | grep -e {} -e swordfish", which.key) }]);
        let job = site.host.succeeded(site.host.enqueue(&spec)).await;
        let names = git(&site.remote, &["show", &format!("{}:names.txt", job.branch)]);
        let has = |name: &str| names.lines().any(|line| line == name);
        assert!(has("SAWMILL_JOB") && has("0"), "{which:?}: {names}");
        assert!(
            !has("NOBODYS_SECRET") && !has("SAWMILL_CONTAINER__IMAGE") && !has("SAWMILL_BACKENDS__AGENT__KIND"),
            "{which:?}: {names}"
        );
        site.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn doctor_and_backends_say_which_version_is_in_the_image() {
    let more = [
        ("SAWMILL_BACKENDS__CODEX__KIND", CODEX.kind),
        ("SAWMILL_BACKENDS__MINI__KIND", MINISWE.kind),
        ("SAWMILL_BACKENDS__MINI__MODEL", MINISWE.model),
        ("SAWMILL_BACKENDS__HANDS__KIND", OPENHANDS.kind),
        ("SAWMILL_BACKENDS__HANDS__MODEL", OPENHANDS.model),
    ];
    let site = Site::open_with(CLAUDE, [], &more).await;
    let listed = site.host.sawmill(&["backends", "list"]);
    let pins = [("agent", "CLAUDE_CODE"), ("codex", "CODEX"), ("mini", "MINI_SWE_AGENT"), ("hands", "OPENHANDS_SDK")];
    for (name, pin) in pins {
        let row = listed.as_array().and_then(|rows| rows.iter().find(|row| row["name"] == name)).expect("the backend");
        let dockerfile = include_str!("../../docker/Dockerfile");
        let pinned = dockerfile.split_once(&format!("ARG {pin}=")).and_then(|(_, rest)| rest.lines().next());
        assert_eq!(row["probed"]["image"]["version"].as_str(), pinned, "{listed}");
    }
    let shown = site.host.command(&Seat::of("client"), &["backends", "show", "agent"]).output().expect("it runs");
    assert!(String::from_utf8_lossy(&shown.stdout).contains("{{ instruction"), "{shown:?}");
    // What has their programs loaded works there, and needs neither network nor key.
    for (name, _) in pins {
        until(&format!("{name} is warm"), async || site.worker.log().contains(&format!("backend {name} is warmed up in image ")))
            .await;
    }
    let doctor = site.host.sawmill(&["doctor"]);
    let findings: Vec<_> = doctor.as_array().into_iter().flatten().filter(|one| one["check"] == "backend").collect();
    assert_eq!(findings.len(), pins.len(), "{doctor}");
    assert!(findings.iter().all(|one| one["state"] == "ready"), "{doctor}");
    site.close().await;
}
