//! `graphile_worker`, at its best: a local queue that holds a hundred jobs for its slots. It deletes jobs that have ended.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use graphile_worker::{
    IntoTaskHandlerResult, JobSpec, LocalQueueConfig, TaskHandler, Worker, WorkerContext, WorkerOptions, WorkerUtils,
};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tokio::sync::mpsc;

use super::database::Database;
use super::system::{Load, Meter, Span, System, ping, produce};

const SCHEMA: &str = "graphile_worker";
/// As many as its own benchmark gives it would be 100; more than its slots are of no use.
const CONNECTIONS: u32 = 40;

#[derive(Debug, Serialize, Deserialize)]
struct Noop {
    id: u32,
}

impl TaskHandler for Noop {
    const IDENTIFIER: &'static str = "noop";

    async fn run(self, context: WorkerContext) -> impl IntoTaskHandlerResult {
        context.get_ext::<Meter>().expect("a meter").tick();
        Ok::<(), String>(())
    }
}

#[derive(Debug, Clone)]
struct Starts(mpsc::UnboundedSender<Instant>);

#[derive(Debug, Serialize, Deserialize)]
struct Ping {
    id: u32,
}

impl TaskHandler for Ping {
    const IDENTIFIER: &'static str = "ping";

    async fn run(self, context: WorkerContext) -> impl IntoTaskHandlerResult {
        let at = Instant::now();
        context.get_ext::<Starts>().expect("a channel").0.send(at).map_err(|error| error.to_string())
    }
}

pub(crate) struct Graphile {
    database: Database,
    pool: PgPool,
    utils: WorkerUtils,
}

impl Graphile {
    pub(crate) async fn open(database: Database, load: Load) -> Self {
        let pool = PgPoolOptions::new().max_connections(CONNECTIONS).connect(&database.url()).await.expect("the server answers");
        let utils = WorkerUtils::new(pool.clone(), SCHEMA);
        utils.migrate().await.expect("its tables can be made");
        utils.add_job(Noop { id: 0 }, JobSpec::default()).await.expect("enqueued");
        utils.add_job(Ping { id: 0 }, JobSpec::default()).await.expect("enqueued");
        let graphile = Self { database, pool, utils };
        graphile.clear().await;
        if let Load::Waiting(jobs) = load {
            graphile.fill(jobs).await;
        }
        graphile.database.settle(true).await;
        graphile
    }

    fn options(&self, slots: usize) -> WorkerOptions {
        WorkerOptions::default()
            .pg_pool(self.pool.clone())
            .schema(SCHEMA)
            .concurrency(slots)
            .local_queue(LocalQueueConfig::default().with_size(100))
    }

    /// Runs a worker for as long as `measure` takes.
    async fn with<T>(options: WorkerOptions, measure: impl Future<Output = T>) -> T {
        let worker: Arc<Worker> = Arc::new(options.init().await.expect("the worker starts"));
        let running = tokio::spawn({
            let worker = worker.clone();
            async move { worker.run().await }
        });
        let measured = measure.await;
        worker.request_shutdown();
        running.await.expect("the worker does not panic").expect("the worker ends in good order");
        measured
    }
}

impl System for Graphile {
    fn fill(&self, waiting: u64) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let there = self.database.number("SELECT count(*) FROM graphile_worker._private_jobs").await;
            let sql = format!(
                "INSERT INTO graphile_worker._private_jobs (task_id, payload) SELECT t.id, '{{\"id\": 0}}' \
                 FROM graphile_worker._private_tasks t, generate_series(1, {}) WHERE t.identifier = 'noop'",
                waiting.saturating_sub(there)
            );
            self.database.run(&sql).await;
        })
    }

    fn clear(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move { self.database.run("TRUNCATE graphile_worker._private_jobs CASCADE").await })
    }

    fn enqueue(&self, producers: usize, window: Duration) -> BoxFuture<'_, f64> {
        let utils = self.utils.clone();
        let push = move || {
            let utils = utils.clone();
            async move { drop(utils.add_job(Noop { id: 0 }, JobSpec::default()).await.expect("enqueued")) }
        };
        Box::pin(produce(producers, window, push))
    }

    fn drain(&self, slots: usize, span: Span) -> BoxFuture<'_, f64> {
        let meter = Meter::default();
        let options = self.options(slots).add_extension(meter.clone()).define_job::<Noop>();
        Box::pin(async move { Self::with(options, meter.rate(span)).await })
    }

    fn latency(&self, samples: usize) -> BoxFuture<'_, Vec<f64>> {
        let (starts, started) = mpsc::unbounded_channel();
        let options = self.options(8).add_extension(Starts(starts)).define_job::<Ping>();
        let push = || async { drop(self.utils.add_job(Ping { id: 0 }, JobSpec::default()).await.expect("enqueued")) };
        Box::pin(async move { Self::with(options, ping(samples, started, push)).await })
    }
}
