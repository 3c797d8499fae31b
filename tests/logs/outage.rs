//! A database that is away costs no line, and the job does not notice.

use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use sawmill::job::{LogVerdict, Stream};
use sqlx::{Connection as _, Executor as _, SqliteConnection};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::harness::{DEADLINE, server_url};
use super::{Attempt, Db, text};

/// How long the database is away, and how the job goes on writing: a line every few milliseconds.
const AWAY: Duration = Duration::from_secs(3);
const PACE: Duration = Duration::from_millis(5);

/// An attempt whose store is on a server that is reached over a wire.
async fn on_a_wire() -> (Db, Wire, Attempt) {
    let db = Db::on_postgres().await;
    let wire = Wire::to_server().await;
    let mut attempt = db.attempt().await;
    attempt.store = db.through_port(wire.port).await;
    (db, wire, attempt)
}

/// A job that writes steadily for as long as the database is away. Gives the lines, and the longest that one of them took.
fn steady_job(attempt: &Attempt) -> std::thread::JoinHandle<(String, Duration)> {
    let mut writer = attempt.writer(Stream::Stdout);
    std::thread::spawn(move || {
        let (begun, mut written, mut slowest) = (Instant::now(), String::new(), Duration::ZERO);
        while begun.elapsed() < AWAY {
            let line = format!("at {} ms\n", begun.elapsed().as_millis());
            let before = Instant::now();
            writer.write_all(line.as_bytes()).unwrap();
            slowest = slowest.max(before.elapsed());
            written.push_str(&line);
            std::thread::sleep(PACE);
        }
        (written, slowest)
    })
}

async fn nothing_is_lost_while(attempt: &Attempt, away: impl AsyncFnOnce(), back: impl AsyncFnOnce()) {
    let shipper = attempt.ship();
    attempt.write(Stream::Stdout, b"before\n");
    attempt.wait_for_stored(7).await;
    assert_eq!(shipper.settle(DEADLINE).await, 7, "it hears of it, later than others may");
    away().await;
    let job = steady_job(attempt);
    let (written, slowest) = tokio::task::spawn_blocking(|| job.join().unwrap()).await.unwrap();
    assert!(slowest < AWAY / 3, "a line took {slowest:?} to write");
    assert_eq!(shipper.position(), 7, "the database was away");
    back().await;
    attempt.write(Stream::Stdout, b"after\n");
    assert_eq!(shipper.drain(DEADLINE).await.unwrap(), LogVerdict::Complete);
    attempt.seal(LogVerdict::Complete, sawmill::job::OutcomeClass::Succeeded).await;
    assert_eq!(text(&attempt.read(0).await.all()), format!("before\n{written}after\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_another_process_locks_costs_no_line() {
    let db = Db::on_sqlite().await;
    let attempt = db.attempt().await;
    let url = format!("sqlite:{}/queue.db", db.dir.path().display());
    let mut other = SqliteConnection::connect(&url).await.unwrap();
    let lock = tokio::sync::Mutex::new(&mut other);
    nothing_is_lost_while(
        &attempt,
        async || _ = lock.lock().await.execute("BEGIN EXCLUSIVE").await.unwrap(),
        async || _ = lock.lock().await.execute("ROLLBACK").await.unwrap(),
    )
    .await;
    db.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_cannot_be_reached_costs_no_line() {
    let (db, wire, attempt) = on_a_wire().await;
    nothing_is_lost_while(&attempt, async || wire.set(State::Cut), async || wire.set(State::Whole)).await;
    attempt.store.close().await;
    db.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_server_is_away_the_time_for_the_rest_of_a_log_does_not_pass() {
    let (db, wire, attempt) = on_a_wire().await;
    let shipper = attempt.ship();
    attempt.write(Stream::Stdout, b"before\n");
    attempt.wait_for_stored(7).await;
    wire.set(State::Cut);
    attempt.write(Stream::Stdout, b"after\n");
    shipper.answers().away_for(Duration::ZERO).await;
    let back = async {
        tokio::time::sleep(AWAY).await;
        wire.set(State::Whole);
    };
    let (verdict, ()) = tokio::join!(shipper.drain(AWAY / 2), back);
    assert_eq!(verdict.unwrap(), LogVerdict::Complete);
    attempt.store.close().await;
    db.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_while_the_server_is_away_takes_a_bounded_part_of_the_disk() {
    let (db, wire, mut attempt) = on_a_wire().await;
    (attempt.config.cap, attempt.config.tail) = (ByteSize::kib(512), ByteSize::kib(128));
    attempt.config.spool_cap = ByteSize::mib(4);
    let shipper = attempt.ship();
    attempt.write(Stream::Stdout, b"before\n");
    attempt.wait_for_stored(7).await;
    wire.set(State::Cut);
    let mut writer = attempt.writer(Stream::Stdout);
    let mut written = "before\n".to_owned();
    for megabyte in 0..24 {
        let lines: String = (0..50_000).map(|n| format!("this is line {megabyte:02}-{n:05}\n")).collect();
        writer.write_all(lines.as_bytes()).unwrap();
        written.push_str(&lines);
        let begun = Instant::now();
        while writer.metadata().unwrap().blocks() * 512 > 4 << 20 {
            assert!(begun.elapsed() < DEADLINE, "the disk is not given back");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    wire.set(State::Whole);
    let verdict = shipper.drain(DEADLINE).await.unwrap();
    attempt.seal(verdict, sawmill::job::OutcomeClass::Succeeded).await;
    let out = text(&attempt.read(0).await.of(Stream::Stdout));
    let LogVerdict::Truncated { bytes } = verdict else { panic!("{verdict:?}") };
    assert_eq!(out.len() as u64 + bytes, written.len() as u64);
    assert!(written.starts_with(&out[..390_000]) && written.ends_with(&out[out.len() - 120_000..]));
    attempt.store.close().await;
    db.end().await;
}

/// A way to the PostgreSQL server that can be cut.
struct Wire {
    port: u16,
    state: Arc<watch::Sender<State>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Whole,
    Cut,
}

impl Wire {
    async fn to_server() -> Self {
        let url = server_url();
        let server = (url.host_str().unwrap().to_owned(), url.port().unwrap_or(5432));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(watch::Sender::new(State::Whole));
        let changes = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let (server, mut state) = (server.clone(), changes.subscribe());
                tokio::spawn(async move {
                    if *state.borrow() == State::Whole
                        && let Ok(mut upstream) = TcpStream::connect((server.0.as_str(), server.1)).await
                    {
                        tokio::select! {
                            _ = tokio::io::copy_bidirectional(&mut client, &mut upstream) => {}
                            _ = state.wait_for(|state| *state == State::Cut) => {}
                        }
                    }
                });
            }
        });
        Self { port, state }
    }

    fn set(&self, state: State) {
        self.state.send_replace(state);
    }
}
