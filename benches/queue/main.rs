//! The queue against others, side by side in one run: `graphile_worker` and `apalis-postgres` on PostgreSQL, `apalis-sqlite` on
//! SQLite. Jobs are no-ops; what is measured is the queue alone.
//!
//! `make bench`, or `SAWMILL_TEST_FSYNC=on tests/with-services.sh cargo bench --bench queue`. Every queue has a database of its own
//! for each load. In each round each of them is asked for everything once, by turns; the figures are medians over the rounds.
//! Environment: `SAWMILL_BENCH_QUICK=1` goes through everything with small numbers, for the code's sake; `SAWMILL_BENCH_ROUNDS`,
//! `SAWMILL_BENCH_WAITING`, `SAWMILL_BENCH_FINISHED` and `SAWMILL_BENCH_SNAPSHOT` are sizes (see [`Sizes`]); `SAWMILL_BENCH_ONLY` is a
//! list of words, and only queues whose name (`postgres/sawmill/empty`, say) has one of them take part.

mod apalis;
mod database;
mod graphile;
mod ours;
mod report;
mod system;

use std::time::{Duration, Instant};

use sqlx::{Connection as _, Executor as _, PgConnection};

use self::apalis::{OnPostgres, OnSqlite};
use self::database::Database;
use self::graphile::Graphile;
use self::ours::Ours;
use self::report::Report;
use self::system::{Load, Span, System};

/// How much is measured.
struct Sizes {
    rounds: usize,
    /// Jobs that wait.
    waiting: u64,
    /// Jobs that have ended; also what ours is tried with as waiting ones.
    finished: u64,
    /// Jobs that run while a snapshot is held open.
    snapshot: u64,
    window: Duration,
    pings: usize,
}

impl Sizes {
    fn from_environment() -> Self {
        let number = |name: &str, default| std::env::var(name).map_or(default, |text| text.parse().expect("a number"));
        let quick = std::env::var_os("SAWMILL_BENCH_QUICK").is_some();
        let or = |usual, small| if quick { small } else { usual };
        Self {
            rounds: usize::try_from(number("SAWMILL_BENCH_ROUNDS", or(5, 1))).expect("few rounds"),
            waiting: number("SAWMILL_BENCH_WAITING", or(200_000, 5_000)),
            finished: number("SAWMILL_BENCH_FINISHED", or(1_000_000, 10_000)),
            snapshot: number("SAWMILL_BENCH_SNAPSHOT", or(15_000, 500)),
            window: Duration::from_millis(or(600, 100)),
            pings: usize::try_from(or(60, 5)).expect("few"),
        }
    }

    fn span(&self) -> Span {
        Span { warm: self.window / 4, window: self.window, jobs: u64::MAX }
    }
}

/// One queue with one load.
struct Entry {
    kind: &'static str,
    name: &'static str,
    load: &'static str,
    database: Database,
    system: Box<dyn System>,
}

fn main() {
    let sizes = Sizes::from_environment();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(compare(&sizes));
}

async fn compare(sizes: &Sizes) {
    let server = std::env::var("SAWMILL_TEST_POSTGRES").expect("SAWMILL_TEST_POSTGRES is not set: run it with `make bench`");
    let scratch = tempfile::tempdir().expect("a scratch directory");
    report::machine(&server, scratch.path()).await;
    println!(
        "{} rounds; {} waiting, {} finished; windows of {} ms; {} jobs under a snapshot; {} enqueue-to-start samples a round",
        sizes.rounds,
        sizes.waiting,
        sizes.finished,
        sizes.window.as_millis(),
        sizes.snapshot,
        sizes.pings
    );
    let begun = Instant::now();
    let entries = open(sizes, &server, scratch.path()).await;
    println!("loaded in {:.0} s", begun.elapsed().as_secs_f64());
    let mut report = Report::default();
    for round in 0..sizes.rounds {
        // Each goes first once in a while.
        for at in 0..entries.len() {
            measure(sizes, &entries[(at + round * 3) % entries.len()], &mut report).await;
        }
        for entry in entries.iter().filter(|entry| entry.database.is_server() && entry.load == "empty") {
            under_snapshot(sizes, entry, &mut report).await;
        }
    }
    report.print();
    for entry in entries {
        drop(entry.system);
        entry.database.remove(&server).await;
    }
    println!("\nwhole run: {:.0} s", begun.elapsed().as_secs_f64());
}

/// Makes all queues that take part, with their loads.
async fn open(sizes: &Sizes, server: &str, scratch: &std::path::Path) -> Vec<Entry> {
    let loads = [
        ("empty", Load::Empty),
        ("waiting", Load::Waiting(sizes.waiting)),
        ("finished", Load::Finished(sizes.finished)),
        ("million waiting", Load::Waiting(sizes.finished)),
    ];
    let only = std::env::var("SAWMILL_BENCH_ONLY").unwrap_or_default();
    let mut entries = Vec::new();
    for (kind, name) in [
        ("postgres", "sawmill"),
        ("postgres", "graphile_worker"),
        ("postgres", "apalis-postgres"),
        ("sqlite", "sawmill"),
        ("sqlite", "apalis-sqlite"),
    ] {
        for (number, (word, load)) in loads.into_iter().enumerate() {
            let wanted = only.is_empty() || only.split(',').any(|part| format!("{kind}/{name}/{word}").contains(part));
            let of_use = match (name, load) {
                ("graphile_worker", Load::Finished(_)) => false,
                _ => word != "million waiting" || name == "sawmill",
            };
            if !wanted || !of_use {
                continue;
            }
            let label = format!("sawmill_bench_{}_{number}", name.replace('-', "_"));
            let database = match kind {
                "postgres" => Database::on_server(server, &label).await,
                _ => Database::in_file(scratch, &label),
            };
            let system: Box<dyn System> = match (kind, name) {
                (_, "sawmill") => Box::new(Ours::open(database.clone(), load).await),
                (_, "graphile_worker") => Box::new(Graphile::open(database.clone(), load).await),
                ("postgres", _) => Box::new(OnPostgres::open(database.clone(), load).await),
                (_, _) => Box::new(OnSqlite::open(database.clone(), load).await),
            };
            entries.push(Entry { kind, name, load: word, database, system });
        }
    }
    entries
}

/// Asks one queue for everything once.
async fn measure(sizes: &Sizes, entry: &Entry, report: &mut Report) {
    let least = match entry.load {
        "waiting" => sizes.waiting,
        "million waiting" => sizes.finished,
        _ => 0,
    };
    let mut put = |what: &str, values: Vec<f64>| report.put((entry.kind, what, entry.load), entry.name, values);
    for producers in [1, 8] {
        if entry.load == "empty" {
            entry.system.clear().await;
        }
        put(&format!("enqueue/s, {producers} at once"), vec![entry.system.enqueue(producers, sizes.window / 2).await]);
    }
    for slots in [1, 8, 32] {
        // Where nothing waits by itself there must be more than a window takes, and no more.
        let enough = u64::try_from(sizes.window.as_millis()).expect("short") * 20;
        if entry.load == "empty" {
            entry.system.clear().await;
        }
        entry.system.fill(least.max(enough)).await;
        let span = Span { jobs: least.max(enough), ..sizes.span() };
        put(&format!("claim + finish/s, {slots} slots"), vec![entry.system.drain(slots, span).await]);
    }
    if entry.load == "empty" {
        entry.system.clear().await;
    }
    put("enqueue to start, ms", entry.system.latency(sizes.pings).await);
}

/// The same jobs with and without a snapshot that another connection holds open: no row that they leave behind can be cleared away.
async fn under_snapshot(sizes: &Sizes, entry: &Entry, report: &mut Report) {
    let Database::Server(url) = &entry.database else { return };
    let span = Span { warm: Duration::ZERO, window: Duration::from_secs(30), jobs: sizes.snapshot };
    for what in ["8 slots, long", "8 slots, long, a snapshot held"] {
        entry.system.clear().await;
        entry.system.fill(sizes.snapshot).await;
        let mut other = PgConnection::connect(url).await.expect("the server answers");
        if what.ends_with("held") {
            other.execute("BEGIN ISOLATION LEVEL REPEATABLE READ").await.expect("a transaction begins");
            other.execute("SELECT count(*) FROM pg_class").await.expect("a snapshot is taken");
        }
        let rate = entry.system.drain(8, span).await;
        report.put((entry.kind, &format!("claim + finish/s, {what}"), entry.load), entry.name, vec![rate]);
        other.close().await.expect("the connection ends");
    }
}
