//! What it costs to start, to end and to run a job in a container, beside what Docker's own commands cost, by turns in one run.
//!
//! `tests/with-services.sh cargo bench --bench container` (rounds: `SAWMILL_BENCH_ROUNDS`, 20 by default). Medians, in milliseconds.
//! Of whole jobs: the claim is when the database says that it was made, to the millisecond; the first line is there when it is in the
//! spool, to half a millisecond; and the end is when it is on record. They are delivered to the worker's mirror and not pushed.

#[expect(dead_code, reason = "the tests use more of it")]
#[path = "../tests/container/image.rs"]
mod image;
#[path = "server/mod.rs"]
mod server;
#[path = "server/settled.rs"]
mod settled;

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use sawmill::api::wire::Page;
use sawmill::cli::Client;
use sawmill::clock::Timestamp;
use sawmill::job::spec::{self, ContainerMode, Deliver, Task};
use sawmill::job::{AttemptRecord, Job, JobSpec, JobState};
use sawmill::sandbox::container::{Config, Containers, ContainersSetup, Network, Start, Use, Wish};
use sawmill::sandbox::egress::Rules;
use sawmill::sandbox::{CommandSpec, Launch, Mark, Roster, Supervisor};
use server::Server;
use settled::{client, docker, owned, settled};
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
    /// Daemons for whole jobs.
    daemons: Vec<Daemon>,
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
                image_ttl: std::time::Duration::ZERO,
                socket: image::socket(),
                warm,
                reuse: 1,
                memory: ByteSize::gib(1),
                cpus: 2.0,
                pids: 500,
                tmp: ByteSize::mib(64),
                disk: ByteSize(0),
                files: 0,
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
        let remote = make_remote(root.path());
        let daemons = [
            (Where::Host, [HOST_CLAIM, HOST_WHOLE]),
            (Where::Warm, [WARM_CLAIM, WARM_WHOLE]),
            (Where::Cold, [COLD_CLAIM, COLD_WHOLE]),
        ];
        let daemons = daemons
            .map(|(place, names)| Daemon::start(&root.path().join(format!("{place:?}")), &image, &remote, place, names))
            .into();
        Self { root, image, warm, cold, host, idle, daemons }
    }

    async fn compare(&self, rounds: usize) {
        let mut figures = Figures::new();
        for round in 0..rounds + 2 {
            let mut now = Figures::new();
            self.start(&mut now).await;
            self.end(&mut now).await;
            for daemon in &self.daemons {
                daemon.run(&mut now).await;
            }
            if round >= 2 {
                now.into_iter().for_each(|(name, values)| figures.entry(name).or_default().extend(values));
            }
        }
        for (name, values) in &mut figures {
            println!("  {name:<48} {:>9.2}", median(values));
        }
        let mut of = |name: &str| median(figures.get_mut(name).expect("measured"));
        let (exec, run, nothing) = (of(EXEC), of(RUN), of(NOTHING));
        let ratios = [
            ("from the wish for a container: warm / docker exec", of(WARM) / exec, 0.1),
            ("from the wish for a container: warm / docker run", of(WARM) / run, 0.02),
            ("from the claim, worktree included: warm / docker exec", of(WARM_CLAIM) / exec, 0.1),
            ("from the claim, worktree included: warm / docker run", of(WARM_CLAIM) / run, 0.02),
            ("whole job in a warm container / docker run --rm of nothing", of(WARM_WHOLE) / nothing, 0.1),
            ("cancel / docker kill", of(CANCEL) / of(KILL), 0.2),
        ];
        for (name, ratio, reach) in ratios {
            println!("  {name:<60} {ratio:>7.4}  (to reach: {reach})");
        }
        println!("  on the host / fork and exec {:.1}, cold / docker run {:.2}", of(HOST) / of(FORK), of(COLD) / run);
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
        settled(&self.root.path().join("warm"), 1).await;
        settled(&self.root.path().join("cold"), 0).await;
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
        drop(self.daemons);
        self.warm.close().await;
        self.cold.close().await;
        self.host.shutdown().await.expect("ended");
        docker(&["rm", "-f", &self.idle]);
    }
}

/// Where a daemon runs its jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Where {
    Host,
    Warm,
    Cold,
}

/// A daemon with one slot, and what its jobs are measured as: from the claim to the first line, and from being asked for to the end.
struct Daemon {
    /// It ends when this goes.
    _server: Server,
    client: Client,
    state: PathBuf,
    remote: PathBuf,
    place: Where,
    names: [&'static str; 2],
}

impl Daemon {
    fn start(dir: &Path, image: &str, remote: &Path, place: Where, names: [&'static str; 2]) -> Self {
        let containers = |warm: u32| {
            let socket = image::socket();
            format!("[container]\nmode = \"on\"\nimage = {image:?}\nsocket = {socket:?}\nwarm = {warm}\n")
        };
        let settings = match place {
            Where::Host => "[container]\nmode = \"off\"\n".to_owned(),
            Where::Warm => containers(1),
            Where::Cold => containers(0),
        };
        let server = Server::start(dir, 1, &settings);
        let client = Client::http(&server.address).expect("an address");
        Self { _server: server, client, state: dir.join("worker"), remote: remote.to_owned(), place, names }
    }

    /// Runs one job, and measures it unless its container is not what it is to be.
    async fn run(&self, figures: &mut Figures) {
        // Before the first job there is no container that could be ready for it.
        let expected = usize::from(self.place == Where::Warm);
        if !owned(&self.state).is_empty() || self.place != Where::Warm {
            settled(&self.state, expected).await;
        }
        let spec = JobSpec {
            schema: spec::SCHEMA,
            repo: Some(self.remote.to_string_lossy().into_owned()),
            task: Task {
                command: Some(spec::Command::Line("echo ready; echo changed >> CHANGED.txt".to_owned())),
                ..Task::default()
            },
            deliver: Deliver { push: false, ..Deliver::default() },
            ..JobSpec::default()
        };
        let watch = self.state.join("slots/0/run/stdout.log");
        let seen = std::thread::spawn(move || {
            while !has_line(&watch) {
                // Not oftener: for as long as a whole job takes, it would be at work beside the daemon on one of two processors.
                std::thread::sleep(Duration::from_micros(500));
            }
            Timestamp::now()
        });
        let job: Job = self.client.post("/v1/jobs", &spec).await.expect("enqueued");
        let path = format!("/v1/jobs/{}", job.id);
        let job: Job = loop {
            let job: Job = self.client.get(&path).await.expect("the job");
            if job.state.is_final() {
                break job;
            }
            // Seldom: what it asks is work for those who are measured.
            tokio::time::sleep(Duration::from_millis(25)).await;
        };
        assert_eq!(job.state, JobState::Succeeded, "{:?}", job.outcome);
        let attempts: Page<AttemptRecord> = self.client.get(&format!("{path}/attempts")).await.expect("attempts");
        let claimed = attempts.items[0].started_at;
        let seen = seen.join().expect("its line was seen");
        let ms = |from: Timestamp, to: Timestamp| to.since(from).as_secs_f64() * 1e3;
        let [claim, whole] = self.names;
        figures.entry(claim).or_default().push(ms(claimed, seen));
        figures.entry(whole).or_default().push(ms(job.created_at, job.finished_at.expect("it has ended")));
    }
}

/// A bare repository with a few files.
fn make_remote(dir: &Path) -> PathBuf {
    let (seed, remote) = (dir.join("seed"), dir.join("remote.git"));
    fs::create_dir_all(&seed).expect("a directory");
    for number in 0..200 {
        fs::write(seed.join(format!("{number}.txt")), format!("line of {number}\n").repeat(50)).expect("a file");
    }
    let git = |dir: &Path, args: &[&str]| {
        let identity = ["-c", "user.name=bench", "-c", "user.email=bench@localhost"];
        assert!(Command::new("git").args(identity).args(args).current_dir(dir).status().expect("git runs").success(), "{args:?}");
    };
    git(&seed, &["init", "--quiet", "-b", "main"]);
    git(&seed, &["add", "-A"]);
    git(&seed, &["commit", "--quiet", "-m", "files"]);
    git(dir, &["clone", "--quiet", "--bare", "seed", "remote.git"]);
    remote
}

const HOST_CLAIM: &str = "first line from the claim: on the host";
const WARM_CLAIM: &str = "first line from the claim: warm container";
const COLD_CLAIM: &str = "first line from the claim: cold container";
const HOST_WHOLE: &str = "whole job, not pushed: on the host";
const WARM_WHOLE: &str = "whole job, not pushed: warm container";
const COLD_WHOLE: &str = "whole job, not pushed: cold container";
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
    while !has_line(path) {
        std::thread::sleep(Duration::from_micros(50));
    }
}

fn has_line(path: &Path) -> bool {
    fs::read(path).is_ok_and(|text| text.contains(&b'\n'))
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

fn milliseconds(begun: Instant) -> f64 {
    begun.elapsed().as_secs_f64() * 1e3
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
