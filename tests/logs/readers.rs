//! Readers get every byte once, wherever they begin and however often they come back.

use std::io::Write as _;

use rand::RngExt as _;
use sawmill::job::{OutcomeClass, Stream};
use sawmill::logs::{Start, TailEvent};

use super::harness::{DEADLINE, read_to_end};
use super::{on_both, text};

on_both! {
    async fn readers_from_any_offset_get_the_same_bytes(db) {
        let mut attempt = db.attempt().await;
        attempt.config.chunk_bytes = bytesize::ByteSize::kib(2);
        let shipper = attempt.ship();
        let mut writer = attempt.writer(Stream::Stdout);
        let readers: Vec<_> = (0..8)
            .map(|n| {
                let from = n * rand::rng().random_range(1..2_000);
                (from, tokio::spawn(read_to_end(attempt.tail(Start::Only(attempt.claim.attempt), from))))
            })
            .collect();
        for n in 0..5_000 {
            writeln!(writer, "line {n}").unwrap();
        }
        attempt.finish(shipper).await;
        let whole = attempt.read(0).await.all();
        for (from, reader) in readers {
            let got = reader.await.unwrap().all();
            assert!(got == whole[usize::try_from(from).unwrap()..], "the reader from {from} got something else");
        }
    }

    async fn a_reader_that_comes_back_by_offset_misses_nothing_and_sees_nothing_twice(db) {
        let mut attempt = db.attempt().await;
        attempt.config.chunk_bytes = bytesize::ByteSize::kib(1);
        let shipper = attempt.ship();
        let mut writer = attempt.writer(Stream::Stdout);
        let job = std::thread::spawn(move || {
            let mut written = Vec::new();
            for n in 0..6_000 {
                let line = format!("line {n}\n");
                writer.write_all(line.as_bytes()).unwrap();
                written.extend_from_slice(line.as_bytes());
            }
            written
        });
        let start = Start::From(attempt.claim.attempt);
        let reader = async {
            let mut got: Vec<u8> = Vec::new();
            loop {
                let mut tail = attempt.tail(start, got.len() as u64);
                for _ in 0..rand::rng().random_range(1..20) {
                    match tokio::time::timeout(DEADLINE, tail.next()).await.expect("more comes").unwrap() {
                        // A client may have been given only part of a chunk when its connection broke.
                        Some(TailEvent::Chunk(chunk)) => {
                            assert_eq!(chunk.offset, got.len() as u64);
                            let given = rand::rng().random_range(1..=chunk.data.len());
                            got.extend_from_slice(&chunk.data[..given]);
                            if given < chunk.data.len() {
                                break;
                            }
                        }
                        Some(_) => {}
                        None => return got,
                    }
                }
            }
        };
        let finish = async {
            let written = tokio::task::spawn_blocking(|| job.join().unwrap()).await.unwrap();
            attempt.finish(shipper).await;
            written
        };
        let (got, written) = tokio::join!(reader, finish);
        assert!(got == written, "the reader got {} of {} bytes, or others", got.len(), written.len());
    }

    async fn a_reader_of_the_newest_attempt_goes_on_with_the_next_one(db) {
        db.enqueue(2).await;
        let first = db.claim().await;
        let reader = tokio::spawn(read_events(first.tail(Start::Newest, 0)));
        let shipper = first.ship();
        first.write(Stream::Stdout, b"first\n");
        let verdict = shipper.drain(DEADLINE).await.unwrap();
        first.seal(verdict, OutcomeClass::Backend).await;
        let second = db.claim().await;
        let shipper = second.ship();
        second.write(Stream::Stdout, b"second\n");
        second.finish(shipper).await;
        assert_eq!(reader.await.unwrap(), ["attempt 1", "first\n", "end 1: complete", "attempt 2", "second\n", "end 2: complete"]);
    }

    async fn a_reader_may_ask_before_there_is_an_attempt(db) {
        let job = db.enqueue(1).await;
        let request = sawmill::logs::TailRequest { job, start: Start::Newest, from: 0, follow: sawmill::logs::Follow::UntilTheEnd };
        let reader = tokio::spawn(read_events(sawmill::logs::Tail::new(&db.store, request)));
        let attempt = db.claim().await;
        let shipper = attempt.ship();
        attempt.write(Stream::Stdout, b"hello\n");
        attempt.finish(shipper).await;
        assert_eq!(reader.await.unwrap(), ["attempt 1", "hello\n", "end 1: complete"]);
    }

    async fn who_does_not_follow_gets_what_is_there(db) {
        let attempt = db.attempt().await;
        let shipper = attempt.ship();
        attempt.write(Stream::Stdout, b"so far\n");
        attempt.wait_for_stored(7).await;
        let request = sawmill::logs::TailRequest { job: attempt.claim.job, start: Start::Newest, from: 3, follow: sawmill::logs::Follow::No };
        assert_eq!(read_events(sawmill::logs::Tail::new(&db.store, request)).await, ["attempt 1", "far\n"]);
        attempt.finish(shipper).await;
    }
}

async fn read_events(mut tail: sawmill::logs::Tail) -> Vec<String> {
    let mut events: Vec<String> = Vec::new();
    while let Some(event) = tokio::time::timeout(DEADLINE, tail.next()).await.expect("the log comes to an end").unwrap() {
        events.push(match event {
            TailEvent::Attempt(attempt) => format!("attempt {attempt}"),
            TailEvent::Chunk(chunk) => text(&chunk.data),
            TailEvent::End { attempt, verdict } => format!("end {attempt}: {verdict}"),
        });
    }
    events
}
