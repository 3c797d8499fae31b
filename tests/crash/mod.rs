//! Workers that are killed, stopped and cut off, as processes of their own: nothing is lost, nothing is delivered twice.

mod abandoned;
mod cancelled;
mod down;
mod restarted;
mod revised;
mod signalled;
mod supervisor;
mod suspended;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use sawmill::ids::JobId;
use sawmill::job::{Job, LogVerdict, Stream};
use serde_json::{Value, json};
use sqlx::{Connection, Executor, PgConnection, SqliteConnection};

use crate::delivery::daemon::Daemon;
use crate::delivery::host::{Host, On, until};
use crate::delivery::remote::{Latch, git, hold_pushes, refs, small_remote};

/// A lease that does not run out within a test.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// A lease that is waited out.
const SHORT: Duration = Duration::from_secs(4);

/// The stage in which a worker is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Held {
    Prepare,
    Execute,
    Commit,
    Judge,
    Publish,
    Complete,
}

/// What the job writes to its standard output where it is not asked for its document.
pub(crate) const OUTPUT: &str = "before\nafter\n";

/// A host with one remote, and one job that is held in a stage.
pub(crate) struct Scene {
    pub(crate) host: Host,
    pub(crate) remote: PathBuf,
    pub(crate) held: Held,
    pub(crate) latch: Latch,
    pub(crate) job: JobId,
}

/// Everything that is on record of a scene's job, and all refs of its remote.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// The row, the attempts with their logs, the completions.
    pub(crate) rows: String,
    pub(crate) refs: Vec<(String, String)>,
}

impl Scene {
    /// Makes everything ready, and enqueues a job whose first attempt will be held.
    async fn set(on: On, held: Held, lease: Duration) -> Self {
        Self::on(Host::new(on, lease, 2).await, held)
    }

    /// As [`Scene::set`], on a host that is there.
    pub(crate) fn on(host: Host, held: Held) -> Self {
        let remote = small_remote(host.root(), "remote.git");
        let latch = match held {
            Held::Prepare => host.latch("git-fetch"),
            Held::Commit => host.latch("git-commit-tree"),
            Held::Execute | Held::Judge => host.job_latch("stage"),
            Held::Publish | Held::Complete => host.latch("stage"),
        };
        latch.close();
        // git itself makes the commit, where it can be held, of a tree whose attributes say how files are taken.
        let attributes = if held == Held::Commit { "echo 'work.txt filter=none' > .gitattributes; " } else { "" };
        let at = |stage| if stage == held { latch.here() } else { ":".to_owned() };
        // What an attempt was told it says in one line of its error output.
        let command = format!(
            "printf 'told %s\\n' \"$(tr -d '\\n' < \"$SAWMILL_SPEC\")\" >&2; {attributes}echo work >> work.txt; echo before; {}; echo after",
            at(Held::Execute)
        );
        let job = host.enqueue(&json!({
            "repo": remote,
            "task": { "instruction": "Do the work", "command": command },
            "gates": [{ "name": "unit", "command": format!("test -s work.txt; {}", at(Held::Judge)) }],
        }));
        if matches!(held, Held::Publish | Held::Complete) {
            hold_pushes(&remote, &latch);
        }
        Self { host, remote, held, latch, job }
    }

    /// Starts a worker and kills it when the job is in its stage. From then on nobody is held any more.
    pub(crate) async fn kill_in_stage(&self) {
        let worker = self.host.start("a").await;
        self.latch.reached().await;
        self.latch.lift();
        if self.held == Held::Complete {
            let lock = WriteLock::take(&self.host).await;
            self.latch.release().await;
            until("the branch is pushed", async || self.said("pushed")).await;
            worker.kill();
            lock.release().await;
        } else {
            worker.kill();
        }
    }

    /// Whether the worker has said this in the log of an attempt, as it is on disk.
    fn said(&self, text: &str) -> bool {
        let slots = self.host.state_dir("a").join("slots");
        let logs = (0..2).map(|slot| slots.join(slot.to_string()).join("run/system.log"));
        logs.filter_map(|path| fs::read_to_string(path).ok()).any(|log| log.contains(text))
    }

    /// Proves that the job was delivered once, as the record of `attempt` says.
    pub(crate) async fn assert_delivered_once(&self, attempt: u32) -> Job {
        let job = self.host.succeeded(self.job).await;
        assert_delivered_once(&self.host, &self.remote, &job, attempt).await;
        job
    }

    /// Kills the worker in its stage, starts it again, and proves that it took the job up: one attempt, delivered once, and its log
    /// whole. Answers the worker.
    pub(crate) async fn assert_taken_up(&self, held: Held) -> Daemon {
        self.kill_in_stage().await;
        let worker = self.host.start("a").await;
        if matches!(held, Held::Execute | Held::Judge) {
            // The job itself was held, and lives.
            self.latch.release().await;
        }
        self.assert_delivered_once(1).await;
        let attempts = self.host.attempts(self.job).await;
        assert_eq!(attempts.len(), 1);
        assert_eq!(attempts[0].log_verdict, Some(LogVerdict::Complete));
        assert_eq!(self.host.log(self.job, 1, Stream::Stdout).await, OUTPUT);
        worker
    }

    /// Everything that is on record.
    pub(crate) async fn record(&self) -> Record {
        let (host, job) = (&self.host, self.job);
        let attempts = host.attempts(job).await;
        let mut logs = Vec::new();
        for attempt in &attempts {
            let page = host.store.read_log(job, attempt.attempt, 0, 1 << 20).await.expect("the log can be read");
            logs.push(format!("{page:?}"));
        }
        let completions = host.completions(Some(job)).await;
        let rows = format!("{:#?}\n{attempts:#?}\n{logs:#?}\n{completions:#?}", host.job(job).await);
        Record { rows, refs: refs(&self.remote, "refs/") }
    }

    /// What a worker has pushed, or was about to, and does not know to be delivered.
    fn pushes(&self, worker: &str) -> Vec<PathBuf> {
        fs::read_dir(self.host.state_dir(worker).join("pushes")).expect("there").flatten().map(|entry| entry.path()).collect()
    }

    /// Ends the workers, and proves that nothing is left.
    pub(crate) async fn close(self, workers: Vec<Daemon>) {
        // git of a worker that was killed may be held still.
        self.latch.let_go();
        self.host.close(workers).await;
    }
}

async fn assert_delivered_once(host: &Host, remote: &std::path::Path, job: &Job, attempt: u32) {
    let branches: Vec<_> = refs(remote, "refs/heads/sawmill/");
    assert_eq!(branches.len(), 1, "{branches:?}");
    let (branch, tip) = &branches[0];
    assert_eq!(branch, &job.branch.to_ref());
    let message = git(
        remote,
        &["log", "--format=%(trailers:key=Sawmill-Job,key=Sawmill-Attempt,valueonly,separator=%x20)", &format!("main..{tip}")],
    );
    assert_eq!(message, format!("{} {attempt}", job.id), "one commit, with the job's trailers");
    assert_eq!(job.commit.as_ref().map(ToString::to_string).as_ref(), Some(tip));
    assert_eq!(git(remote, &["show", &format!("{tip}:work.txt")]), "work");
    let completions = host.completions(Some(job.id)).await;
    assert_eq!(completions.len(), 1, "{completions:?}");
    let completion = &completions[0].completion;
    assert_eq!((completion.attempt.0, completion.commit.as_ref()), (attempt, job.commit.as_ref()));
    assert_eq!(completion.gates.len(), job.spec.gates.len());
    assert_eq!(job.attempts_used, 1, "only the delivery is charged");
}

/// What an attempt was told, where its job wrote it to its output.
fn told(output: &str) -> Value {
    let line = output.lines().find_map(|line| line.strip_prefix("told "));
    serde_json::from_str(line.expect("the job says what it was told")).expect("JSON")
}

/// The database, locked against writers.
enum WriteLock {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

impl WriteLock {
    async fn take(host: &Host) -> Self {
        if host.url().starts_with("sqlite:") {
            let mut connection = SqliteConnection::connect(host.url()).await.expect("the file can be opened");
            connection.execute("PRAGMA busy_timeout = 20000").await.expect("set");
            connection.execute("BEGIN IMMEDIATE").await.expect("locked");
            return Self::Sqlite(connection);
        }
        let mut connection = PgConnection::connect(host.url()).await.expect("the server answers");
        connection.execute("BEGIN").await.expect("begun");
        connection.execute("LOCK TABLE jobs IN SHARE ROW EXCLUSIVE MODE").await.expect("locked");
        Self::Postgres(connection)
    }

    async fn release(self) {
        match self {
            Self::Sqlite(mut connection) => connection.execute("ROLLBACK").await.map(drop).expect("released"),
            Self::Postgres(mut connection) => connection.execute("ROLLBACK").await.map(drop).expect("released"),
        }
    }
}

/// Stops a daemon while it does not write to the database: one that is stopped in the middle of it holds everybody up.
pub(crate) async fn stop_quietly(host: &Host, daemon: &Daemon) {
    let quiet = WriteLock::take(host).await;
    daemon.stop();
    quiet.release().await;
}

/// A test for each of these.
macro_rules! each {
    ($body:ident: $($name:ident($on:ident, $held:ident))*) => { $(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            $body(crate::delivery::host::On::$on, crate::crash::Held::$held).await;
        }
    )* };
}
use each;
