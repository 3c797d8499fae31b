//! Real agents in the default image, against a server that follows a script: what they deliver, what their log says, and what they used.

mod limits;
mod resets;
pub(crate) mod server;
mod warm;

use std::collections::BTreeSet;
use std::fs;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use sawmill::ids::JobId;
use sawmill::job::{Hold, Job, JobState, Outcome, OutcomeClass, Stream};
use serde_json::{Value, json};

use crate::container::{self, image};
use crate::delivery::daemon::{Daemon, Seat};
use crate::delivery::host::{Host, Lodging, On, until};
use crate::delivery::remote::{git, refs};
use server::{COMPLETION_TOKENS, PROMPT_TOKENS, Server, Turn};

/// A lease that no test waits for.
const LEASE: Duration = Duration::from_secs(600);

/// The default image, built as an operator builds it, once for what is in it.
const IMAGE: &str = "sawmill-agent:latest";

/// An agent, and how it is told that it is done.
#[derive(Debug, Clone, Copy)]
struct Which {
    kind: &'static str,
    model: &'static str,
    /// What its endpoint has after the address.
    path: &'static str,
    key: &'static str,
    /// What has it ask again seldom, for tests of refusals.
    seldom: (&'static str, &'static str),
}

const CLAUDE: Which = Which {
    kind: "claude_code",
    model: "claude-sonnet-4-5",
    path: "",
    key: "ANTHROPIC_API_KEY",
    seldom: ("CLAUDE_CODE_MAX_RETRIES", "2"),
};
const MINISWE: Which = Which {
    kind: "miniswe",
    model: "openai/scripted",
    path: "/v1",
    key: "OPENAI_API_KEY",
    seldom: ("MSWEA_MODEL_RETRY_STOP_AFTER_ATTEMPT", "2"),
};
const OPENHANDS: Which =
    Which { kind: "openhands", model: "openai/scripted", path: "/v1", key: "OPENAI_API_KEY", seldom: ("LLM_NUM_RETRIES", "2") };
const CODEX: Which =
    Which { kind: "openai_codex", model: "scripted", path: "/v1", key: "OPENAI_API_KEY", seldom: ("CODEX_UNUSED", "1") };

/// The key of the model.
const KEY: &str = "sk-of-nobody-0123456789";

const LOOKS: Turn = Turn::Runs("I look at the code first.", "cat calc.py");
const WORKS: Turn = Turn::Runs(
    "The mean is to be exact.",
    "sed -i 's|//|/|' calc.py && printf 'import unittest\\nfrom calc import mean\\n\\nclass Mean(unittest.TestCase):\\n    \
     def test_mean(self):\\n        self.assertEqual(mean([1, 2]), 1.5)\\n' > test_calc.py && python3 -m unittest -q test_calc 2>&1",
);
const REPORT: &str = "Divide the mean exactly\n\nIt was rounded down before.";

/// The turn by which an agent is done.
fn last(which: Which) -> Turn {
    match which.kind {
        "miniswe" => Turn::Runs(REPORT, "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"),
        _ => Turn::Says(REPORT),
    }
}

struct Site {
    host: Host,
    which: Which,
    server: Server,
    remote: PathBuf,
    worker: Daemon,
}

impl Site {
    async fn open(which: Which, turns: impl IntoIterator<Item = Turn>) -> Self {
        Self::open_with(which, turns, &[]).await
    }

    async fn open_with(which: Which, turns: impl IntoIterator<Item = Turn>, settings: &[(&'static str, &'static str)]) -> Self {
        let server = Server::start(turns).await;
        let mut host = Host::new(On::Sqlite, LEASE, 1).await.lodge(Lodging::InContainers).await;
        build_image(&host).await;
        host.set("SAWMILL_CONTAINER__IMAGE", IMAGE);
        host.set("SAWMILL_CONTAINER__NETWORK", "allow-list");
        host.set("SAWMILL_CONTAINER__EGRESS", &format!("[{:?}]", server.address()));
        host.set("SAWMILL_BACKENDS__AGENT__KIND", which.kind);
        host.set("SAWMILL_BACKENDS__AGENT__MODEL", which.model);
        host.set("SAWMILL_BACKENDS__AGENT__ENDPOINT", &format!("http://{}{}", server.address(), which.path));
        host.set("SAWMILL_BACKENDS__AGENT__ENV", &format!("[{:?}]", which.key));
        host.set(which.key, KEY);
        host.set("NOBODYS_SECRET", "swordfish-swordfish");
        for (variable, value) in settings {
            host.set(variable, value);
        }
        let remote = calculator(host.root());
        host.set("SAWMILL_PROJECTS__APP__REPO", remote.to_str().expect("UTF-8"));
        let worker = host.start("a").await;
        Self { host, which, server, remote, worker }
    }

    fn spec(&self) -> Value {
        let (name, value) = self.which.seldom;
        json!({
            "repo": self.remote,
            "backend": "agent",
            "task": { "instruction": "Make the mean exact", "acceptance": ["there is a test"] },
            "env": { name: value },
            "gates": [{ "name": "unit", "command": "python3 -m unittest -q" }],
        })
    }

    fn enqueue(&self) -> JobId {
        self.host.enqueue(&self.spec())
    }

    async fn containers(&self) -> BTreeSet<String> {
        container::owned(&self.host.state_dir("a")).await
    }

    /// The container that is made ahead for the next job on the repository, once it is there alone.
    async fn container_made_ahead(&self) -> String {
        let first = self.host.enqueue(&json!({
            "repo": self.remote, "backend": "shell", "changes": "none", "task": { "command": "true" },
        }));
        self.host.succeeded(first).await;
        // What warms up has a container, too.
        until("the agent is warmed up", async || self.worker.log().contains("backend agent is warmed up")).await;
        let (mut seen, mut since) = (BTreeSet::new(), Instant::now());
        until("a container is made ahead", async || {
            let there = self.containers().await;
            if there != seen {
                (seen, since) = (there, Instant::now());
            }
            seen.len() == 1 && since.elapsed() > Duration::from_secs(1)
        })
        .await;
        seen.pop_first().expect("one")
    }

    /// What is delivered, said and counted is what is true.
    async fn check_delivered(&self, job: &Job, turns: u64) {
        let show = |what: &str| git(&self.remote, &["show", &format!("{}:{what}", job.branch)]);
        assert_eq!(show("calc.py").trim(), "def mean(values):\n    return sum(values) / len(values)");
        assert!(show("test_calc.py").contains("1.5"));
        let message = git(&self.remote, &["log", "-1", "--format=%B", job.branch.as_str()]);
        assert!(message.starts_with("Divide the mean exactly\n\nIt was rounded down before.\n"), "{message}");
        let attempt = job.attempt.expect("it was tried").0;
        let log = self.host.log(job.id, attempt, Stream::Stdout).await;
        let mut rest = log.as_str();
        for line in ["I look at the code first.", "$ cat calc.py", "  | def mean(values):", "$ sed -i", "Divide the mean exactly"]
        {
            let (_, after) = rest.split_once(line).unwrap_or_else(|| panic!("{line:?} is not where it should be in\n{log}"));
            rest = after;
        }
        assert!(!log.contains("{\""), "raw events are in the log:\n{log}");
        let completion = self.host.completions(Some(job.id)).await.remove(0).completion;
        let [gate] = completion.gates.as_slice() else { panic!("{:?}", completion.gates) };
        assert_eq!((gate.name.as_str(), gate.exit, gate.passed), ("unit", Some(0), true));
        assert_eq!(gate.argv, ["sh", "-c", "python3 -m unittest -q"]);
        assert_eq!(gate.tree.to_string(), git(&self.remote, &["rev-parse", &format!("{}^{{tree}}", job.branch)]).trim());
        let usage = completion.usage.expect("usage");
        assert_eq!((usage.prompt_tokens, usage.completion_tokens), (turns * PROMPT_TOKENS, turns * COMPLETION_TOKENS));
        // It is the only one that knows the price.
        let cost = usage.cost_usd.filter(|cost| *cost > 0.0);
        assert_eq!(cost.is_some(), self.which.kind == "claude_code", "{usage:?}");
        assert_eq!(self.server.left(), 0, "turns are left");
        let asked: Vec<String> =
            self.server.requests().iter().map(|one| one["model"].as_str().unwrap_or("none").to_owned()).collect();
        let expected = self.which.model.trim_start_matches("openai/");
        assert!(!asked.is_empty() && asked.iter().all(|model| model == expected), "{asked:?}");
        self.check_kept(
            job,
            &completion.artifacts.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(),
            completion.rejections.len(),
        );
        let heard = self.server.heard();
        assert!(heard.contains("Make the mean exact") && heard.contains("- there is a test"), "{heard}");
    }

    /// What is kept of the agent's work: the raw events of every round, and what people read.
    fn check_kept(&self, job: &Job, names: &[&str], revisions: usize) {
        let text = |name: &str| {
            let output = self.host.command(&Seat::of("a"), &["job", "artifacts", &job.id.to_string(), name]).output();
            String::from_utf8(output.expect("it runs").stdout).expect("text")
        };
        let events: Vec<String> = (0..=revisions)
            .map(|round| if round == 0 { "events.jsonl".to_owned() } else { format!("events-{round}.jsonl") })
            .collect();
        let kept: Vec<&str> = names.iter().copied().filter(|name| name.starts_with("events")).collect();
        assert_eq!(kept, events);
        for name in &events {
            let text = text(name);
            let raw =
                text.lines().filter(|line| serde_json::from_str::<Value>(line).is_ok_and(|event| event.is_object())).count();
            assert!(raw > 2, "{name} has no events:\n{text}");
            assert!(!text.contains(KEY), "{text}");
        }
        assert!(text(&events[0]).contains("cat calc.py"), "what it ran is in the raw events");
        let transcript = text("transcript.txt");
        assert!(transcript.contains("$ cat calc.py") && transcript.contains("Divide the mean exactly"), "{transcript}");
    }

    async fn close(self) {
        self.host.close(vec![self.worker]).await;
    }
}

/// The repository of this program with all of its history, or, where that is not there, with its files; and in it a function that is wrong.
fn calculator(root: &Path) -> PathBuf {
    let (own, seed) = (env!("CARGO_MANIFEST_DIR"), root.join("calculator-seed"));
    let (path, remote) = (seed.to_str().expect("UTF-8"), root.join("calculator.git"));
    if Path::new(own).join(".git").exists() {
        git(root, &["clone", "--quiet", own, path]);
        git(&seed, &["checkout", "--quiet", "-B", "main"]);
    } else {
        git(root, &["init", "--quiet", "--initial-branch=main", path]);
        git(&seed, &["--work-tree", own, "add", "src", "tests", "docs", "docker", "migrations", "Cargo.toml", "README.md"]);
        git(&seed, &["checkout-index", "--all"]);
    }
    fs::write(seed.join("calc.py"), "def mean(values):\n    return sum(values) // len(values)\n").expect("a file");
    fs::write(seed.join(".gitignore"), "__pycache__/\n").expect("a file");
    git(&seed, &["add", "--all"]);
    git(&seed, &["commit", "--quiet", "-m", "A mean"]);
    git(root, &["clone", "--quiet", "--bare", path, remote.to_str().expect("UTF-8")]);
    remote
}

/// Has the engine have the default image. One test at a time: the first that comes builds it.
async fn build_image(host: &Host) {
    let lock = File::create(std::env::temp_dir().join("sawmill-test-agents.lock")).expect("a lock");
    let lock = tokio::task::spawn_blocking(|| Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error));
    let _lock = lock.await.expect("waited").expect("locked");
    let mut build = host.command(&Seat::of("builder"), &["images", "build"]);
    let built = tokio::task::spawn_blocking(move || build.output()).await.expect("waited").expect("it runs");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    image::docker().await.inspect_image(IMAGE).await.expect("the image");
}

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
