//! Where an agent works: a worker with containers, a model's server, a remote, and what is to be true of what was delivered.

use std::collections::BTreeSet;
use std::fs;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use sawmill::ids::JobId;
use sawmill::job::{Job, Stream};
use serde_json::{Value, json};

use super::server::{COMPLETION_TOKENS, PROMPT_TOKENS, Server, Turn};
use crate::container::{self, image};
use crate::delivery::daemon::{Daemon, Seat};
use crate::delivery::host::{Host, Lodging, On, until};
use crate::delivery::remote::git;

/// A lease that no test waits for.
const LEASE: Duration = Duration::from_secs(600);

/// The default image, built as an operator builds it, once for what is in it.
const IMAGE: &str = "sawmill-agent:latest";

/// An agent, and how it is told that it is done.
#[derive(Debug, Clone, Copy)]
pub(super) struct Which {
    pub(super) kind: &'static str,
    pub(super) model: &'static str,
    /// What its endpoint has after the address.
    pub(super) path: &'static str,
    pub(super) key: &'static str,
    /// What has it ask again seldom, for tests of refusals.
    pub(super) seldom: (&'static str, &'static str),
}

pub(super) const CLAUDE: Which = Which {
    kind: "claude_code",
    model: "claude-sonnet-4-5",
    path: "",
    key: "ANTHROPIC_API_KEY",
    seldom: ("CLAUDE_CODE_MAX_RETRIES", "2"),
};
pub(super) const MINISWE: Which = Which {
    kind: "miniswe",
    model: "openai/scripted",
    path: "/v1",
    key: "OPENAI_API_KEY",
    seldom: ("MSWEA_MODEL_RETRY_STOP_AFTER_ATTEMPT", "2"),
};
pub(super) const OPENHANDS: Which =
    Which { kind: "openhands", model: "openai/scripted", path: "/v1", key: "OPENAI_API_KEY", seldom: ("LLM_NUM_RETRIES", "2") };
pub(super) const CODEX: Which =
    Which { kind: "openai_codex", model: "scripted", path: "/v1", key: "OPENAI_API_KEY", seldom: ("CODEX_UNUSED", "1") };

/// The key of the model.
const KEY: &str = "sk-of-nobody-0123456789";

pub(super) const LOOKS: Turn = Turn::Runs("I look at the code first.", "cat calc.py");
pub(super) const WORKS: Turn = Turn::Runs(
    "The mean is to be exact.",
    "sed -i 's|//|/|' calc.py && printf 'import unittest\\nfrom calc import mean\\n\\nclass Mean(unittest.TestCase):\\n    \
     def test_mean(self):\\n        self.assertEqual(mean([1, 2]), 1.5)\\n' > test_calc.py && python3 -m unittest -q test_calc 2>&1",
);
const REPORT: &str = "Divide the mean exactly\n\nIt was rounded down before.";

/// The turn by which an agent is done.
pub(super) fn last(which: Which) -> Turn {
    match which.kind {
        "miniswe" => Turn::Runs(REPORT, "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"),
        _ => Turn::Says(REPORT),
    }
}

pub(super) struct Site {
    pub(super) host: Host,
    pub(super) which: Which,
    pub(super) server: Server,
    pub(super) remote: PathBuf,
    pub(super) worker: Daemon,
}

impl Site {
    pub(super) async fn open(which: Which, turns: impl IntoIterator<Item = Turn>) -> Self {
        Self::open_with(which, turns, &[]).await
    }

    pub(super) async fn open_with(
        which: Which,
        turns: impl IntoIterator<Item = Turn>,
        settings: &[(&'static str, &'static str)],
    ) -> Self {
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

    pub(super) fn spec(&self) -> Value {
        let (name, value) = self.which.seldom;
        json!({
            "repo": self.remote,
            "backend": "agent",
            "task": { "instruction": "Make the mean exact", "acceptance": ["there is a test"] },
            "env": { name: value },
            "gates": [{ "name": "unit", "command": "python3 -m unittest -q" }],
        })
    }

    pub(super) fn enqueue(&self) -> JobId {
        self.host.enqueue(&self.spec())
    }

    pub(super) async fn containers(&self) -> BTreeSet<String> {
        container::owned(&self.host.state_dir("a")).await
    }

    /// The container that is made ahead for the next job on the repository, once it is there alone.
    pub(super) async fn container_made_ahead(&self) -> String {
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
    pub(super) async fn check_delivered(&self, job: &Job, turns: u64) {
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

    pub(super) async fn close(self) {
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
pub(super) async fn build_image(host: &Host) {
    let lock = File::create(std::env::temp_dir().join("sawmill-test-agents.lock")).expect("a lock");
    let lock = tokio::task::spawn_blocking(|| Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error));
    let _lock = lock.await.expect("waited").expect("locked");
    let mut build = host.command(&Seat::of("builder"), &["images", "build"]);
    let built = tokio::task::spawn_blocking(move || build.output()).await.expect("waited").expect("it runs");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    image::docker().await.inspect_image(IMAGE).await.expect("the image");
}
