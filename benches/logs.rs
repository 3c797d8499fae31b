//! The way of a log, measured: what the redactor takes, throughput and delay from a job's write to a tailing reader, and what shipping costs the job.
//!
//! `cargo bench --bench logs` uses SQLite; with `SAWMILL_TEST_POSTGRES` set, PostgreSQL as well. Environment:
//! `LOGS_BENCH_MB` (default 256) is the size of the floods, `LOGS_BENCH_LINES` (default 400) the number of slow lines,
//! `LOGS_BENCH_ROUNDS` (default 7) the rounds of the comparison.
//!
//! The writers are processes of their own (this program again), as a job's are.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on has failed")]

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytesize::ByteSize;
use sawmill::ids::{JobId, WorkerId};
use sawmill::job::{Claim, RetryPolicy};
use sawmill::logs::{Config, Follow, Shipment, Shipper, Spool, Start, Tail, TailEvent, TailRequest};
use sawmill::redact::{RedactStream, Redactor};
use sawmill::store::{self, ClaimRequest, NewJob, Store};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use tokio_util::sync::CancellationToken;

fn main() {
    let mut args = std::env::args().skip(1);
    match args.next().as_deref() {
        Some("flood") => flood(number(&args.next().unwrap())),
        Some("lines") => steady_lines(number(&args.next().unwrap())),
        _ => tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(measure()),
    }
}

/// The writer: lines as a build writes them, as fast as it can.
fn flood(megabytes: u64) {
    let mut out = BufWriter::with_capacity(1 << 16, std::io::stdout().lock());
    lines_of_a_build(&mut out, megabytes);
    out.flush().unwrap();
}

fn lines_of_a_build(out: &mut impl Write, megabytes: u64) {
    let (mut written, mut n) = (0, 0u64);
    while written < megabytes * 1_000_000 {
        n += 1;
        let hash = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let line = format!("   Compiling crate-{n} v0.{}.1 (/home/ci/.cargo/registry/src/{hash:016x}/lib.rs)\n", n % 97);
        out.write_all(line.as_bytes()).unwrap();
        written += line.len() as u64;
    }
}

/// The slow writer: a line with the time every 25 to 35 ms, so that no beat with anybody's clock arises.
fn steady_lines(lines: u64) {
    let mut out = std::io::stdout();
    for n in 0..lines {
        std::thread::sleep(Duration::from_millis(25) + Duration::from_micros(n * 7_919 % 10_000));
        writeln!(out, "{}", micros()).unwrap();
    }
}

async fn measure() {
    let setting = |name: &str, default| std::env::var(name).map_or(default, |text| number(&text));
    let (megabytes, lines) = (setting("LOGS_BENCH_MB", 256), setting("LOGS_BENCH_LINES", 400));
    let rounds = setting("LOGS_BENCH_ROUNDS", 7);
    println!("floods of {megabytes} MB, {lines} slow lines, {rounds} rounds of comparison");
    redaction(megabytes);
    for server in [None, std::env::var("SAWMILL_TEST_POSTGRES").ok()]
        .into_iter()
        .enumerate()
        .filter_map(|(n, url)| (n == 0 || url.is_some()).then_some(url))
    {
        let bench = Bench::on(server).await;
        bench.throughput(megabytes).await;
        bench.delay(lines).await;
        bench.slowdown(megabytes, rounds).await;
        bench.end().await;
    }
}

/// One thread, in pieces of 64 KiB, without any file or database.
fn redaction(megabytes: u64) {
    let mut text = Vec::new();
    lines_of_a_build(&mut text, 16);
    let redactor = twenty_secrets();
    let begun = Instant::now();
    let mut out = Vec::with_capacity(1 << 17);
    let (mut stream, mut total) = (RedactStream::new(&redactor), 0u64);
    while total < megabytes * 1_000_000 {
        for piece in text.chunks(1 << 16) {
            out.clear();
            stream.push(piece, &mut out);
            total += out.len() as u64;
        }
    }
    println!("redactor: {:.0} MB/s ({redactor:?})", total as f64 / 1e6 / begun.elapsed().as_secs_f64());
}

fn twenty_secrets() -> Redactor {
    Redactor::new((0..20u64).map(|n| format!("s3cret-{:x}", n.wrapping_mul(0x9E37_79B9_7F4A_7C15))))
}

struct Bench {
    name: &'static str,
    store: Store,
    dir: tempfile::TempDir,
    schema: Option<(String, String)>,
}

impl Bench {
    async fn on(server: Option<String>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut schema = None;
        let (name, url) = match server {
            None => ("sqlite", format!("sqlite:{}/queue.db", dir.path().display())),
            Some(server) => {
                let name = format!("bench_{}", uuid::Uuid::new_v4().simple());
                let mut connection = PgConnection::connect(&server).await.unwrap();
                connection.execute(AssertSqlSafe(format!("CREATE SCHEMA {name}"))).await.unwrap();
                let url = format!("{server}?options=-csearch_path%3D{name}");
                schema = Some((server, name));
                ("postgres", url)
            }
        };
        let config = store::Config {
            url,
            lease: Duration::from_secs(600),
            poll: Duration::from_secs(1),
            retry: RetryPolicy { attempts: 1, resets: 1, backoff: Duration::from_secs(1), backoff_max: Duration::from_secs(1) },
            ageing: std::time::Duration::from_secs(600),
            waiting_max: 0,
            completion_lease: Duration::from_secs(60),
            completion_deliveries: 1,
            answer_within: std::time::Duration::from_secs(3600),
            pause: sawmill::job::PausePolicy {
                backoff: std::time::Duration::from_secs(60),
                backoff_max: std::time::Duration::from_secs(240),
                reset_max: std::time::Duration::from_secs(864_000),
            },
            retention: store::Retention::Forever,
        };
        Self { name, store: Store::connect(&config).await.unwrap(), dir, schema }
    }

    async fn end(self) {
        self.store.close().await;
        if let Some((server, schema)) = self.schema {
            let mut connection = PgConnection::connect(&server).await.unwrap();
            connection.execute(AssertSqlSafe(format!("DROP SCHEMA {schema} CASCADE"))).await.unwrap();
        }
    }

    /// A claimed attempt with its spool, shipped with the defaults but for the cap.
    async fn attempt(&self, cap: ByteSize) -> (Claim, Spool, Shipper) {
        let id = JobId::generate();
        let new = NewJob {
            id,
            spec: serde_json::from_str(r#"{"repo": "/r", "backend": "shell", "task": {"instruction": "x"}}"#).unwrap(),
            repo: "/r".to_owned(),
            base: "main".to_owned(),
            branch: format!("sawmill/{id}").parse().unwrap(),
            attempts_max: 1,
            weight: 1,
            waiting_max: None,
            digest: id.to_string(),
        };
        self.store.enqueue(new).await.unwrap();
        let ask = ClaimRequest {
            worker: WorkerId::new("bench"),
            backends: [("shell".to_owned(), std::collections::BTreeSet::new())].into(),
            labels: std::collections::BTreeSet::new(),
            rooms: sawmill::store::Rooms::All,
            limit: 1,
            lease: Duration::from_secs(600),
        };
        let claim = self.store.claim(&ask).await.unwrap().pop().unwrap().claim;
        let run = self.dir.path().join(id.to_string());
        std::fs::create_dir(&run).unwrap();
        let spool = Spool::create(&run).unwrap();
        let config = Config {
            flush: Duration::from_millis(50),
            chunk_bytes: ByteSize::kib(64),
            cap,
            tail: ByteSize::mib(4),
            spool_cap: ByteSize::gib(1),
        };
        let shipper = Shipper::start(Shipment {
            store: self.store.clone(),
            claim: claim.clone(),
            spool: spool.clone(),
            redactor: twenty_secrets(),
            config,
            cancel: CancellationToken::new(),
        });
        (claim, spool, shipper)
    }

    fn tail(&self, claim: &Claim) -> Tail {
        let request = TailRequest { job: claim.job, start: Start::Only(claim.attempt), from: 0, follow: Follow::UntilTheEnd };
        Tail::new(&self.store, request)
    }

    async fn throughput(&self, megabytes: u64) {
        let (claim, spool, shipper) = self.attempt(ByteSize::gib(8)).await;
        let mut tail = self.tail(&claim);
        let begun = Instant::now();
        let writer = write("flood", megabytes, &spool.stdout());
        let (mut bytes, mut lines) = (0u64, 0u64);
        let total = tokio::task::spawn_blocking(move || {
            writer.join().unwrap();
            std::fs::metadata(spool.stdout()).unwrap().len()
        });
        tokio::pin!(total);
        let mut expected = u64::MAX;
        while bytes < expected {
            tokio::select! {
                length = &mut total, if expected == u64::MAX => expected = length.unwrap(),
                event = tail.next() => if let Some(TailEvent::Chunk(chunk)) = event.unwrap() {
                    bytes += chunk.data.len() as u64;
                    lines += chunk.data.iter().filter(|byte| **byte == b'\n').count() as u64;
                },
            }
        }
        let took = begun.elapsed().as_secs_f64();
        println!(
            "{}: job to reader: {:.0} MB/s, {:.0} lines/s ({bytes} bytes in {took:.2} s)",
            self.name,
            bytes as f64 / 1e6 / took,
            lines as f64 / took
        );
        shipper.drain(Duration::from_secs(60)).await.unwrap();
    }

    async fn delay(&self, lines: u64) {
        let (claim, spool, shipper) = self.attempt(ByteSize::gib(8)).await;
        let mut tail = self.tail(&claim);
        let writer = write("lines", lines, &spool.stdout());
        let mut delays = Vec::new();
        while (delays.len() as u64) < lines {
            if let Some(TailEvent::Chunk(chunk)) = tail.next().await.unwrap() {
                let now = micros();
                let text = String::from_utf8(chunk.data).unwrap();
                delays.extend(text.lines().map(|line| now.saturating_sub(number(line))));
            }
        }
        delays.sort_unstable();
        let at = |part: usize| delays[(delays.len() - 1) * part / 100] as f64 / 1e3;
        println!(
            "{}: write to reader: p50 {:.1} ms, p99 {:.1} ms, most {:.1} ms ({lines} lines)",
            self.name,
            at(50),
            at(99),
            at(100)
        );
        tokio::task::spawn_blocking(|| writer.join().unwrap()).await.unwrap();
        shipper.drain(Duration::from_secs(60)).await.unwrap();
    }

    /// The same writer with its output shipped, and redirected to a file, by turns.
    async fn slowdown(&self, megabytes: u64, rounds: u64) {
        for (what, cap) in [("the whole log shipped", ByteSize::gib(8)), ("the default cap", ByteSize::mib(64))] {
            let (mut shipped, mut plain) = (Vec::new(), Vec::new());
            for round in 0..rounds {
                let path = self.dir.path().join("plain.log");
                File::create(&path).unwrap();
                let mut time_plain = || plain.push(timed(megabytes, &path));
                if round % 2 == 0 {
                    tokio::task::block_in_place(&mut time_plain);
                }
                let (_, spool, shipper) = self.attempt(cap).await;
                let out = spool.stdout();
                shipped.push(tokio::task::spawn_blocking(move || timed(megabytes, &out)).await.unwrap());
                shipper.drain(Duration::from_secs(120)).await.unwrap();
                std::fs::remove_file(spool.stdout()).unwrap();
                if round % 2 == 1 {
                    tokio::task::block_in_place(&mut time_plain);
                }
                std::fs::remove_file(&path).unwrap();
            }
            let (shipped, plain) = (median(shipped), median(plain));
            println!(
                "{}: writer of {megabytes} MB, {what}: {shipped:.3} s, plain redirect {plain:.3} s, speed {:.2} of plain",
                self.name,
                plain / shipped
            );
        }
    }
}

/// Starts a writer whose standard output is the file, as a supervisor does.
fn write(what: &'static str, amount: u64, to: &Path) -> std::thread::JoinHandle<()> {
    let out = OpenOptions::new().append(true).open(to).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([what, &amount.to_string()])
        .stdin(Stdio::null())
        .stdout(out)
        .spawn()
        .unwrap();
    std::thread::spawn(move || assert!(child.wait().unwrap().success()))
}

fn timed(megabytes: u64, to: &Path) -> f64 {
    let begun = Instant::now();
    write("flood", megabytes, to).join().unwrap();
    begun.elapsed().as_secs_f64()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn number(text: &str) -> u64 {
    text.parse().unwrap()
}

fn micros() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros()).unwrap()
}
