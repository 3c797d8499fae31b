//! What it costs to start, to end and to run a job in a container, beside what Docker's own commands cost, by turns in one run.
//!
//! `tests/with-services.sh cargo bench --bench container` (rounds: `SAWMILL_BENCH_ROUNDS`, 20 by default). Medians, in milliseconds.

#[expect(dead_code, reason = "the tests use more of it")]
#[path = "../tests/container/image.rs"]
mod image;

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use sawmill::job::spec::ContainerMode;
use sawmill::sandbox::container::{Config, Containers, ContainersSetup, Network, Start, Use, Wish};
use sawmill::sandbox::egress::Rules;
use sawmill::sandbox::{CommandSpec, Launch, Mark, Roster, Supervisor};
use tempfile::TempDir;
use uuid::Uuid;

/// A tree of processes of which each has left its parent's session.
const TREE: &str = "for i in 1 2 3 4 5; do setsid sleep 1000 & done; echo ready; wait";

fn main() {
    let rounds: usize = std::env::var("SAWMILL_BENCH_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(20);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let place = Place::open().await;
        println!("rounds: {rounds}");
        place.compare(rounds).await;
        place.close().await;
    });
}

struct Place {
    root: TempDir,
    image: String,
    warm: Containers,
    cold: Containers,
    host: Supervisor,
    /// A container of Docker's own, for `docker exec`.
    idle: String,
}

type Figures = BTreeMap<&'static str, Vec<f64>>;

impl Place {
    async fn open() -> Self {
        let root = TempDir::with_prefix("sawmill-bench-").expect("a directory");
        let image = image::with_git().await;
        let containers = |name: &str, warm| {
            let state = root.path().join(name);
            fs::create_dir_all(&state).expect("a directory");
            let config = Config {
                mode: ContainerMode::On,
                image: image.clone(),
                socket: image::socket(),
                warm,
                reuse: 1,
                memory: ByteSize::gib(1),
                cpus: 2.0,
                pids: 500,
                tmp: ByteSize::mib(64),
                disk: ByteSize(0),
                network: Network::None,
                egress: Rules::default(),
            };
            Containers::open(ContainersSetup {
                config,
                worker: "bench".to_owned(),
                state,
                executable: env!("CARGO_BIN_EXE_sawmill").into(),
                orphan_after: Duration::from_secs(600),
                roster: Roster::default(),
            })
            .expect("a state directory")
        };
        let (warm, cold) = (containers("warm", 1), containers("cold", 0));
        let launch = Launch {
            executable: env!("CARGO_BIN_EXE_sawmill").into(),
            dir: root.path().join("sup"),
            mark: Mark { worker: "bench".to_owned(), slot: "0".to_owned() },
            orphan_after: Duration::from_secs(600),
        };
        let host = Supervisor::launch(&launch).await.expect("a supervisor");
        let idle = format!("sawmill-bench-{}", Uuid::new_v4().simple());
        docker(&["run", "-d", "--network", "none", "--name", &idle, &image, "sleep", "100000"]);
        Self { root, image, warm, cold, host, idle }
    }

    async fn compare(&self, rounds: usize) {
        let mut figures = Figures::new();
        for round in 0..rounds + 2 {
            let mut now = Figures::new();
            self.start(&mut now).await;
            self.end(&mut now).await;
            if round >= 2 {
                now.into_iter().for_each(|(name, values)| figures.entry(name).or_default().extend(values));
            }
        }
        for (name, values) in &mut figures {
            println!("  {name:<48} {:>9.2}", median(values));
        }
        let mut of = |name: &str| median(figures.get_mut(name).expect("measured"));
        let (warm, exec, run) = (of(WARM), of(EXEC), of(RUN));
        println!("  warm / docker exec {:.3} (to reach: 0.1), warm / docker run {:.4} (0.02)", warm / exec, warm / run);
        println!("  cancel / docker kill {:.3} (to reach: 0.2)", of(CANCEL) / of(KILL));
    }

    /// From the wish for a place to run in, until the first line of output is in the host's file.
    async fn start(&self, figures: &mut Figures) {
        self.ready().await;
        for (name, containers, start) in [(WARM, &self.warm, Start::Warm), (COLD, &self.cold, Start::Cold)] {
            let wish = self.wish(name);
            let command = self.command("/workspace", "echo ready");
            let begun = Instant::now();
            let lodging = containers.take(&wish).await.expect("a container");
            lodging.container.supervisor().start(&command).await.expect("a start");
            wait_for_line(&command.stdout);
            let took = milliseconds(begun);
            // One that was still being made is another measurement.
            if lodging.start == start {
                figures.entry(name).or_default().push(took);
            }
            containers.give_back(0, lodging.container, Use::Clean);
        }
        let command = self.command("/", "echo ready");
        let begun = Instant::now();
        self.host.start(&command).await.expect("a start");
        wait_for_line(&command.stdout);
        figures.entry(HOST).or_default().push(milliseconds(begun));
        self.host.wait(&command.id).await.expect("a report");
        self.host.collect(&command.id).await.expect("collected");

        let network = ["--network", "none"];
        figures.entry(FORK).or_default().push(first_line(Command::new("sh").args(["-c", "echo ready"])));
        let exec = ["exec", &self.idle, "sh", "-c", "echo ready"];
        figures.entry(EXEC).or_default().push(first_line(client().args(exec)));
        let run = ["run", "--rm", network[0], network[1], &self.image, "sh", "-c", "echo ready"];
        figures.entry(RUN).or_default().push(first_line(client().args(run)));
        let begun = Instant::now();
        docker(&["run", "--rm", network[0], network[1], &self.image, "true"]);
        figures.entry(NOTHING).or_default().push(milliseconds(begun));
    }

    /// From the request until no process of the tree is left.
    async fn end(&self, figures: &mut Figures) {
        self.ready().await;
        let lodging = self.warm.take(&self.wish(WARM)).await.expect("a container");
        let command = self.command("/workspace", TREE);
        let supervisor = lodging.container.supervisor();
        supervisor.start(&command).await.expect("a start");
        wait_for_line(&command.stdout);
        let begun = Instant::now();
        supervisor.stop(&command.id).await.expect("it lives");
        supervisor.wait(&command.id).await.expect("a report");
        figures.entry(CANCEL).or_default().push(milliseconds(begun));
        self.warm.give_back(0, lodging.container, Use::Clean);

        let name = format!("sawmill-bench-{}", Uuid::new_v4().simple());
        docker(&["run", "-d", "--network", "none", "--name", &name, &self.image, "sh", "-c", TREE]);
        let begun = Instant::now();
        docker(&["kill", &name]);
        figures.entry(KILL).or_default().push(milliseconds(begun));
        docker(&["rm", "-f", &name]);
    }

    /// Waits until the next container is ready and nothing is being removed, so that nobody else is at work.
    async fn ready(&self) {
        let _first = self.warm.take(&self.wish(WARM)).await.map(|lodging| self.warm.give_back(0, lodging.container, Use::Clean));
        loop {
            let listed = docker(&["ps", "-a", "--filter", "label=sawmill.worker=bench", "--format", "{{.State}}"]);
            if listed.lines().eq(["running"]) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // Until its supervisor answers, and it is on its shelf.
        tokio::time::sleep(Duration::from_millis(500)).await;
    }

    fn wish(&self, name: &str) -> Wish {
        let job_dir = self.root.path().join(if name == WARM { "warm/job" } else { "cold/job" });
        fs::create_dir_all(&job_dir).expect("a directory");
        Wish { slot: 0, tree: job_dir.clone(), job_dir, image: None, objects: Vec::new() }
    }

    fn command(&self, cwd: &str, script: &str) -> CommandSpec {
        let out = self.root.path().join(Uuid::new_v4().to_string());
        CommandSpec {
            id: Uuid::new_v4().to_string(),
            argv: ["sh", "-c", script].map(str::to_owned).into(),
            env: [("PATH".to_owned(), "/bin:/usr/bin".to_owned())].into(),
            cwd: cwd.into(),
            stdin: None,
            stdout: out.clone(),
            stderr: out,
            grace: Duration::from_secs(5),
            deadline: None,
            will: None,
        }
    }

    async fn close(self) {
        self.warm.close().await;
        self.cold.close().await;
        self.host.shutdown().await.expect("ended");
        docker(&["rm", "-f", &self.idle]);
    }
}

const FORK: &str = "first line: fork and exec";
const HOST: &str = "first line: sawmill on the host";
const WARM: &str = "first line: sawmill, warm container";
const COLD: &str = "first line: sawmill, cold container";
const EXEC: &str = "first line: docker exec";
const RUN: &str = "first line: docker run --rm";
const NOTHING: &str = "whole: docker run --rm of nothing";
const CANCEL: &str = "end of a tree: sawmill, warm container";
const KILL: &str = "end of a tree: docker kill";

fn wait_for_line(path: &Path) {
    while !fs::read(path).is_ok_and(|text| text.contains(&b'\n')) {
        std::thread::sleep(Duration::from_micros(50));
    }
}

/// The time until a program's first byte of output.
fn first_line(command: &mut Command) -> f64 {
    let begun = Instant::now();
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it starts");
    let mut byte = [0];
    child.stdout.take().expect("its output").read_exact(&mut byte).expect("it says something");
    let took = milliseconds(begun);
    child.wait().expect("it ends");
    took
}

/// Docker's own client.
fn client() -> Command {
    let mut command = Command::new("docker");
    command.arg("-H").arg(format!("unix://{}", image::socket().display()));
    command
}

fn docker(args: &[&str]) -> String {
    let output = client().args(args).output().expect("docker runs");
    assert!(output.status.success(), "docker {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn milliseconds(begun: Instant) -> f64 {
    begun.elapsed().as_secs_f64() * 1e3
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
