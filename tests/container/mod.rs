//! Containers, proven with a real engine: what a job in one can do, what it cannot, and what becomes of it.
//!
//! A [`Yard`] fails its test when a container of it is left.

mod agents;
mod beside;
mod daemon;
mod disk;
mod doctor;
mod egress;
mod ends;
mod engine;
mod escapes;
mod foreign;
pub(crate) mod image;
mod images;
mod limits;
mod path;
mod waiting;
mod walls;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bollard::Docker;
use bollard::query_parameters::{ListContainersOptionsBuilder, RemoveContainerOptionsBuilder};
use bytesize::ByteSize;
use nix::unistd::{getgid, getuid};
use sawmill::job::spec::ContainerMode;
use sawmill::sandbox::container::{Config, Containers, ContainersSetup, Lodging, Network, Use, WORKSPACE, Wish};
use sawmill::sandbox::egress::Rules;
use sawmill::sandbox::{CommandSpec, ExitReport, Roster, Supervisor};
use tempfile::TempDir;
use uuid::Uuid;

/// How long anything here may take on a machine that is busy with something else.
const PATIENCE: Duration = Duration::from_secs(120);

/// A silence of daemons that none here reaches.
const LONG: Duration = Duration::from_secs(600);

fn directory() -> Arc<TempDir> {
    Arc::new(TempDir::with_prefix("sawmill-yard-").expect("a directory"))
}

/// A worker's state directory with containers.
struct Yard {
    root: Arc<TempDir>,
    roster: Roster,
    containers: Containers,
}

impl Yard {
    async fn open() -> Self {
        Self::with(|_| ()).await
    }

    async fn with(edit: impl FnOnce(&mut Config)) -> Self {
        Self::again(directory(), LONG, edit).await
    }

    /// As a daemon that comes after another one in the same directory.
    async fn again(root: Arc<TempDir>, orphan_after: Duration, edit: impl FnOnce(&mut Config)) -> Self {
        Self::of(root, env!("CARGO_BIN_EXE_sawmill"), orphan_after, edit).await
    }

    /// As a daemon that is this program.
    async fn of(root: Arc<TempDir>, program: &str, orphan_after: Duration, edit: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config {
            mode: ContainerMode::On,
            image: image::with_git().await,
            image_ttl: Duration::ZERO,
            socket: image::socket(),
            warm: 1,
            reuse: 1,
            memory: ByteSize::mib(256),
            cpus: 2.0,
            pids: 200,
            tmp: ByteSize::mib(16),
            disk: ByteSize(0),
            files: 0,
            network: Network::None,
            egress: Rules::default(),
        };
        edit(&mut config);
        let roster = Roster::default();
        let setup = ContainersSetup {
            config,
            worker: "yard".to_owned(),
            state: root.path().to_owned(),
            executable: program.into(),
            orphan_after,
            roster: roster.clone(),
        };
        let containers = Containers::open(setup).expect("a state directory");
        Self { root, roster, containers }
    }

    /// The end of a daemon that is killed: nothing is closed.
    fn crash(self) -> Arc<TempDir> {
        let root = self.root.clone();
        std::mem::forget(self);
        root
    }

    fn job_dir(&self, slot: u32) -> PathBuf {
        self.root.path().join(format!("slots/{slot}/job"))
    }

    fn wish(&self, slot: u32) -> Wish {
        let job_dir = self.job_dir(slot);
        fs::create_dir_all(job_dir.join("tree")).expect("a slot");
        Wish { slot, tree: job_dir.join("tree"), job_dir, image: None, objects: Vec::new() }
    }

    async fn take(&self, slot: u32) -> Guest<'_> {
        let lodging = self.containers.take(&self.wish(slot)).await.expect("a container");
        Guest { yard: self, slot, supervisor: lodging.container.supervisor(), lodging }
    }

    /// The names of all containers of this yard.
    async fn all(&self) -> BTreeSet<String> {
        owned(self.root.path()).await
    }

    /// How many supervisors of containers listen.
    fn answering(&self) -> usize {
        self.roster.all().iter().filter(|dir| dir.join("sock").exists()).count()
    }

    /// Closes it, and proves that nothing is left of it.
    async fn close(self) {
        self.containers.close().await;
        assert_eq!(self.all().await, BTreeSet::new(), "containers are left");
        assert_eq!(self.roster.all(), Vec::<PathBuf>::new(), "supervisors are thought to live");
        let left: Vec<_> = fs::read_dir(self.root.path().join("containers")).into_iter().flatten().flatten().collect();
        assert!(left.iter().all(|entry| entry.path().is_file()), "directories are left: {left:?}");
    }
}

impl Drop for Yard {
    fn drop(&mut self) {
        let root = self.root.path().to_owned();
        std::thread::spawn(move || remove_all(&root)).join().ok();
    }
}

/// The containers whose labels name this state directory.
pub(crate) async fn owned(state: &Path) -> BTreeSet<String> {
    owned_of(&image::docker().await, state).await
}

/// The same, with another engine.
async fn owned_at(socket: &Path, state: &Path) -> BTreeSet<String> {
    owned_of(&image::docker_at(socket).await, state).await
}

async fn owned_of(docker: &Docker, state: &Path) -> BTreeSet<String> {
    let filters = HashMap::from([("label".to_owned(), vec![format!("sawmill.state={}", state.display())])]);
    let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
    let found = docker.list_containers(Some(options)).await.expect("containers can be listed");
    let names = found.into_iter().filter_map(|one| Some(one.names?.first()?.trim_start_matches('/').to_owned()));
    names.collect()
}

/// Removes what a failed test left behind.
pub(crate) fn remove_all(state: &Path) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        for name in owned(state).await {
            eprintln!("removing what a failed test left behind: {name}");
            let options = RemoveContainerOptionsBuilder::default().force(true).build();
            image::docker().await.remove_container(&name, Some(options)).await.ok();
        }
    });
}

/// A job in a container.
struct Guest<'a> {
    yard: &'a Yard,
    slot: u32,
    lodging: Lodging,
    supervisor: Supervisor,
}

impl Guest<'_> {
    fn name(&self) -> &str {
        &self.lodging.container.name
    }

    fn script(&self, script: &str) -> CommandSpec {
        let out = self.yard.root.path().join(format!("slots/{}", self.slot));
        let env = [("PATH", "/bin:/usr/bin"), ("HOME", WORKSPACE)];
        CommandSpec {
            id: Uuid::new_v4().to_string(),
            argv: ["sh", "-c", script].map(str::to_owned).into(),
            env: env.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            cwd: Path::new(WORKSPACE).join("tree"),
            stdin: None,
            stdout: out.join("out"),
            stderr: out.join("out"),
            grace: Duration::from_secs(1),
            deadline: None,
            will: None,
        }
    }

    /// Runs a script to its end, and gives its report and what it said.
    async fn run(&self, script: &str) -> (ExitReport, String) {
        let command = self.script(script);
        fs::remove_file(&command.stdout).ok();
        let started = self.supervisor.start(&command).await.expect("a start");
        let report = tokio::time::timeout(PATIENCE, self.supervisor.wait(&command.id)).await.expect("it ends").expect("a report");
        assert!(started.pid.is_some(), "{report:?}");
        self.supervisor.collect(&command.id).await.expect("collected");
        (report, fs::read_to_string(&command.stdout).expect("its output"))
    }

    /// Starts a script and waits until it has said `ready`.
    async fn start(&self, script: &str) -> CommandSpec {
        let command = self.script(script);
        fs::remove_file(&command.stdout).ok();
        self.supervisor.start(&command).await.expect("a start");
        until("the script is ready", async || fs::read_to_string(&command.stdout).is_ok_and(|text| text.contains("ready"))).await;
        command
    }

    /// The processes in the container, as the engine sees them.
    async fn processes(&self) -> Vec<String> {
        let docker = image::docker().await;
        let top = docker.top_processes(self.name(), None).await.expect("the container runs");
        let titles = top.titles.expect("titles");
        let at = titles.iter().position(|title| title == "CMD" || title == "COMMAND").expect("a column");
        top.processes.unwrap_or_default().into_iter().map(|process| process[at].clone()).collect()
    }

    fn leave(self) {
        self.yard.containers.give_back(self.slot, self.lodging.container, Use::Clean);
    }
}

/// Waits for something that can be seen.
async fn until(what: &str, is_so: impl AsyncFnMut() -> bool) {
    crate::delivery::host::until_within(PATIENCE, what, is_so).await;
}

/// Waits until the container for the next job of this slot is ready, beside those in `busy`.
async fn refilled(yard: &Yard, busy: usize) {
    until_ready("a container", async || yard.all().await.len() == busy + 1 && yard.answering() == busy + 1).await;
}

/// Waits until containers are there and answer, which they do shortly before they are on their shelves: so for a moment more.
async fn until_ready(what: &str, mut answer: impl AsyncFnMut() -> bool) {
    let mut looks = 0;
    until(&format!("{what} is ready"), async || {
        looks = if answer().await { looks + 1 } else { 0 };
        looks == 10
    })
    .await;
}

/// The fields of `/proc/<pid>/status`, as a job printed them.
fn fields(text: &str) -> BTreeMap<&str, &str> {
    text.lines().filter_map(|line| line.split_once(':')).map(|(key, value)| (key, value.trim())).collect()
}

/// User and group of this process, which are those of its daemon.
fn own_ids() -> String {
    format!("{} {}", getuid(), getgid())
}
