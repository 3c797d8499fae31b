//! The conformance suite of the store: every operation on SQLite and on PostgreSQL.
//!
//! `on_both!` runs a test once on each. Every test has a database of its own: a file in a temporary directory, or a schema in
//! the database that `SAWMILL_TEST_POSTGRES` names.

mod answers;
mod artifacts;
mod budget;
mod claims;
mod clocks;
mod completions;
mod dependencies;
mod depth;
mod disk;
mod dropped;
mod expiry;
mod explain;
mod fate;
mod fence;
mod finish;
mod forecast;
mod hints;
mod jobs;
mod learn;
mod ledger;
mod limits;
mod lines;
mod logs;
mod model;
mod pauses;
mod plans;
mod retention;
mod scheduling;
mod schema;
mod unused_routes;
mod workers;

use std::time::Duration;

use sawmill::clock::Timestamp;
use sawmill::ids::{CompletionId, JobId, ObjectId, WorkerId};
use sawmill::job::attempt::{Resources, RunsOn};
use sawmill::job::spec::{Command, Priority, Task};
use sawmill::job::{ClaimedJob, Completion, DiffSummary, Job, JobSpec, LogVerdict, Outcome, OutcomeClass, RetryPolicy};
use sawmill::store::{ClaimRequest, CompletionAsk, Config, Finish, NewJob, Retention, Store};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, SqliteConnection};
use uuid::Uuid;

/// Runs one body as two tests, `sqlite` and `postgres`, each with a database of its own.
macro_rules! on_both {
    ($(async fn $name:ident($queue:ident) $body:block)*) => { $(
        mod $name {
            #[expect(clippy::allow_attributes, reason = "whether a test uses an import depends on the test")]
            #[allow(unused_imports)]
            use super::*;

            async fn body($queue: &crate::store::Queue) $body

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() {
                let queue = crate::store::Queue::on_sqlite().await;
                body(&queue).await;
                queue.end().await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres() {
                let queue = crate::store::Queue::on_postgres().await;
                body(&queue).await;
                queue.end().await;
            }
        }
    )* };
}
use on_both;

/// A long time, for leases and waits that are not to end within a test.
const LONG: Duration = Duration::from_secs(3600);

/// A database of its own for one test, with a store on it.
struct Queue {
    store: Store,
    config: Config,
    place: Place,
}

enum Place {
    File { directory: tempfile::TempDir },
    Schema { server: String, schema: String },
}

fn config(url: String) -> Config {
    Config {
        url,
        // Of no claim: those say their own. It is how long nothing expires after the server's start.
        lease: Duration::from_millis(1),
        poll: LONG,
        retry: RetryPolicy { attempts: 1, resets: 2, backoff: Duration::ZERO, backoff_max: LONG },
        ageing: std::time::Duration::from_secs(600),
        waiting_max: 0,
        completion_lease: LONG,
        completion_deliveries: 3,
        answer_within: std::time::Duration::from_secs(3600),
        pause: sawmill::job::PausePolicy {
            backoff: std::time::Duration::from_secs(60),
            backoff_max: std::time::Duration::from_secs(240),
            reset_max: std::time::Duration::from_secs(864_000),
        },
        retention: Retention::Forever,
    }
}

fn server() -> String {
    std::env::var("SAWMILL_TEST_POSTGRES")
        .expect("SAWMILL_TEST_POSTGRES is not set: run the tests with `make test`, which starts a PostgreSQL for them")
}

impl Place {
    fn file() -> Self {
        Self::File { directory: tempfile::tempdir().expect("a temporary directory") }
    }

    async fn schema() -> Self {
        let (server, schema) = (server(), format!("t_{}", Uuid::new_v4().simple()));
        let mut connection = PgConnection::connect(&server).await.expect("the test server answers");
        connection.execute(AssertSqlSafe(format!("CREATE SCHEMA {schema}"))).await.expect("a schema can be made");
        Self::Schema { server, schema }
    }

    fn url(&self) -> String {
        match self {
            Self::File { directory } => format!("sqlite:{}/new/queue.db", directory.path().display()),
            Self::Schema { server, schema } => {
                let sign = if server.contains('?') { '&' } else { '?' };
                // The name tells the server's sessions of this test from those of others.
                format!("{server}{sign}options=-c%20search_path%3D{schema}&application_name={schema}")
            }
        }
    }

    /// Does to the database what the store never would.
    async fn tamper(&self, sql: &str) {
        match self {
            Self::File { directory } => {
                let url = format!("sqlite:{}/new/queue.db", directory.path().display());
                let mut connection = SqliteConnection::connect(&url).await.expect("the file can be opened");
                connection.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await.expect("the statement runs");
            }
            Self::Schema { .. } => {
                let mut connection = PgConnection::connect(&self.url()).await.expect("the test server answers");
                connection.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await.expect("the statement runs");
            }
        }
    }

    /// The texts that a query yields.
    async fn texts(&self, sql: &str) -> Vec<String> {
        match self {
            Self::File { directory } => {
                let query = sqlx::query_scalar(AssertSqlSafe(sql));
                let url = format!("sqlite:{}/new/queue.db", directory.path().display());
                let mut connection = SqliteConnection::connect(&url).await.expect("the file can be opened");
                query.fetch_all(&mut connection).await.expect("the query is answered")
            }
            Self::Schema { .. } => {
                let query = sqlx::query_scalar(AssertSqlSafe(sql));
                let mut connection = PgConnection::connect(&self.url()).await.expect("the test server answers");
                query.fetch_all(&mut connection).await.expect("the query is answered")
            }
        }
    }

    /// Ends every session that a store has with the server.
    async fn cut_sessions(&self) {
        let Self::Schema { server, schema } = self else { panic!("only a server has sessions") };
        let mut connection = PgConnection::connect(server).await.expect("the test server answers");
        let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1";
        let cut = sqlx::query(sql).bind(schema).fetch_all(&mut connection).await.expect("sessions can be ended");
        assert!(!cut.is_empty(), "there were sessions");
    }

    async fn remove(self) {
        if let Self::Schema { server, schema } = self {
            let mut connection = PgConnection::connect(&server).await.expect("the test server answers");
            connection.execute(AssertSqlSafe(format!("DROP SCHEMA {schema} CASCADE"))).await.expect("the schema can be dropped");
        }
    }
}

impl Queue {
    async fn on_sqlite() -> Self {
        Self::at(Place::file()).await
    }

    async fn on_postgres() -> Self {
        Self::at(Place::schema().await).await
    }

    async fn at(place: Place) -> Self {
        let config = config(place.url());
        let store = Store::connect(&config).await.expect("a new database can be opened");
        Self { store, config, place }
    }

    /// Another store on the same database, as another process would have it.
    async fn other(&self, edit: impl FnOnce(&mut Config)) -> Store {
        let mut config = self.config.clone();
        edit(&mut config);
        Store::connect(&config).await.expect("the database can be opened twice")
    }

    async fn end(self) {
        assert_eq!(self.store.broken_rows().await.expect("read"), <[String; 0]>::default());
        self.store.close().await;
        self.place.remove().await;
    }

    /// Enqueues a job like any other.
    async fn enqueue(&self) -> Job {
        self.enqueue_as(|_| ()).await
    }

    async fn enqueue_as(&self, edit: impl FnOnce(&mut NewJob)) -> Job {
        // By the queue's clock, which is not quite the host's: it is to be there at once.
        let mut new = new_job();
        edit(&mut new);
        self.store.enqueue(new).await.expect("the job can be enqueued").into_job()
    }

    /// Claims one job as `worker`, with a long lease.
    async fn claim(&self, worker: &str) -> ClaimedJob {
        self.claim_for(worker, LONG).await
    }

    async fn claim_for(&self, worker: &str, lease: Duration) -> ClaimedJob {
        let mut claimed = self.store.claim(&ask(worker, 1, lease)).await.expect("the queue answers");
        let claimed = claimed.pop().expect("a job can be claimed");
        if lease.is_zero() {
            self.runs_out(&claimed).await;
        }
        claimed
    }

    /// Waits until the lease is over by what the store makes of the server's clock: it may be some milliseconds behind.
    async fn runs_out(&self, claimed: &ClaimedJob) {
        while self.store.now() < claimed.lease_until {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn nothing_to_claim(&self) -> bool {
        self.store.claim(&ask("nobody", 10, LONG)).await.expect("the queue answers").is_empty()
    }
}

fn new_job() -> NewJob {
    let id = JobId::generate();
    NewJob {
        id,
        spec: JobSpec {
            schema: 1,
            backend: Some("shell".to_owned()),
            task: Task { command: Some(Command::Line("true".to_owned())), ..Task::default() },
            ..JobSpec::default()
        },
        repo: "/srv/git/app.git".to_owned(),
        base: "main".to_owned(),
        branch: format!("sawmill/{id}").parse().expect("a branch name"),
        attempts_max: 1,
        weight: 1,
        waiting_max: None,
        digest: "d1".to_owned(),
    }
}

fn ask(worker: &str, limit: u32, lease: Duration) -> ClaimRequest {
    ClaimRequest {
        worker: WorkerId::new(worker),
        backends: [("shell".to_owned(), std::collections::BTreeSet::new())].into(),
        labels: std::collections::BTreeSet::new(),
        rooms: sawmill::store::Rooms::All,
        limit,
        lease,
    }
}

fn asking(consumer: &str, limit: u32, lease: Option<Duration>) -> CompletionAsk {
    CompletionAsk { consumer: consumer.to_owned(), limit, lease, ..CompletionAsk::default() }
}

fn finish(class: OutcomeClass) -> Finish {
    Finish {
        outcome: Outcome::new(class, "as the test wants it"),
        resources: Resources::default(),
        stages: Vec::new(),
        log: LogVerdict::Complete,
        salvage: None,
        completion: None,
        not_before: None,
        usage: None,
        credential: None,
    }
}

fn completion(claimed: &ClaimedJob) -> Completion {
    Completion {
        id: CompletionId::generate(),
        job: claimed.claim.job,
        attempt: claimed.claim.attempt,
        project: None,
        repo: claimed.job.repo.clone(),
        base: object('a'),
        commit: Some(object('b')),
        tree: Some(object('c')),
        branch: Some(claimed.job.branch.to_string()),
        diff: DiffSummary { files: 1, insertions: 2, ..DiffSummary::default() },
        runs_on: Some(RunsOn::Container { image: "sha256:00".to_owned() }),
        gates: Vec::new(),
        findings: Vec::new(),
        critiques: Vec::new(),
        artifacts: Vec::new(),
        rejections: Vec::new(),
        summary: Some("did \u{0}it".to_owned()),
        usage: None,
        outcome: Outcome::new(OutcomeClass::Succeeded, "delivered"),
        created_at: Timestamp(5),
    }
}

fn delivered(claimed: &ClaimedJob) -> Finish {
    Finish { completion: Some(completion(claimed)), ..finish(OutcomeClass::Succeeded) }
}

fn object(digit: char) -> ObjectId {
    digit.to_string().repeat(40).parse().expect("an object id")
}

fn priority(priority: Priority) -> impl FnOnce(&mut NewJob) {
    move |new| new.spec.priority = priority
}
