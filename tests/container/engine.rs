//! The engine goes away and comes back: its containers go with it, and no job is lost.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bollard::{API_DEFAULT_VERSION, Docker};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sawmill::job::{JobState, OutcomeClass, Stage, Stream};
use serde_json::json;
use tempfile::TempDir;

use super::{image, owned_at};
use crate::crash::{Held, LONG, Scene};
use crate::delivery::host::{Host, Lodging, On, until, until_within};
use crate::delivery::remote::small_remote;

/// The daemon waits longer than that for the engine's answer.
const BEFORE_IT_GIVES_UP: Duration = Duration::from_secs(40);

/// An engine of its own, which nobody else uses.
pub(super) struct Engine {
    root: TempDir,
    child: Option<Child>,
    /// What runs before it, and then becomes it: a script for a shell in a network namespace of its own. Without one it is in this one.
    apart: Option<&'static str>,
}

impl Engine {
    pub(super) async fn start(apart: Option<&'static str>) -> Self {
        let mut engine = Self { root: TempDir::with_prefix("sawmill-engine-").expect("a directory"), child: None, apart };
        engine.start_again().await;
        engine
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.root.path().join("docker.sock")
    }

    async fn start_again(&mut self) {
        let at = |name: &str| self.root.path().join(name);
        let mut dockerd = match self.apart {
            None => Command::new("dockerd"),
            Some(script) => {
                let mut unshare = Command::new("unshare");
                unshare.args(["--net", "sh", "-ec"]).arg(format!("{script}; exec dockerd \"$@\"")).arg("dockerd");
                unshare
            }
        };
        dockerd.arg("--host").arg(format!("unix://{}", self.socket().display()));
        dockerd.arg("--pidfile").arg(at("pid")).arg("--exec-root").arg(at("exec")).arg("--data-root").arg(at("data"));
        if self.apart.is_none() {
            dockerd.args(["--bridge", "none"]);
        }
        dockerd.args(["--iptables=false", "--ip-masq=false"]).stdin(Stdio::null());
        let log = File::options().create(true).append(true).open(at("log")).expect("a log");
        self.child = Some(dockerd.stdout(Stdio::null()).stderr(log).spawn().expect("dockerd is installed"));
        let socket = self.socket();
        until("the engine answers", async || answers(&socket).await).await;
    }

    /// Its process, by whose number its namespaces can be entered.
    pub(super) fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid().cast_signed()), signal).expect("it lives");
    }

    fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).expect("it lives");
            child.wait().expect("a child");
        }
    }
}

async fn answers(socket: &Path) -> bool {
    let docker = Docker::connect_with_unix(socket.to_str().expect("UTF-8"), 5, API_DEFAULT_VERSION);
    match docker {
        Ok(docker) => docker.ping().await.is_ok(),
        Err(_) => false,
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.signal(Signal::SIGCONT);
        }
        self.stop();
    }
}

/// A worker whose job is held in a stage, and the engine that it uses.
async fn held_beside_an_engine(held: Held) -> (Engine, Scene) {
    let engine = Engine::start(None).await;
    let socket = engine.socket();
    let name = image::image_at(&socket, "tools", image::TOOLS).await;
    let mut host = Host::new(On::Sqlite, LONG, 1).await.lodge(Lodging::InContainers).await;
    host.set("SAWMILL_CONTAINER__SOCKET", socket.to_str().expect("UTF-8"));
    host.set("SAWMILL_CONTAINER__IMAGE", &name);
    (engine, Scene::on(host, held))
}

/// The engine is restarted while a job is in a stage that needs its container.
async fn a_restart_costs_an_attempt(held: Held) {
    let (mut engine, scene) = held_beside_an_engine(held).await;
    let worker = scene.host.start("a").await;
    scene.latch.reached().await;
    engine.stop();
    // Its containers ended with it; meanwhile the second attempt waits for it, or nobody begins one.
    until("the second attempt waits, or the job does", async || {
        let began = scene.host.attempts(scene.job).await.len() == 2;
        let told = scene.host.sawmill(&["job", "explain", &scene.job.to_string()]);
        let left = told["workers"][0]["obstacles"][0]["kind"] == json!("no_engine");
        left || (began && scene.host.log(scene.job, 2, Stream::System).await.contains("waiting for the engine of containers"))
    })
    .await;
    scene.latch.lift();
    engine.start_again().await;
    scene.assert_delivered_once(2).await;
    let attempts = scene.host.attempts(scene.job).await;
    assert!(attempts.iter().any(|one| one.outcome.as_ref().is_some_and(|end| end.class == OutcomeClass::Infrastructure)));
    goes_on(&scene).await;
    scene.close(vec![worker]).await;
}

/// The worker goes on as before, with containers of the engine.
async fn goes_on(scene: &Scene) {
    let next = scene.host.enqueue(&json!({ "repo": scene.remote, "task": { "command": "echo more > more" } }));
    scene.host.succeeded(next).await;
    assert!(scene.host.log(next, 1, Stream::System).await.contains("in container "));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_the_engine_costs_an_attempt_that_is_not_charged_and_no_job() {
    a_restart_costs_an_attempt(Held::Execute).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_does_one_while_gates_judge() {
    a_restart_costs_an_attempt(Held::Judge).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_while_the_work_is_pushed_costs_nothing() {
    // No container is needed any more.
    let (mut engine, scene) = held_beside_an_engine(Held::Publish).await;
    let worker = scene.host.start("a").await;
    scene.latch.reached().await;
    engine.stop();
    scene.latch.lift();
    scene.latch.release().await;
    scene.assert_delivered_once(1).await;
    engine.start_again().await;
    goes_on(&scene).await;
    scene.close(vec![worker]).await;
}

/// An engine that does not get done what it is asked, as one whose disk is busy.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_waits_for_a_stuck_engine_hears_of_its_cancel_and_leaves_no_container() {
    let engine = Engine::start(None).await;
    let socket = engine.socket();
    let name = image::image_at(&socket, "tools", image::TOOLS).await;
    let mut host = Host::new(On::Sqlite, LONG, 1).await.lodge(Lodging::InContainers).await;
    host.set("SAWMILL_CONTAINER__SOCKET", socket.to_str().expect("UTF-8"));
    host.set("SAWMILL_CONTAINER__IMAGE", &name);
    host.set("SAWMILL_CONTAINER__WARM", "0");
    let remote = small_remote(host.root(), "remote");
    let worker = host.start("a").await;
    let edit = |name: &str| host.enqueue(&json!({ "repo": remote, "task": { "command": format!("echo {name} > {name}") } }));
    host.succeeded(edit("first")).await;

    engine.signal(Signal::SIGSTOP);
    let stuck = edit("second");
    until("the job waits for its container", async || {
        host.attempts(stuck).await.first().is_some_and(|one| one.stages.iter().any(|stage| stage.stage == Stage::Execute))
    })
    .await;
    host.sawmill(&["job", "cancel", &stuck.to_string()]);
    until_within(BEFORE_IT_GIVES_UP, "the job is cancelled", async || host.job(stuck).await.state == JobState::Cancelled).await;
    engine.signal(Signal::SIGCONT);

    host.succeeded(edit("third")).await;
    let state = host.state_dir("a");
    host.close(vec![worker]).await;
    assert_eq!(owned_at(&socket, &state).await, BTreeSet::new());
}

/// A daemon that is killed, beside an engine that gets nothing done: the next one is longer in asking it than a container waits for a daemon.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_is_taken_up_beside_an_engine_that_does_not_answer() {
    let engine = Engine::start(None).await;
    let socket = engine.socket();
    let name = image::image_at(&socket, "tools", image::TOOLS).await;
    // It is asked for ten seconds whether it is there, and for ten what it has; and a container waits for nine.
    let mut host = Host::new(On::Sqlite, Duration::from_secs(12), 1).await.lodge(Lodging::InContainers).await;
    host.set("SAWMILL_CONTAINER__SOCKET", socket.to_str().expect("UTF-8"));
    host.set("SAWMILL_CONTAINER__IMAGE", &name);
    let scene = Scene::on(host, Held::Execute);
    let worker = scene.host.start("a").await;
    scene.latch.reached().await;
    engine.signal(Signal::SIGSTOP);
    worker.kill();
    let worker = scene.host.start("a").await;
    engine.signal(Signal::SIGCONT);
    scene.latch.lift();
    scene.latch.release().await;
    scene.assert_delivered_once(1).await;
    let state = scene.host.state_dir("a");
    scene.close(vec![worker]).await;
    assert_eq!(owned_at(&socket, &state).await, BTreeSet::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_needs_a_container_is_left_alone_by_a_worker_without_an_engine_until_there_is_one() {
    let mut host = Host::new(On::Sqlite, LONG, 1).await.lodge(Lodging::OnTheHost).await;
    let (socket, image) = (host.root().join("docker.sock"), image::with_git().await);
    host.set("SAWMILL_CONTAINER__SOCKET", socket.to_str().expect("UTF-8"));
    host.set("SAWMILL_WORKER__REPORT", "2s");
    let remote = small_remote(host.root(), "remote");
    let needs = host.enqueue(&json!({
        "repo": remote, "container": "on", "image": image, "changes": "none", "task": { "command": "test -d /workspace/tree" },
    }));
    let worker = host.start("a").await;
    let other = host.enqueue(&json!({ "repo": remote, "changes": "none", "task": { "command": "true" } }));
    host.succeeded(other).await;
    let told = host.sawmill(&["job", "explain", &needs.to_string()]);
    let obstacle = &told["workers"][0]["obstacles"][0];
    assert_eq!((&obstacle["kind"], &told["workers"][0]["suits"]), (&json!("no_engine"), &json!(true)), "{told}");
    let said = told["answer"].as_str().expect("a sentence");
    assert!(said.contains("has no container for it"), "{said}");
    assert!(obstacle["reason"].as_str().is_some_and(|why| why.contains("cannot reach Docker or Podman at ")), "{told}");
    let shown = host.sawmill(&["workers", "show", "a"]);
    assert_eq!(shown["claiming"]["no_engine"]["reason"], obstacle["reason"], "{shown}");
    assert_eq!(host.attempts(needs).await, [], "none was begun");

    symlink(image::socket(), &socket).expect("a link");
    host.succeeded(needs).await;
    assert_eq!(host.attempts(needs).await.len(), 1);
    // It is claimed for before the worker has written that down.
    until("the worker says so", async || host.sawmill(&["workers", "show", "a"])["claiming"]["no_engine"].is_null()).await;
    host.close(vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_containers_are_the_rule_jobs_wait_for_an_engine_and_those_for_the_host_do_not() {
    let mut host = Host::new(On::Sqlite, LONG, 1).await.lodge(Lodging::InContainers).await;
    let socket = host.root().join("docker.sock");
    host.set("SAWMILL_CONTAINER__SOCKET", socket.to_str().expect("UTF-8"));
    host.set("SAWMILL_WORKER__REPORT", "2s");
    let remote = small_remote(host.root(), "remote");
    let unsaid = host.enqueue(&json!({ "repo": remote, "task": { "command": "echo more > more" } }));
    let worker = host.start("a").await;
    let asked = host.enqueue(&json!({ "repo": remote, "container": "off", "task": { "command": "echo most > most" } }));
    host.succeeded(asked).await;
    let told = host.sawmill(&["job", "explain", &unsaid.to_string()]);
    assert_eq!(told["workers"][0]["obstacles"][0]["kind"], json!("no_engine"), "{told}");
    assert_eq!(host.attempts(unsaid).await, [], "none was begun");
    symlink(image::socket(), &socket).expect("a link");
    host.succeeded(unsaid).await;
    host.close(vec![worker]).await;
}
