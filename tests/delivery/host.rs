//! The host of a test: where its daemons run, with a database, remotes, and the proof that nothing of them is left.
//!
//! Everything of one test has the path of its directory in its arguments or its environment; by that it is found again. Only
//! such processes are ever ended, each by its number.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sawmill::ids::{AttemptNo, JobId};
use sawmill::job::{AttemptRecord, CompletionEntry, Job, JobState, RetryPolicy, Stream};
use sawmill::store::{CompletionFilter, Config, Retention, Store};
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tempfile::TempDir;
use uuid::Uuid;

use super::daemon::{Daemon, Seat};
use super::leftovers::names_in;
use super::mark::Mark;
use super::processes::{contains, describe, with_descendants};
use super::remote::{Latch, find_git};
use crate::container;
use crate::git::fixture::{strategy, unmount_below};

/// How long anything may take on a machine that is busy with something else.
pub(crate) const PATIENCE: Duration = Duration::from_secs(240);

/// Where the jobs are on record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum On {
    Sqlite,
    Postgres,
}

/// Where the workers of a host run their jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lodging {
    OnTheHost,
    InContainers,
}

/// Where jobs run in tests that do not say: what `SAWMILL_TEST_LODGING` says, on the host where it says nothing.
pub(crate) fn lodging() -> Lodging {
    match std::env::var("SAWMILL_TEST_LODGING").as_deref() {
        Err(_) | Ok("host") => Lodging::OnTheHost,
        Ok("containers") => Lodging::InContainers,
        Ok(other) => panic!("SAWMILL_TEST_LODGING is {other:?}, which is neither host nor containers"),
    }
}

/// What the workers of a host are told.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    pub(crate) lease: Duration,
    pub(crate) slots: u32,
    /// How often infrastructure may fail a job.
    pub(crate) resets: u32,
    pub(crate) git: GitProgram,
}

/// The git that workers run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GitProgram {
    /// One with a latch at each subcommand, at which processes can be held.
    Latched,
    /// The one of this machine.
    Plain,
}

/// A host with a database of its own.
pub(crate) struct Host {
    root: TempDir,
    url: String,
    schema: Option<String>,
    terms: Terms,
    starts: AtomicU32,
    settings: Vec<(&'static str, String)>,
    lodging: Lodging,
    pub(crate) store: Store,
}

impl Host {
    pub(crate) async fn new(on: On, lease: Duration, slots: u32) -> Self {
        Self::below(&std::env::temp_dir(), on, lease, slots).await
    }

    /// A host whose files are below this directory, and not where temporary files are.
    pub(crate) async fn below(dir: &Path, on: On, lease: Duration, slots: u32) -> Self {
        let root = TempDir::with_prefix_in("sawmill-host-", dir).expect("a temporary directory");
        let terms = Terms { lease, slots, resets: 5, git: GitProgram::Latched };
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
        Self::open(root, url, schema, terms).await
    }

    /// A host on a new database that the test has made itself.
    pub(crate) async fn at(url: impl FnOnce(&Path) -> String, terms: Terms) -> Self {
        let root = TempDir::with_prefix("sawmill-host-").expect("a temporary directory");
        let url = url(root.path());
        Self::open(root, url, None, terms).await
    }

    async fn open(root: TempDir, url: String, schema: Option<String>, terms: Terms) -> Self {
        let (backoff, backoff_max) = (Duration::from_millis(100), Duration::from_secs(1));
        let config = Config {
            url: url.clone(),
            lease: terms.lease,
            poll: Duration::from_secs(1),
            retry: RetryPolicy { attempts: 1, resets: terms.resets, backoff, backoff_max },
            ageing: Duration::from_secs(600),
            waiting_max: 0,
            completion_lease: PATIENCE,
            completion_deliveries: 3,
            answer_within: std::time::Duration::from_secs(3600),
            pause: sawmill::job::PausePolicy {
                backoff: std::time::Duration::from_secs(60),
                backoff_max: std::time::Duration::from_secs(240),
                reset_max: std::time::Duration::from_secs(864_000),
            },
            retention: Retention::Forever,
        };
        let store = Store::connect(&config).await.expect("a new database can be opened");
        let host = Self {
            root,
            url,
            schema,
            terms,
            starts: AtomicU32::new(0),
            settings: Vec::new(),
            lodging: Lodging::OnTheHost,
            store,
        };
        host.write_git();
        host.lodge(lodging()).await
    }

    pub(crate) fn root(&self) -> &Path {
        self.root.path()
    }

    /// Configures by a variable, for what is started from now on.
    pub(crate) fn set(&mut self, variable: &'static str, value: &str) {
        self.settings.push((variable, value.to_owned()));
    }

    /// Does not, for what is started from now on.
    pub(crate) fn unset(&mut self, variable: &str) {
        self.settings.retain(|(name, _)| *name != variable);
    }

    /// Has jobs run there from now on. Without it they run where `SAWMILL_TEST_LODGING` says.
    pub(crate) async fn lodge(mut self, lodging: Lodging) -> Self {
        self.lodging = lodging;
        match lodging {
            Lodging::OnTheHost => self.set("SAWMILL_CONTAINER__MODE", "off"),
            Lodging::InContainers => {
                let image = container::image::with_git().await;
                self.set("SAWMILL_CONTAINER__MODE", "on");
                self.set("SAWMILL_CONTAINER__IMAGE", &image);
                self.set("SAWMILL_CONTAINER__SOCKET", container::image::socket().to_str().expect("UTF-8"));
            }
        }
        self
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// A place that processes can be held at.
    pub(crate) fn latch(&self, name: &str) -> Latch {
        Latch::at(self.root().join(format!("latch-{name}")))
    }

    /// A place that jobs can be held at in their first attempt, wherever they run.
    pub(crate) fn job_latch(&self, name: &str) -> Latch {
        match self.lodging {
            Lodging::OnTheHost => self.latch(name),
            Lodging::InContainers => Latch::within(self.root(), name),
        }
    }

    /// A file by which jobs tell something, wherever they run.
    pub(crate) fn mark(&self, name: &str) -> Mark {
        match self.lodging {
            Lodging::OnTheHost => Mark::Outside(self.root().join(name)),
            Lodging::InContainers => Mark::Inside { workers: self.root().to_owned(), name: name.to_owned() },
        }
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

    fn config(&self, seat: &Seat) -> PathBuf {
        let path = self.root().join(format!("{}.toml", seat.worker));
        let git = match self.terms.git {
            GitProgram::Latched => self.root().join("git"),
            GitProgram::Plain => find_git(),
        };
        let text = format!(
            "[queue]\nurl = {:?}\nlease = \"{}ms\"\npoll = \"200ms\"\n\
             [queue.retry]\nresets = {}\nbackoff = \"100ms\"\nbackoff_max = \"1s\"\n\
             [worker]\nname = {:?}\nstate_dir = {:?}\nslots = {}\n[sandbox]\ngrace = \"1s\"\n[container]\nmode = \"off\"\n\
             [git]\nprogram = {git:?}\n[workspace]\nstrategy = \"{}\"\n",
            seat.url.as_ref().unwrap_or(&self.url),
            self.terms.lease.as_millis(),
            self.terms.resets,
            seat.worker,
            self.state_dir(&seat.worker),
            self.terms.slots,
            strategy(),
        );
        fs::write(&path, text).expect("a configuration");
        path
    }

    /// The program, as it runs in that place.
    pub(crate) fn command(&self, seat: &Seat, args: &[&str]) -> Command {
        let program = env!("CARGO_BIN_EXE_sawmill").to_owned();
        let line: Vec<String> = seat.prefix.iter().cloned().chain([program]).collect();
        let mut command = Command::new(&line[0]);
        command.args(&line[1..]).arg("--config").arg(self.config(seat)).args(args).current_dir(self.root()).env_clear();
        command.env("PATH", std::env::var_os("PATH").expect("a PATH")).env("HOME", self.root());
        command.envs(self.settings.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Starts a daemon in a place without waiting for it.
    pub(crate) fn spawn_at(&self, seat: &Seat, args: &[&str]) -> Daemon {
        let log = self.root().join(format!("{}-{}.log", seat.worker, self.starts.fetch_add(1, Ordering::Relaxed)));
        Daemon::spawn(&seat.worker, self.command(seat, args), log)
    }

    /// Starts a worker, which has taken up what it was to take up when this returns.
    pub(crate) async fn start(&self, worker: &str) -> Daemon {
        self.start_at(&Seat::of(worker)).await
    }

    /// As [`Host::start`], in a place.
    pub(crate) async fn start_at(&self, seat: &Seat) -> Daemon {
        let mut daemon = self.spawn_at(seat, &["worker"]);
        until(&format!("worker {} runs", seat.worker), async || {
            assert_eq!(daemon.ended(), None, "the worker ended:\n{}", daemon.log());
            daemon.log().contains("runs with")
        })
        .await;
        daemon
    }

    /// Runs a command of the program's, and gives its answer.
    pub(crate) fn sawmill(&self, args: &[&str]) -> Value {
        let output = self.command(&Seat::of("client"), args).arg("--json").output().expect("the program runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {}\n{said}", output.status);
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// What a command says with the configuration of a worker, whatever its exit status.
    pub(crate) fn sawmill_at(&self, worker: &str, args: &[&str]) -> Value {
        let output = self.command(&Seat::of(worker), args).arg("--json").output().expect("the program runs");
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
        if job.state != JobState::Succeeded {
            let last = u32::try_from(self.attempts(id).await.len()).expect("few attempts");
            let said = if last == 0 { String::new() } else { self.streams(id, last).await.join("--\n") };
            panic!("{} of {id}: {:?}\n{said}\n{}", job.state, job.outcome, self.logs());
        }
        job
    }

    /// What one stream of an attempt's log has.
    pub(crate) async fn log(&self, job: JobId, attempt: u32, stream: Stream) -> String {
        let at = Stream::ALL.iter().position(|one| *one == stream).expect("one of all");
        self.streams(job, attempt).await.swap_remove(at)
    }

    /// What the streams of an attempt's log have, in the order of [`Stream::ALL`].
    pub(crate) async fn streams(&self, job: JobId, attempt: u32) -> Vec<String> {
        let mut from = 0;
        let mut streams = Stream::ALL.map(|_| Vec::new());
        loop {
            let page = self.store.read_log(job, AttemptNo(attempt), from, 1 << 20).await.expect("the log can be read");
            from = page.next_offset(from);
            let done = from >= page.total || page.chunks.is_empty();
            for chunk in page.chunks {
                streams[Stream::ALL.iter().position(|one| *one == chunk.stream).expect("one of all")].extend(chunk.data);
            }
            if done {
                return streams.map(|bytes| String::from_utf8(bytes).expect("text")).into();
            }
        }
    }

    /// The processes of this test whose arguments or environment have `text`. What is in a container knows nothing of the host's paths,
    /// but descends from its supervisor, which does.
    pub(crate) fn processes(&self, text: &str) -> Vec<Pid> {
        let ours = self.root().to_str().expect("UTF-8");
        with_descendants(|about| contains(about, ours)).filter(|(_, about)| contains(about, text)).map(|(pid, _)| pid).collect()
    }

    /// The processes of a worker's own host: daemon, supervisors, jobs, git. What runs in a remote is on another one.
    pub(crate) fn processes_of(&self, worker: &str) -> Vec<Pid> {
        let state_dir = self.state_dir(worker);
        let (mark, configuration) = (format!("{}/", state_dir.display()), format!("/{worker}.toml"));
        let on_this_host = with_descendants(|about| contains(about, &mark) || contains(about, &configuration));
        let on_this_host: BTreeSet<Pid> = on_this_host.map(|(pid, _)| pid).collect();
        let is_here = |pid: &Pid| {
            let cwd = fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
            let in_repository = cwd.ancestors().any(|dir| dir.extension().is_some_and(|extension| extension == "git"));
            cwd.starts_with(&state_dir) || (!in_repository && on_this_host.contains(pid))
        };
        self.processes("").into_iter().filter(is_here).collect()
    }

    /// What the daemons have said, for a failed test.
    pub(crate) fn logs(&self) -> String {
        let entries = fs::read_dir(self.root()).expect("the test's directory").flatten();
        let mut paths: Vec<PathBuf> =
            entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "log")).collect();
        paths.sort();
        paths.iter().map(|path| format!("--- {}\n{}", path.display(), fs::read_to_string(path).unwrap_or_default())).collect()
    }

    /// The state directories of workers that may have containers.
    fn lodged(&self) -> Vec<PathBuf> {
        let dirs = if self.lodging == Lodging::InContainers { names_in(self.root()) } else { Vec::new() };
        dirs.into_iter().filter(|dir| dir.join("containers").is_dir()).collect()
    }

    /// As [`Host::end`], when there is nothing more to look at.
    pub(crate) async fn close(self, daemons: Vec<Daemon>) {
        self.end(daemons).await;
    }

    /// Ends the daemons in good order, and proves that nothing is left.
    pub(crate) async fn end(&self, daemons: Vec<Daemon>) {
        for daemon in &daemons {
            daemon.signal(Signal::SIGTERM);
        }
        for mut daemon in daemons {
            let status = daemon.exit().await;
            assert!(status.success(), "worker {} ended with {status}\n{}", daemon.name(), self.logs());
        }
        until(&format!("no process is left: {:?}", describe(&self.processes(""))), async || self.processes("").is_empty()).await;
        for worker in self.lodged() {
            assert_eq!(container::owned(&worker).await, [].into(), "containers are left\n{}", self.logs());
        }
        assert_eq!(self.store.broken_rows().await.expect("read"), <[String; 0]>::default());
        let left = self.leftovers();
        assert!(left.is_empty(), "left behind: {left:#?}\n{}", self.logs());
    }
}

impl Host {
    /// Prints what the daemons warned of, for whoever looks into a test that failed. That a connection was slow is no news there.
    fn tell_warnings(&self) {
        for log in names_in(self.root()).into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "log")) {
            for line in fs::read_to_string(&log).unwrap_or_default().lines() {
                if [" WARN ", " ERROR "].iter().any(|level| line.contains(level)) && !line.contains("acquired connection") {
                    eprintln!("{}: {line}", log.file_name().unwrap_or_default().display());
                }
            }
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.tell_warnings();
        }
        for dir in self.lodged() {
            std::thread::spawn(move || container::remove_all(&dir)).join().ok();
        }
        for pid in self.processes("") {
            eprintln!("ending what a failed test left behind: {}", describe(&[pid]).join(" "));
            // It may have ended meanwhile.
            kill(pid, Signal::SIGKILL).ok();
        }
        unmount_below(self.root());
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
