//! Sawmill's own queue: the real store, driven as a worker drives it. Claims are made for free slots only, all of them at once;
//! each is leased, and each job's end is written behind the fence, by itself. Ends and answers to
//! planners wait for the disk, claims do not.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use sawmill::ids::{JobId, WorkerId};
use sawmill::job::attempt::Resources;
use sawmill::job::spec::{Command, Task};
use sawmill::job::{ClaimedJob, JobSpec, LogVerdict, Outcome, OutcomeClass, RetryPolicy};
use sawmill::store::{ClaimRequest, Config, Finish, NewJob, Retention, Store};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::database::Database;
use super::system::{Load, Meter, Span, System, ping, produce};

const LEASE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_secs(1);

/// What a job is spread over: the table, and the column with the job's id. Copying a job copies its rows in all of them.
const TABLES: [(&str, &str); 3] = [("jobs", "id"), ("job_specs", "job"), ("attempts", "job")];
/// Emptied in this order.
const ALL_TABLES: [&str; 7] = ["outbox", "completions", "log_chunks", "attempt_stages", "attempts", "job_specs", "jobs"];
/// Rows in one statement: SQLite's log is folded back between them.
const BATCH: u64 = 100_000;

pub(crate) struct Ours {
    database: Database,
    worker: Store,
    /// Another process's, on a server; on a file the one process's own.
    planner: Store,
}

impl Ours {
    pub(crate) async fn open(database: Database, load: Load) -> Self {
        let config = Config {
            url: database.url(),
            lease: LEASE,
            poll: POLL,
            retry: RetryPolicy {
                attempts: 1,
                resets: 5,
                backoff: Duration::from_secs(10),
                backoff_max: Duration::from_secs(600),
            },
            completion_lease: Duration::from_secs(300),
            completion_deliveries: 10,
            answer_within: std::time::Duration::from_secs(3600),
            pause: sawmill::job::PausePolicy {
                backoff: std::time::Duration::from_secs(60),
                backoff_max: std::time::Duration::from_secs(240),
                reset_max: std::time::Duration::from_secs(864_000),
            },
            ageing: Duration::from_secs(600),
            waiting_max: 0,
            retention: Retention::Forever,
        };
        let worker = Store::connect(&config).await.expect("the store opens");
        let planner = if database.is_server() { Store::connect(&config).await.expect("the store opens") } else { worker.clone() };
        let ours = Self { database, worker, planner };
        match load {
            Load::Empty => {}
            Load::Waiting(jobs) => ours.fill(jobs).await,
            Load::Finished(jobs) => {
                let job = ours.planner.enqueue(new_job("noop")).await.expect("enqueued").into_job();
                let claimed = ours.worker.claim(&ask("noop", 1)).await.expect("asked").pop().expect("claimed");
                finish(&ours.worker, &claimed).await;
                ours.copy(job.id, jobs - 1).await;
            }
        }
        ours.database.settle(false).await;
        ours
    }

    /// Makes copies of a job as it is, by SQL. Their ids follow its own.
    async fn copy(&self, job: JobId, copies: u64) {
        let id = job.to_string().replace('-', "");
        let mut begin = 1;
        while begin <= copies {
            let end = copies.min(begin + BATCH - 1);
            for (table, key) in TABLES {
                let sql = self.copy_rows(table, key, &id, begin, end).await;
                self.database.run(&sql).await;
            }
            begin = end + 1;
        }
    }

    /// Every column as it is, but for what must be unique: so this does not have to know them.
    async fn copy_rows(&self, table: &str, key: &str, id: &str, begin: u64, end: u64) -> String {
        let (columns, own_id, new_id, numbers) = if self.database.is_server() {
            (
                format!(
                    "SELECT column_name::TEXT FROM information_schema.columns WHERE table_name = '{table}' AND table_schema = current_schema()"
                ),
                format!("'{id}'::UUID"),
                format!("('{}' || lpad(to_hex(n.n), 20, '0'))::UUID", &id[..12]),
                format!("generate_series({begin}, {end}) AS n (n)"),
            )
        } else {
            (
                format!("SELECT name FROM pragma_table_info('{table}')"),
                format!("unhex('{id}')"),
                format!("unhex('{}' || printf('%020X', n.n))", &id[..12]),
                format!(
                    "(WITH RECURSIVE s (n) AS (SELECT {begin} UNION ALL SELECT n + 1 FROM s WHERE n < {end}) SELECT n FROM s) AS n"
                ),
            )
        };
        let columns = self.database.texts(&columns).await;
        let value = |column: &String| match column.as_str() {
            column if column == key => new_id.clone(),
            "branch" => "t.branch || '/' || n.n".to_owned(),
            column => format!("t.{column}"),
        };
        let values: Vec<String> = columns.iter().map(value).collect();
        format!(
            "INSERT INTO {table} ({}) SELECT {} FROM {table} t CROSS JOIN {numbers} WHERE t.{key} = {own_id}",
            columns.join(", "),
            values.join(", ")
        )
    }
}

impl System for Ours {
    fn fill(&self, waiting: u64) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let there = self.database.number("SELECT count(*) FROM jobs WHERE state = 'queued'").await;
            if there < waiting {
                let job = self.planner.enqueue(new_job("noop")).await.expect("enqueued").into_job();
                self.copy(job.id, waiting - there - 1).await;
            }
        })
    }

    fn clear(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if self.database.is_server() {
                self.database.run(&format!("TRUNCATE {} CASCADE", ALL_TABLES.join(", "))).await;
            } else {
                let deletes: Vec<String> = ALL_TABLES.iter().map(|table| format!("DELETE FROM {table}")).collect();
                self.database.run(&format!("PRAGMA foreign_keys = off; {}", deletes.join("; "))).await;
            }
        })
    }

    fn enqueue(&self, producers: usize, window: Duration) -> BoxFuture<'_, f64> {
        let store = self.planner.clone();
        let push = move || {
            let store = store.clone();
            async move { drop(store.enqueue(new_job("noop")).await.expect("enqueued")) }
        };
        Box::pin(produce(producers, window, push))
    }

    fn drain(&self, slots: usize, span: Span) -> BoxFuture<'_, f64> {
        Box::pin(async move {
            let meter = Meter::default();
            let (store, ended) = (self.worker.clone(), meter.clone());
            let worker = Worker::start(&self.worker, "noop", slots, move |claimed, _| {
                let (store, ended) = (store.clone(), ended.clone());
                async move {
                    finish(&store, &claimed).await;
                    ended.tick();
                }
            });
            let rate = meter.rate(span).await;
            worker.stop().await;
            rate
        })
    }

    fn latency(&self, samples: usize) -> BoxFuture<'_, Vec<f64>> {
        Box::pin(async move {
            let (starts, started) = mpsc::unbounded_channel();
            let store = self.worker.clone();
            let worker = Worker::start(&self.worker, "ping", 8, move |claimed, at| {
                let (store, starts) = (store.clone(), starts.clone());
                async move {
                    starts.send(at).expect("somebody waits for it");
                    finish(&store, &claimed).await;
                }
            });
            let push = || async { drop(self.planner.enqueue(new_job("ping")).await.expect("enqueued")) };
            let delays = ping(samples, started, push).await;
            worker.stop().await;
            delays
        })
    }
}

/// The claim loop of `sawmill::worker`, with a function in place of an attempt.
struct Worker {
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Worker {
    fn start<F, Fut>(store: &Store, backend: &'static str, slots: usize, run: F) -> Self
    where
        F: Fn(ClaimedJob, Instant) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let (store, stop) = (store.clone(), CancellationToken::new());
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let free = Arc::new(Semaphore::new(slots));
            while let Some(first) = stopped.run_until_cancelled(free.clone().acquire_owned()).await {
                tokio::task::yield_now().await;
                let mut taken = vec![first.expect("never closed")];
                taken.extend(std::iter::from_fn(|| free.clone().try_acquire_owned().ok()));
                // Taken out before asking: what happens after the question is heard.
                let mut hints = store.hints();
                let limit = u32::try_from(taken.len()).expect("few slots");
                let claimed = store.claim(&ask(backend, limit)).await.expect("asked");
                if claimed.is_empty() {
                    tokio::select! {
                        () = hints.next_change() => {}
                        () = tokio::time::sleep(POLL) => {}
                        () = stopped.cancelled() => break,
                    }
                }
                for (claimed, slot) in claimed.into_iter().zip(taken) {
                    let attempt = run(claimed, Instant::now());
                    tokio::spawn(async move {
                        attempt.await;
                        drop(slot);
                    });
                }
            }
            let all = u32::try_from(slots).expect("few slots");
            drop(free.acquire_many(all).await.expect("never closed"));
        });
        Self { stop, task }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.expect("the worker does not panic");
    }
}

fn ask(backend: &str, limit: u32) -> ClaimRequest {
    ClaimRequest {
        worker: WorkerId::new("bench"),
        backends: [(backend.to_owned(), BTreeSet::new())].into(),
        labels: BTreeSet::new(),
        rooms: sawmill::store::Rooms::All,
        limit,
        lease: LEASE,
    }
}

async fn finish(store: &Store, claimed: &ClaimedJob) {
    let end = Finish {
        outcome: Outcome::new(OutcomeClass::Succeeded, "nothing was to be done"),
        resources: Resources::default(),
        stages: Vec::new(),
        log: LogVerdict::Complete,
        salvage: None,
        completion: None,
        not_before: None,
        usage: None,
        credential: None,
    };
    store.finish(&claimed.claim, end).await.expect("its end is on record");
}

fn new_job(backend: &str) -> NewJob {
    let id = JobId::generate();
    NewJob {
        id,
        spec: JobSpec {
            schema: 1,
            backend: Some(backend.to_owned()),
            task: Task { command: Some(Command::Line("true".to_owned())), ..Task::default() },
            ..JobSpec::default()
        },
        repo: "/srv/git/app.git".to_owned(),
        base: "main".to_owned(),
        branch: format!("sawmill/{id}").parse().expect("a branch name"),
        attempts_max: 1,
        weight: 1,
        waiting_max: None,
        digest: "d".to_owned(),
    }
}
