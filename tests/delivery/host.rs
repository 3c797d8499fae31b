//! Daemons as processes of their own, with a database, remotes, and the proof that nothing of them is left.
//!
//! Everything of one test has the path of its directory in its arguments or its environment; by that it is found again. Only
//! such processes are ever ended, each by its number.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sawmill::ids::{AttemptNo, JobId};
use sawmill::job::{AttemptRecord, CompletionEntry, Job, JobState, RetryPolicy, Stream};
use sawmill::store::{CompletionFilter, Config, Store};
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tempfile::TempDir;
use uuid::Uuid;

use super::remote::{Latch, find_git};

/// How long anything may take on a machine that is busy with something else.
pub(crate) const PATIENCE: Duration = Duration::from_secs(240);

/// Where the jobs are on record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum On {
    Sqlite,
    Postgres,
}

/// A host with a database of its own.
pub(crate) struct Host {
    root: TempDir,
    url: String,
    schema: Option<String>,
    lease: Duration,
    slots: u32,
    starts: AtomicU32,
    settings: Vec<(&'static str, String)>,
    pub(crate) store: Store,
}

/// A daemon's process. It is killed when this goes.
pub(crate) struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Host {
    pub(crate) async fn new(on: On, lease: Duration, slots: u32) -> Self {
        let root = TempDir::with_prefix("sawmill-host-").expect("a temporary directory");
        let (url, schema) = match on {
            On::Sqlite => (format!("sqlite:{}/queue.db", root.path().display()), None),
            On::Postgres => {
                let server = std::env::var("SAWMILL_TEST_POSTGRES").expect(
                    "SAWMILL_TEST_POSTGRES is not set: run the tests with `make test`, which starts a PostgreSQL for them",
                );
                let schema = format!("t_{}", Uuid::new_v4().simple());
                let mut connection = PgConnection::connect(&server).await.expect("the test server answers");
                connection.execute(AssertSqlSafe(format!("CREATE SCHEMA {schema}"))).await.expect("a schema can be made");
                let sign = if server.contains('?') { '&' } else { '?' };
                (format!("{server}{sign}options=-c%20search_path%3D{schema}"), Some(schema))
            }
        };
        let retry =
            RetryPolicy { attempts: 1, resets: 5, backoff: Duration::from_millis(100), backoff_max: Duration::from_secs(1) };
        let config = Config {
            url: url.clone(),
            lease,
            poll: Duration::from_secs(1),
            retry,
            ageing: std::time::Duration::from_secs(600),
            waiting_max: 0,
            completion_lease: PATIENCE,
            completion_deliveries: 3,
        };
        let store = Store::connect(&config).await.expect("a new database can be opened");
        let host = Self { root, url, schema, lease, slots, starts: AtomicU32::new(0), settings: Vec::new(), store };
        host.write_git();
        host
    }

    pub(crate) fn root(&self) -> &Path {
        self.root.path()
    }

    /// Configures by a variable, for what is started from now on.
    pub(crate) fn set(&mut self, variable: &'static str, value: &str) {
        self.settings.push((variable, value.to_owned()));
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// A place that processes can be held at.
    pub(crate) fn latch(&self, name: &str) -> Latch {
        Latch::at(self.root().join(format!("latch-{name}")))
    }

    pub(crate) fn state_dir(&self, worker: &str) -> PathBuf {
        self.root().join(worker)
    }

    /// git, with a latch at each of its subcommands.
    fn write_git(&self) {
        let script = format!(
            "#!/bin/sh\nlatch={}/latch-git-$1\n{}\nexec {} \"$@\"\n",
            self.root().display(),
            Latch::script("$latch"),
            find_git().display()
        );
        super::remote::write_program(&self.root().join("git"), &script);
    }

    fn config(&self, worker: &str) -> PathBuf {
        let path = self.root().join(format!("{worker}.toml"));
        let text = format!(
            "[queue]\nurl = {:?}\nlease = \"{}ms\"\npoll = \"200ms\"\n[queue.retry]\nbackoff = \"100ms\"\nbackoff_max = \"1s\"\n\
             [worker]\nname = {worker:?}\nstate_dir = {:?}\nslots = {}\n[sandbox]\ngrace = \"1s\"\n[git]\nprogram = {:?}\n",
            self.url,
            self.lease.as_millis(),
            self.state_dir(worker),
            self.slots,
            self.root().join("git"),
        );
        fs::write(&path, text).expect("a configuration");
        path
    }

    fn command(&self, worker: &str, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sawmill"));
        command.arg("--config").arg(self.config(worker)).args(args).current_dir(self.root()).env_clear();
        command.env("PATH", std::env::var_os("PATH").expect("a PATH")).env("HOME", self.root());
        command.envs(self.settings.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Starts a worker without waiting for it.
    pub(crate) fn spawn(&self, worker: &str) -> Daemon {
        let log = self.root().join(format!("{worker}-{}.log", self.starts.fetch_add(1, Ordering::Relaxed)));
        let mut command = self.command(worker, &["worker"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log).expect("a log"));
        Daemon { name: worker.to_owned(), child: command.spawn().expect("the daemon starts"), log }
    }

    /// Starts a worker, which has taken up what it was to take up when this returns.
    pub(crate) async fn start(&self, worker: &str) -> Daemon {
        let mut daemon = self.spawn(worker);
        until(&format!("worker {worker} runs"), async || {
            assert!(daemon.child.try_wait().expect("a child").is_none(), "the worker ended:\n{}", daemon.log());
            daemon.log().contains("runs with")
        })
        .await;
        daemon
    }

    /// Runs a command of the program's, and gives its answer.
    pub(crate) fn sawmill(&self, args: &[&str]) -> Value {
        let output = self.command("client", args).arg("--json").output().expect("the program runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {}\n{said}", output.status);
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    pub(crate) fn enqueue(&self, spec: &Value) -> JobId {
        let path = self.root().join(format!("spec-{}.json", Uuid::new_v4().simple()));
        fs::write(&path, spec.to_string()).expect("a document");
        let answer = self.sawmill(&["enqueue", "--spec", path.to_str().expect("UTF-8")]);
        answer["id"].as_str().expect("an id").parse().expect("an id")
    }

    pub(crate) async fn job(&self, id: JobId) -> Job {
        self.store.job(id).await.expect("the job is on record")
    }

    pub(crate) async fn attempts(&self, id: JobId) -> Vec<AttemptRecord> {
        self.store.attempts(id).await.expect("attempts can be read")
    }

    pub(crate) async fn completions(&self, job: Option<JobId>) -> Vec<CompletionEntry> {
        let filter = CompletionFilter { job, limit: 100, ..CompletionFilter::default() };
        self.store.completions(&filter).await.expect("completions can be read").items
    }

    /// Waits for the end of a job.
    pub(crate) async fn ended(&self, id: JobId) -> Job {
        until(&format!("job {id} ends"), async || self.job(id).await.state.is_final()).await;
        self.job(id).await
    }

    pub(crate) async fn succeeded(&self, id: JobId) -> Job {
        let job = self.ended(id).await;
        assert_eq!(job.state, JobState::Succeeded, "{:?}\n{}", job.outcome, self.logs());
        job
    }

    /// What one stream of an attempt's log has.
    pub(crate) async fn log(&self, job: JobId, attempt: u32, stream: Stream) -> String {
        let (mut from, mut bytes) = (0, Vec::new());
        loop {
            let page = self.store.read_log(job, AttemptNo(attempt), from, 1 << 20).await.expect("the log can be read");
            from = page.next_offset(from);
            let of_stream = page.chunks.iter().filter(|chunk| chunk.stream == stream);
            bytes.extend(of_stream.flat_map(|chunk| chunk.data.iter().copied()));
            if from >= page.total || page.chunks.is_empty() {
                return String::from_utf8(bytes).expect("text");
            }
        }
    }

    /// The processes of this test whose arguments or environment have `text`.
    pub(crate) fn processes(&self, text: &str) -> Vec<Pid> {
        let ours = self.root().to_str().expect("UTF-8");
        let found = processes().filter(|(_, about)| contains(about, ours) && contains(about, text));
        found.map(|(pid, _)| pid).collect()
    }

    /// What the daemons have said, for a failed test.
    pub(crate) fn logs(&self) -> String {
        let entries = fs::read_dir(self.root()).expect("the test's directory").flatten();
        let mut paths: Vec<PathBuf> =
            entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "log")).collect();
        paths.sort();
        paths.iter().map(|path| format!("--- {}\n{}", path.display(), fs::read_to_string(path).unwrap_or_default())).collect()
    }

    /// What is left on disk of attempts, in the state directories of all workers and in the remotes.
    fn leftovers(&self) -> Vec<PathBuf> {
        let mut left = Vec::new();
        for entry in fs::read_dir(self.root()).expect("the test's directory").flatten() {
            let dir = entry.path();
            if dir.join("slots").is_dir() {
                for slot in fs::read_dir(dir.join("slots")).expect("slots").flatten() {
                    left.extend(names_in(&slot.path()).into_iter().filter(|path| !path.ends_with("sup")));
                }
                left.extend(names_in(&dir.join("trash")).into_iter().chain(names_in(&dir.join("kept"))));
                left.extend(names_in(&dir.join("mirrors")).into_iter().flat_map(|mirror| git_locks(&mirror)));
            } else if dir.extension().is_some_and(|extension| extension == "git") {
                left.extend(git_locks(&dir));
            }
        }
        left
    }

    /// Ends the daemons in good order, and proves that nothing is left.
    pub(crate) async fn close(self, daemons: Vec<Daemon>) {
        for daemon in &daemons {
            daemon.signal(Signal::SIGTERM);
        }
        for mut daemon in daemons {
            let status = daemon.exit().await;
            assert!(status.success(), "worker {} ended with {status}\n{}", daemon.name, self.logs());
        }
        until(&format!("no process is left: {:?}", describe(&self.processes(""))), async || self.processes("").is_empty()).await;
        let left = self.leftovers();
        assert!(left.is_empty(), "left behind: {left:#?}\n{}", self.logs());
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for pid in self.processes("") {
            eprintln!("ending what a failed test left behind: {}", describe(&[pid]).join(" "));
            // It may have ended meanwhile.
            kill(pid, Signal::SIGKILL).ok();
        }
        if let (Some(schema), Ok(server)) = (self.schema.take(), std::env::var("SAWMILL_TEST_POSTGRES")) {
            let dropping = async move {
                let mut connection = PgConnection::connect(&server).await?;
                connection.execute(AssertSqlSafe(format!("DROP SCHEMA {schema} CASCADE"))).await
            };
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
                // A schema that stays is in nobody's way.
                runtime.block_on(async { tokio::time::timeout(Duration::from_secs(10), dropping).await.is_ok() })
            })
            .join()
            .ok();
        }
    }
}

impl Daemon {
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("the daemon is there");
    }

    /// Kills it, and nothing else.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("a child");
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).expect("a log")
    }

    pub(crate) async fn exit(&mut self) -> ExitStatus {
        let mut status = None;
        until(&format!("worker {} exits", self.name), async || {
            status = self.child.try_wait().expect("a child");
            status.is_some()
        })
        .await;
        status.expect("it has exited")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Waits for something that can be seen.
pub(crate) async fn until(what: &str, is_so: impl AsyncFnMut() -> bool) {
    until_within(PATIENCE, what, is_so).await;
}

/// Waits for something that can be seen, and that many processes work for.
pub(crate) async fn until_within(patience: Duration, what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let give_up = Instant::now() + patience;
    while !is_so().await {
        assert!(Instant::now() < give_up, "not within {patience:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The arguments of processes, for people.
pub(crate) fn describe(pids: &[Pid]) -> Vec<String> {
    let about = |pid: &Pid| fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    pids.iter().map(|pid| format!("{pid} {}", String::from_utf8_lossy(&about(pid)).replace('\0', " "))).collect()
}

/// All living processes, with their arguments and environments.
fn processes() -> impl Iterator<Item = (Pid, Vec<u8>)> {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.map(|pid| {
        let mut about = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        about.extend(fs::read(format!("/proc/{pid}/environ")).unwrap_or_default());
        (Pid::from_raw(pid), about)
    })
}

fn contains(bytes: &[u8], text: &str) -> bool {
    text.is_empty() || bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

fn names_in(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// Lock files of git's own. The locks between daemons are files beside the mirrors, which stay.
fn git_locks(dir: &Path) -> Vec<PathBuf> {
    let (dirs, files): (Vec<PathBuf>, Vec<PathBuf>) =
        names_in(dir).into_iter().partition(|path| path.is_dir() && !path.is_symlink());
    let locks = files.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "lock"));
    locks.chain(dirs.iter().flat_map(|dir| git_locks(dir))).collect()
}
