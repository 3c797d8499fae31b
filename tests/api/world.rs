//! The real router over a real database of the test's own, and a worker played by hand.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use http_body_util::BodyExt as _;
use sawmill::api::wire::Setting;
use sawmill::api::{Policy, Project, State};
use sawmill::artifacts::Artifacts;
use sawmill::cli::{Args, CliError, Client, Command, Exit, Form, Output};
use sawmill::clock::Timestamp;
use sawmill::ids::{AttemptNo, CompletionId, JobId, WorkerId};
use sawmill::job::attempt::Resources;
use sawmill::job::{
    Claim, Completion, DiffSummary, FileChange, LogChunk, LogVerdict, Outcome, OutcomeClass, RetryPolicy, Stream,
};
use sawmill::store::{
    ClaimRequest, Claiming, Config, Finish, OfferedBackend, Pressure, ProjectLimits, Retention, SlotContent, SlotRecord, Store,
    WorkerPhase, WorkerReport,
};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

/// Defines one story as two tests: over SQLite and over PostgreSQL.
macro_rules! on_both {
    (async fn $name:ident($world:ident: &World) $body:block) => {
        mod $name {
            use super::*;

            async fn story($world: &World) $body

            #[tokio::test]
            async fn on_sqlite() {
                let world = World::on_sqlite().await;
                story(&world).await;
                world.close().await;
            }

            #[tokio::test]
            async fn on_postgres() {
                let world = World::on_postgres().await;
                story(&world).await;
                world.close().await;
            }
        }
    };
}
pub(crate) use on_both;

pub(crate) struct World {
    pub(crate) store: Store,
    pub(crate) router: axum::Router,
    pub(crate) artifacts: Artifacts,
    pub(crate) shutdown: CancellationToken,
    place: Place,
    scratch: tempfile::TempDir,
}

enum Place {
    Directory(tempfile::TempDir),
    Schema { server: String, name: String },
}

impl World {
    pub(crate) async fn on_sqlite() -> Self {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let url = format!("sqlite:{}", dir.path().join("queue.db").display());
        Self::open(url, Place::Directory(dir)).await
    }

    pub(crate) async fn on_postgres() -> Self {
        let server = std::env::var("SAWMILL_TEST_POSTGRES")
            .expect("SAWMILL_TEST_POSTGRES names no PostgreSQL database; run the tests with: make test");
        let name = format!("api_{}", JobId::generate().as_uuid().simple());
        let mut connection = sqlx::PgConnection::connect(&server).await.expect("PostgreSQL answers");
        connection.execute(AssertSqlSafe(format!("CREATE SCHEMA {name}"))).await.expect("a schema of our own");
        connection.close().await.expect("the connection closes");
        let url = format!("{server}?options=-c%20search_path%3D{name}");
        Self::open(url, Place::Schema { server, name }).await
    }

    async fn open(url: String, place: Place) -> Self {
        let config = Config {
            url,
            lease: Duration::from_secs(30),
            poll: Duration::from_millis(200),
            retry: RetryPolicy {
                attempts: 3,
                resets: 5,
                backoff: Duration::from_millis(1),
                backoff_max: Duration::from_millis(2),
            },
            ageing: std::time::Duration::from_secs(600),
            waiting_max: 0,
            completion_lease: Duration::from_secs(300),
            completion_deliveries: 3,
            answer_within: std::time::Duration::from_secs(3600),
            pause: sawmill::job::PausePolicy {
                backoff: std::time::Duration::from_secs(60),
                backoff_max: std::time::Duration::from_secs(240),
                reset_max: std::time::Duration::from_secs(864_000),
            },
            retention: Retention::Forever,
        };
        let store = Store::connect(&config).await.expect("the database opens");
        let shutdown = CancellationToken::new();
        let policy = Arc::new(policy());
        let scratch = tempfile::TempDir::new().expect("a scratch directory");
        let artifacts = Artifacts::new(&artifacts_config(), scratch.path(), &BTreeMap::new());
        let state = State { store: store.clone(), policy, artifacts: artifacts.clone(), shutdown: shutdown.clone() };
        Self { store, router: sawmill::api::router(state), artifacts, shutdown, place, scratch }
    }

    /// Ends what the test made; without it a schema would be left behind.
    pub(crate) async fn close(self) {
        self.shutdown.cancel();
        drop(self.router);
        self.store.close().await;
        self.scratch.close().expect("the scratch directory can be removed");
        match self.place {
            Place::Directory(dir) => dir.close().expect("the scratch directory can be removed"),
            Place::Schema { server, name } => {
                let mut connection = sqlx::PgConnection::connect(&server).await.expect("PostgreSQL answers");
                connection.execute(AssertSqlSafe(format!("DROP SCHEMA {name} CASCADE"))).await.expect("the schema goes");
            }
        }
    }

    /// Sends a request as any client would.
    pub(crate) async fn send(&self, request: Request<Body>) -> (StatusCode, axum::http::HeaderMap, Vec<u8>) {
        let response = self.router.clone().oneshot(request).await.expect("the router always answers");
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.expect("the body arrives").to_bytes();
        (parts.status, parts.headers, bytes.to_vec())
    }

    pub(crate) async fn get(&self, path: &str) -> (StatusCode, Value) {
        let (status, _, body) = self.send(request("GET", path, Body::empty())).await;
        (status, read(&body))
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> (StatusCode, Value) {
        let (status, _, body) = self.send(request("POST", path, Body::from(body.to_string()))).await;
        (status, read(&body))
    }

    pub(crate) async fn post_text(&self, path: &str, body: &str) -> (StatusCode, Value) {
        let (status, _, body) = self.send(request("POST", path, Body::from(body.to_owned()))).await;
        (status, read(&body))
    }

    /// Enqueues a job of which nothing but its command is special.
    pub(crate) async fn enqueue(&self, command: &str) -> JobId {
        let document = json!({"repo": "/srv/git/app.git", "task": {"command": command}});
        let (status, job) = self.post("/v1/jobs", document).await;
        assert_eq!(status, StatusCode::CREATED, "{job}");
        id_of(&job)
    }

    /// Claims the one job that is ready.
    pub(crate) async fn claim(&self) -> Claim {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        loop {
            self.store.promote_once(100).await.expect("jobs are promoted");
            let ask = ClaimRequest {
                worker: WorkerId::new("w1"),
                backends: [("shell".to_owned(), std::collections::BTreeSet::new())].into(),
                labels: std::collections::BTreeSet::new(),
                rooms: sawmill::store::Rooms::All,
                limit: 1,
                lease: Duration::from_secs(30),
            };
            if let Some(claimed) = self.store.claim(&ask).await.expect("the queue answers").pop() {
                return claimed.claim;
            }
            assert!(tokio::time::Instant::now() < deadline, "no job became ready");
            tokio::task::yield_now().await;
        }
    }

    /// Ends an attempt; a success delivers a change of one file.
    pub(crate) async fn finish(&self, claim: &Claim, class: OutcomeClass, message: &str) {
        let outcome = Outcome::new(class, message);
        let completion = (class == OutcomeClass::Succeeded).then(|| completion(claim, &outcome));
        let end = Finish {
            outcome,
            resources: Resources { exit_code: Some(0), ..Resources::default() },
            stages: Vec::new(),
            log: LogVerdict::Complete,
            salvage: None,
            completion,
            not_before: None,
            usage: None,
            credential: None,
        };
        self.store.finish(claim, end).await.expect("the attempt ends");
    }

    pub(crate) async fn report_worker(&self) {
        self.report(|_| ()).await;
    }

    /// Reports the worker `w1` as `edit` has it.
    pub(crate) async fn report(&self, edit: impl FnOnce(&mut WorkerReport)) {
        let now = self.store.now();
        let label = |text: &str| text.parse().expect("a label");
        let mut report = WorkerReport {
            id: WorkerId::new("w1"),
            host: "builder".to_owned(),
            version: "0.1.0".to_owned(),
            pid: 4711,
            boot_id: "boot".to_owned(),
            labels: vec![label("linux")],
            backends: vec![OfferedBackend {
                name: "shell".to_owned(),
                credential: "shell".to_owned(),
                capabilities: vec![label("context=200k")],
            }],
            slots: (0..4).map(|number| SlotRecord { number, content: SlotContent::Free }).collect(),
            pressure: Pressure::default(),
            claiming: Claiming::default(),
            phase: WorkerPhase::Running,
            report_ms: 10_000,
            started_at: now,
            seen_at: now,
        };
        edit(&mut report);
        self.store.report_worker(&report).await.expect("the worker reports");
    }

    /// Runs a command line against the router in this process: how it ends, and what it wrote.
    pub(crate) async fn cli(&self, line: &[&str]) -> (Result<Exit, CliError>, String) {
        let (ended, bytes) = cli(&Client::InProcess(self.router.clone()), line).await;
        (ended, String::from_utf8(bytes).expect("text"))
    }
}

/// Runs a command line against `client`.
pub(crate) async fn cli(client: &Client, line: &[&str]) -> (Result<Exit, CliError>, Vec<u8>) {
    let args = <Args as clap::Parser>::try_parse_from(std::iter::once(&"sawmill").chain(line)).expect("a legal command line");
    let form = if args.global.json { Form::Json } else { Form::Text };
    let (out, captured) = Output::captured(form);
    let Command::Client(command) = args.command else { panic!("not a client command: {line:?}") };
    let ended = sawmill::cli::perform(client, &out, command).await;
    (ended, captured.bytes())
}

pub(crate) fn request(method: &str, path: &str, body: Body) -> Request<Body> {
    Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "localhost")
        .header(header::CONTENT_TYPE, "application/json")
        .body(body)
        .expect("a request")
}

fn read(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap_or_else(|_| Value::String(String::from_utf8_lossy(body).into_owned()))
}

pub(crate) fn id_of(job: &Value) -> JobId {
    job["id"].as_str().expect("a job has an id").parse().expect("it is a job's")
}

pub(crate) fn chunk(seq: u64, offset: u64, stream: Stream, data: &[u8]) -> LogChunk {
    LogChunk { seq, stream, offset, spool_end: offset + data.len() as u64, at: Timestamp(1_700_000_000_000), data: data.to_vec() }
}

fn completion(claim: &Claim, outcome: &Outcome) -> Completion {
    let file = FileChange { path: "README.md".to_owned(), insertions: 3, deletions: 1, binary: false };
    Completion {
        id: CompletionId::generate(),
        job: claim.job,
        attempt: claim.attempt,
        project: None,
        repo: "/srv/git/app.git".to_owned(),
        base: "1".repeat(40).parse().expect("an object id"),
        commit: Some("2".repeat(40).parse().expect("an object id")),
        tree: Some("3".repeat(40).parse().expect("an object id")),
        branch: Some(format!("sawmill/adhoc/job/{}", claim.job.short())),
        diff: DiffSummary { files: 1, insertions: 3, deletions: 1, per_file: vec![file] },
        runs_on: None,
        gates: Vec::new(),
        findings: Vec::new(),
        critiques: Vec::new(),
        artifacts: Vec::new(),
        rejections: Vec::new(),
        summary: None,
        usage: None,
        outcome: outcome.clone(),
        created_at: Timestamp::now(),
    }
}

fn artifacts_config() -> sawmill::artifacts::Config {
    sawmill::artifacts::Config {
        store: sawmill::artifacts::StoreAddress::State,
        file_size: bytesize::ByteSize::mib(1),
        attempt_size: bytesize::ByteSize::mib(1),
        files: 10,
        timeout: Duration::from_secs(60),
    }
}

fn policy() -> Policy {
    let app = Project { repo: "/srv/git/app.git".to_owned(), base: Some("main".to_owned()), ..Project::default() };
    let limits = ProjectLimits { waiting: NonZeroU32::new(2), ..ProjectLimits::default() };
    let small = Project { repo: "/srv/git/small.git".to_owned(), limits, ..Project::default() };
    Policy {
        projects: BTreeMap::from([("app".to_owned(), app), ("small".to_owned(), small)]),
        backends: BTreeSet::from(["shell".to_owned()]),
        default_backend: "shell".to_owned(),
        attempts: 3,
        critics: BTreeSet::new(),
        default_critics: Vec::new(),
        checks: sawmill::job::checks::Checks::default(),
        branch: "sawmill/{execution}/{role}/{slug}".parse().expect("a legal template"),
        version: "0.1.0 (test)".to_owned(),
        configuration: vec![
            Setting { key: "queue.lease".to_owned(), value: json!("30s"), origin: "built-in".to_owned() },
            Setting { key: "queue.url".to_owned(), value: json!("(hidden)"), origin: "SAWMILL_QUEUE__URL".to_owned() },
        ],
    }
}

/// The first attempt.
pub(crate) const FIRST: AttemptNo = AttemptNo(1);
