//! An attempt that runs in a database of its own, with a spool, and what a job and a reader do with it.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use sawmill::ids::{AttemptNo, JobId, WorkerId};
use sawmill::job::attempt::Resources;
use sawmill::job::{Claim, LogChunk, LogVerdict, Outcome, OutcomeClass, RetryPolicy, Stream};
use sawmill::logs::{Config, Follow, Shipment, Shipper, Spool, Start, Tail, TailEvent, TailRequest};
use sawmill::redact::Redactor;
use sawmill::store::{self, ClaimRequest, Finish, NewJob, Store};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use tokio_util::sync::CancellationToken;

/// How long a test waits for what must happen.
pub(super) const DEADLINE: Duration = Duration::from_secs(60);

/// Runs one body as two tests, `sqlite` and `postgres`, each with a database of its own.
macro_rules! on_both {
    ($(async fn $name:ident($db:ident) $body:block)*) => { $(
        mod $name {
            use super::*;

            async fn body($db: &crate::logs::Db) $body

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() {
                let db = crate::logs::Db::on_sqlite().await;
                body(&db).await;
                db.end().await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres() {
                let db = crate::logs::Db::on_postgres().await;
                body(&db).await;
                db.end().await;
            }
        }
    )* };
}
pub(super) use on_both;

/// A database of its own for one test.
pub(super) struct Db {
    pub store: Store,
    pub dir: tempfile::TempDir,
    schema: Option<String>,
}

impl Db {
    pub(super) async fn on_sqlite() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}/queue.db", dir.path().display());
        Self { store: Store::connect(&store_config(url)).await.unwrap(), dir, schema: None }
    }

    pub(super) async fn on_postgres() -> Self {
        let schema = format!("logs_{}", uuid::Uuid::new_v4().simple());
        let mut server = PgConnection::connect(&server()).await.unwrap();
        server.execute(AssertSqlSafe(format!("CREATE SCHEMA {schema}"))).await.unwrap();
        let store = Store::connect(&store_config(in_schema(&server_url(), &schema))).await.unwrap();
        Self { store, dir: tempfile::tempdir().unwrap(), schema: Some(schema) }
    }

    /// A store on the same PostgreSQL schema, reached through another port of this host.
    pub(super) async fn through_port(&self, port: u16) -> Store {
        let mut url = server_url();
        url.set_port(Some(port)).unwrap();
        let schema = self.schema.as_deref().unwrap();
        Store::connect(&store_config(in_schema(&url, schema))).await.unwrap()
    }

    pub(super) async fn end(self) {
        self.store.close().await;
        if let Some(schema) = self.schema {
            let mut server = PgConnection::connect(&server()).await.unwrap();
            server.execute(AssertSqlSafe(format!("DROP SCHEMA {schema} CASCADE"))).await.unwrap();
        }
    }

    /// Enqueues a job and claims it.
    pub(super) async fn attempt(&self) -> Attempt {
        self.enqueue(1).await;
        self.claim().await
    }

    pub(super) async fn enqueue(&self, attempts_max: u32) -> JobId {
        let id = JobId::generate();
        let spec = serde_json::from_str(r#"{"repo": "/r", "backend": "shell", "task": {"instruction": "x"}}"#).unwrap();
        let new = NewJob {
            id,
            spec,
            repo: "/r".to_owned(),
            base: "main".to_owned(),
            branch: format!("sawmill/{id}").parse().unwrap(),
            attempts_max,
            weight: 1,
            waiting_max: None,
            digest: id.to_string(),
        };
        self.store.enqueue(new).await.unwrap();
        id
    }

    /// Claims the next job, with a run directory of its own.
    pub(super) async fn claim(&self) -> Attempt {
        let ask = ClaimRequest {
            worker: WorkerId::new("w1"),
            backends: [("shell".to_owned(), std::collections::BTreeSet::new())].into(),
            labels: std::collections::BTreeSet::new(),
            rooms: sawmill::store::Rooms::All,
            limit: 1,
            lease: Duration::from_secs(600),
        };
        let begun = Instant::now();
        loop {
            self.store.promote_once(10).await.unwrap();
            if let Some(claimed) = self.store.claim(&ask).await.unwrap().pop() {
                let run = self.dir.path().join(format!("run-{}-{}", claimed.claim.job, claimed.claim.attempt));
                std::fs::create_dir(&run).unwrap();
                let spool = Spool::create(&run).unwrap();
                return Attempt {
                    store: self.store.clone(),
                    claim: claimed.claim,
                    spool,
                    config: config(),
                    redactor: Redactor::new::<[&str; 0]>([]),
                };
            }
            assert!(begun.elapsed() < DEADLINE, "no job can be claimed");
            tokio::task::yield_now().await;
        }
    }
}

fn server() -> String {
    std::env::var("SAWMILL_TEST_POSTGRES")
        .expect("SAWMILL_TEST_POSTGRES is not set: run the tests with `make test`, which starts a PostgreSQL for them")
}

pub(super) fn server_url() -> url::Url {
    server().parse().unwrap()
}

fn in_schema(server: &url::Url, schema: &str) -> String {
    let mut url = server.clone();
    url.query_pairs_mut().append_pair("options", &format!("-csearch_path={schema}"));
    // A blank in a parameter must not arrive as a plus sign.
    url.to_string().replace('+', "%20")
}

fn store_config(url: String) -> store::Config {
    store::Config {
        url,
        lease: Duration::from_secs(600),
        poll: Duration::from_secs(1),
        retry: RetryPolicy { attempts: 3, resets: 3, backoff: Duration::from_millis(1), backoff_max: Duration::from_millis(1) },
        ageing: std::time::Duration::from_secs(600),
        waiting_max: 0,
        completion_lease: Duration::from_secs(60),
        completion_deliveries: 3,
        answer_within: std::time::Duration::from_secs(3600),
        pause: sawmill::job::PausePolicy {
            backoff: std::time::Duration::from_secs(60),
            backoff_max: std::time::Duration::from_secs(240),
            reset_max: std::time::Duration::from_secs(864_000),
        },
        retention: store::Retention::Forever,
    }
}

/// What is shipped, with limits that no test meets by accident.
fn config() -> Config {
    Config {
        flush: Duration::from_millis(10),
        chunk_bytes: ByteSize::kib(64),
        cap: ByteSize::gib(1),
        tail: ByteSize::mib(1),
        spool_cap: ByteSize::gib(4),
    }
}

/// A claimed attempt.
pub(super) struct Attempt {
    pub store: Store,
    pub claim: Claim,
    pub spool: Spool,
    pub config: Config,
    pub redactor: Redactor,
}

impl Attempt {
    pub(super) fn ship(&self) -> Shipper {
        Shipper::start(Shipment {
            store: self.store.clone(),
            claim: self.claim.clone(),
            spool: self.spool.clone(),
            redactor: self.redactor.clone(),
            config: self.config.clone(),
            cancel: CancellationToken::new(),
        })
    }

    /// Ships what is there and seals the log.
    pub(super) async fn finish(&self, shipper: Shipper) -> LogVerdict {
        let verdict = shipper.drain(DEADLINE).await.unwrap();
        self.seal(verdict, OutcomeClass::Succeeded).await;
        verdict
    }

    pub(super) async fn seal(&self, log: LogVerdict, class: OutcomeClass) {
        let end = Finish {
            outcome: Outcome::new(class, "it ended"),
            resources: Resources::default(),
            stages: Vec::new(),
            log,
            salvage: None,
            completion: None,
            not_before: None,
            usage: None,
            credential: None,
        };
        self.store.finish(&self.claim, end).await.unwrap();
    }

    /// A descriptor as the job has it.
    pub(super) fn writer(&self, stream: Stream) -> File {
        let path = if stream == Stream::Stdout { self.spool.stdout() } else { self.spool.stderr() };
        OpenOptions::new().append(true).open(path).unwrap()
    }

    pub(super) fn write(&self, stream: Stream, data: &[u8]) {
        self.writer(stream).write_all(data).unwrap();
    }

    pub(super) fn tail(&self, start: Start, from: u64) -> Tail {
        Tail::new(&self.store, TailRequest { job: self.claim.job, start, from, follow: Follow::UntilTheEnd })
    }

    /// Reads the sealed log from `from` on.
    pub(super) async fn read(&self, from: u64) -> Log {
        read_to_end(self.tail(Start::Only(self.claim.attempt), from)).await
    }

    /// Waits until the store has so much of the log.
    pub(super) async fn wait_for_stored(&self, bytes: u64) {
        let begun = Instant::now();
        while self.stored().await < bytes {
            assert!(begun.elapsed() < DEADLINE, "{} of {bytes} bytes are in the store", self.stored().await);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    pub(super) async fn stored(&self) -> u64 {
        self.store.log_position(self.claim.job, self.claim.attempt).await.unwrap().offset
    }
}

/// What a reader was given.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Log {
    pub chunks: Vec<LogChunk>,
    pub ends: Vec<(AttemptNo, LogVerdict)>,
}

impl Log {
    pub(super) fn all(&self) -> Vec<u8> {
        self.chunks.iter().flat_map(|chunk| chunk.data.clone()).collect()
    }

    pub(super) fn of(&self, stream: Stream) -> Vec<u8> {
        self.chunks.iter().filter(|chunk| chunk.stream == stream).flat_map(|chunk| chunk.data.clone()).collect()
    }
}

/// Reads to the end, and checks that the chunks follow each other without gap or overlap.
pub(super) async fn read_to_end(mut tail: Tail) -> Log {
    let mut log = Log::default();
    let mut expected: Option<u64> = None;
    loop {
        match tokio::time::timeout(DEADLINE, tail.next()).await.expect("the log comes to an end").unwrap() {
            Some(TailEvent::Chunk(chunk)) => {
                assert_eq!(chunk.offset, expected.unwrap_or(chunk.offset), "a chunk does not follow the one before");
                expected = Some(chunk.offset + chunk.data.len() as u64);
                log.chunks.push(chunk);
            }
            Some(TailEvent::Attempt(_)) => expected = None,
            Some(TailEvent::End { attempt, verdict }) => log.ends.push((attempt, verdict)),
            None => return log,
        }
    }
}

/// For messages of failed tests.
pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
