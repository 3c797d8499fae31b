//! `apalis-postgres` and `apalis-sqlite` with their own storages. A batch of one, so that like ours they hold no job without a slot
//! for it; a slot is a worker that runs one job at a time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use apalis_core::backend::TaskSink;
use apalis_core::backend::ext::BackendExt;
use apalis_core::worker::builder::WorkerBuilder;
use apalis_core::worker::context::WorkerContext;
use apalis_postgres::PostgresStorage;
use apalis_sqlite::SqliteStorage;
use futures_util::future::BoxFuture;
use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::sqlite::SqlitePool;
use tokio::sync::mpsc;
use tower::limit::ConcurrencyLimitLayer;

use super::database::Database;
use super::system::{Load, Meter, Span, System, ping, produce};

const CONNECTIONS: u32 = 40;
/// Jobs that were there before the worker are found by polling.
const POLL: Duration = Duration::from_millis(50);

/// Each worker has a name of its own: one that is taken is refused.
static NUMBER: AtomicU64 = AtomicU64::new(0);

/// Runs one worker for each slot for as long as something is measured.
struct Workers(Vec<(WorkerContext, tokio::task::JoinHandle<()>)>);

/// A worker on a backend: the bounds that apalis asks for are too many to repeat, hence no function.
macro_rules! start {
    ($backend:expr, $handle:expr) => {{
        let context = WorkerContext::new(&format!("bench-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed)));
        let worker = WorkerBuilder::new(&context).backend($backend).layer(ConcurrencyLimitLayer::new(1)).build($handle);
        let running = tokio::spawn(async move {
            if let Err(error) = worker.run().await {
                println!("  an apalis worker ended: {error}");
            }
        });
        (context, running)
    }};
}

impl Workers {
    async fn stop(self) {
        for (context, _) in &self.0 {
            // One that has ended by itself cannot be told.
            drop(context.stop());
        }
        for (_, mut running) in self.0 {
            if tokio::time::timeout(Duration::from_secs(3), &mut running).await.is_err() {
                running.abort();
            }
        }
    }
}

fn count(meter: &Meter) -> impl FnMut(u32) -> std::future::Ready<Result<(), std::convert::Infallible>> + Clone + Send + 'static {
    let meter = meter.clone();
    move |_| {
        meter.tick();
        std::future::ready(Ok(()))
    }
}

fn tell(
    starts: &mpsc::UnboundedSender<Instant>,
) -> impl FnMut(u32) -> std::future::Ready<Result<(), std::convert::Infallible>> + Clone + Send + 'static {
    let starts = starts.clone();
    move |_| {
        starts.send(Instant::now()).expect("somebody waits for it");
        std::future::ready(Ok(()))
    }
}

pub(crate) struct OnPostgres {
    database: Database,
    pool: PgPool,
}

impl OnPostgres {
    pub(crate) async fn open(database: Database, load: Load) -> Self {
        let pool = PgPoolOptions::new().max_connections(CONNECTIONS).connect(&database.url()).await.expect("the server answers");
        PostgresStorage::setup(&pool).await.expect("its tables can be made");
        let apalis = Self { database, pool };
        match load {
            Load::Empty => {}
            Load::Waiting(jobs) => apalis.fill(jobs).await,
            Load::Finished(jobs) => apalis.insert("'Done', 1, now(), 'past'", jobs).await,
        }
        apalis.database.settle(true).await;
        apalis
    }

    async fn insert(&self, state: &str, jobs: u64) {
        let sql = format!(
            "INSERT INTO apalis.workers (id, worker_type, storage_name, layers, last_seen) VALUES ('past', 'noop', '', '', now()) \
             ON CONFLICT DO NOTHING; \
             INSERT INTO apalis.jobs (id, job_type, job, max_attempts, run_at, status, attempts, done_at, lock_by) \
             SELECT lpad((extract(epoch FROM clock_timestamp()) * 1000)::BIGINT::TEXT, 15, '0') || lpad(n::TEXT, 11, '0'), \
             'noop', '0'::BYTEA, 25, now() - INTERVAL '2 s', {state} FROM generate_series(1, {jobs}) n"
        );
        self.database.run(&sql).await;
    }

    fn storage(&self, queue: &str) -> PostgresStorage<u32> {
        PostgresStorage::new(&self.pool).with_config(apalis_postgres::Config::default().queue(queue).batch_size(1))
    }
}

impl System for OnPostgres {
    fn fill(&self, waiting: u64) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let there = self.database.number("SELECT count(*) FROM apalis.jobs WHERE status = 'Pending'").await;
            self.insert("'Pending', 0, NULL, NULL", waiting.saturating_sub(there)).await;
        })
    }

    fn clear(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move { self.database.run("TRUNCATE apalis.jobs CASCADE").await })
    }

    fn enqueue(&self, producers: usize, window: Duration) -> BoxFuture<'_, f64> {
        let storage = self.storage("noop");
        let push = move || {
            let mut storage = storage.clone();
            async move { storage.push(0).await.expect("enqueued") }
        };
        Box::pin(produce(producers, window, push))
    }

    fn drain(&self, slots: usize, span: Span) -> BoxFuture<'_, f64> {
        Box::pin(async move {
            let meter = Meter::default();
            let start = |_| start!(self.storage("noop").poll_with_interval(POLL), count(&meter));
            let workers = Workers((0..slots).map(start).collect());
            let rate = meter.rate(span).await;
            workers.stop().await;
            rate
        })
    }

    fn latency(&self, samples: usize) -> BoxFuture<'_, Vec<f64>> {
        Box::pin(async move {
            let (starts, started) = mpsc::unbounded_channel();
            let start = |_| start!(self.storage("ping").with_pubsub(), tell(&starts));
            let workers = Workers((0..8).map(start).collect());
            // Its listener says nothing once it listens.
            tokio::time::sleep(Duration::from_millis(300)).await;
            let push = || async { self.storage("ping").push(0).await.expect("enqueued") };
            let delays = ping(samples, started, push).await;
            workers.stop().await;
            delays
        })
    }
}

pub(crate) struct OnSqlite {
    database: Database,
    pool: SqlitePool,
}

impl OnSqlite {
    pub(crate) async fn open(database: Database, load: Load) -> Self {
        let (making, _) = SqliteStorage::connect_with_callback(&format!("{}?mode=rwc", database.url())).expect("a URL");
        SqliteStorage::setup(&making).await.expect("its tables can be made");
        // The set-up leaves `synchronous = OFF` on one connection. All of a new pool's have the driver's default, which is FULL, as
        // ours is.
        making.close().await;
        let pool = SqlitePool::connect(&database.url()).await.expect("the file opens");
        let apalis = Self { database, pool };
        match load {
            Load::Empty => {}
            Load::Waiting(jobs) => apalis.fill(jobs).await,
            Load::Finished(jobs) => apalis.insert("'Done', 1, unixepoch(), 'past'", jobs).await,
        }
        apalis.database.settle(true).await;
        apalis
    }

    async fn insert(&self, state: &str, jobs: u64) {
        let sql = format!(
            "INSERT OR IGNORE INTO Workers (id, worker_type, storage_name, layers) VALUES ('past', 'noop', '', ''); \
             WITH RECURSIVE s (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {jobs}) \
             INSERT INTO Jobs (id, job_type, job, max_attempts, run_at, status, attempts, done_at, lock_by) \
             SELECT printf('%015d%011d', CAST(unixepoch('subsec') * 1000 AS INTEGER), n), 'noop', CAST('0' AS BLOB), 25, unixepoch() - 2, {state} FROM s"
        );
        self.database.run(&sql).await;
    }

    fn storage(&self, pool: &SqlitePool, queue: &str) -> SqliteStorage<u32> {
        // A hook that was missed costs a heartbeat: a second of one measurement, not half a minute.
        let config = apalis_sqlite::Config::default().queue(queue).batch_size(1).heartbeat_interval(Duration::from_secs(1));
        SqliteStorage::new(pool).with_config(config)
    }
}

impl System for OnSqlite {
    fn fill(&self, waiting: u64) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let there = self.database.number("SELECT count(*) FROM Jobs WHERE status = 'Pending'").await;
            if there < waiting {
                self.insert("'Pending', 0, NULL, NULL", waiting - there).await;
            }
        })
    }

    fn clear(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move { self.database.run("PRAGMA foreign_keys = off; DELETE FROM Jobs").await })
    }

    fn enqueue(&self, producers: usize, window: Duration) -> BoxFuture<'_, f64> {
        let storage = self.storage(&self.pool, "noop");
        let push = move || {
            let mut storage = storage.clone();
            async move { storage.push(0).await.expect("enqueued") }
        };
        Box::pin(produce(producers, window, push))
    }

    fn drain(&self, slots: usize, span: Span) -> BoxFuture<'_, f64> {
        Box::pin(async move {
            let meter = Meter::default();
            let start = |_| start!(self.storage(&self.pool, "noop").poll_with_interval(POLL), count(&meter));
            let workers = Workers((0..slots).map(start).collect());
            let rate = meter.rate(span).await;
            workers.stop().await;
            rate
        })
    }

    fn latency(&self, samples: usize) -> BoxFuture<'_, Vec<f64>> {
        Box::pin(async move {
            // Its hook sees the changes of its own pool's connections only.
            let (pool, hook) = SqliteStorage::connect_with_callback(&self.database.url()).expect("a URL");
            let (starts, started) = mpsc::unbounded_channel();
            // One hook, one worker: the stream of changes cannot be shared.
            let workers = Workers(vec![start!(self.storage(&pool, "ping").with_callback(hook), tell(&starts))]);
            let push = || async { self.storage(&pool, "ping").push(0).await.expect("enqueued") };
            let delays = ping(samples, started, push).await;
            workers.stop().await;
            pool.close().await;
            delays
        })
    }
}
