//! A shipper that is gone, however it went, is followed by one that goes on at the very byte.

use std::io::Write as _;
use std::time::Duration;

use rand::RngExt as _;
use sawmill::job::{LogVerdict, Stream};
use sawmill::logs::LogsError;
use sawmill::redact::Redactor;

use super::harness::DEADLINE;
use super::{Attempt, on_both, text};

/// Ships, and is gone after about so many bytes.
async fn ship_and_be_gone(attempt: &Attempt, after: u64, all: u64) {
    let until = (attempt.stored().await + after).min(all);
    let shipper = attempt.ship();
    attempt.wait_for_stored(until).await;
    drop(shipper);
}

on_both! {
    async fn shippers_that_are_gone_at_any_moment_leave_no_gap_and_no_repeat(db) {
        let mut attempt = db.attempt().await;
        attempt.redactor = Redactor::new(["s3cr3t-value-0123456789"]);
        attempt.config.chunk_bytes = bytesize::ByteSize::kib(4);
        let lines = 40_000;
        let mut writers = Vec::new();
        for stream in [Stream::Stdout, Stream::Stderr] {
            let mut file = attempt.writer(stream);
            writers.push(std::thread::spawn(move || {
                for n in 0..lines {
                    let word = if n % 7 == 0 { "s3cr3t-value-0123456789" } else { "nothing" };
                    writeln!(file, "{stream} {n} {word}").unwrap();
                }
            }));
        }
        let expected = [Stream::Stdout, Stream::Stderr].map(|stream| -> String {
            (0..lines).map(|n| format!("{stream} {n} {}\n", if n % 7 == 0 { "[redacted]" } else { "nothing" })).collect()
        });
        let all = expected.iter().map(|text| text.len() as u64).sum();
        for _ in 0..12 {
            let after = rand::rng().random_range(0..60_000);
            ship_and_be_gone(&attempt, after, all).await;
        }
        tokio::task::spawn_blocking(|| writers.into_iter().for_each(|writer| writer.join().unwrap())).await.unwrap();
        let shipper = attempt.ship();
        assert_eq!(attempt.finish(shipper).await, LogVerdict::Complete);
        let log = attempt.read(0).await;
        for (stream, expected) in [Stream::Stdout, Stream::Stderr].into_iter().zip(expected) {
            assert!(text(&log.of(stream)) == expected, "{stream} differs");
        }
    }

    async fn a_log_whose_tail_was_begun_goes_on_with_it(db) {
        let mut attempt = db.attempt().await;
        attempt.config.cap = bytesize::ByteSize::kib(300);
        attempt.config.tail = bytesize::ByteSize::kib(200);
        attempt.config.chunk_bytes = bytesize::ByteSize::kib(1);
        let lines: String = (0..60_000).map(|n| format!("line {n}\n")).collect();
        attempt.write(Stream::Stdout, lines.as_bytes());
        // The deadline passes somewhere in the tail, again and again, until one drain comes through.
        let mut verdict = None;
        let mut within = Duration::from_millis(3);
        while verdict.is_none() {
            match attempt.ship().drain(within).await {
                Ok(end) => verdict = Some(end),
                Err(LogsError::DrainDeadline { .. }) => within = (within * 2).min(DEADLINE),
                Err(error) => panic!("{error}"),
            }
            attempt.spool.say("once more");
        }
        attempt.seal(verdict.unwrap(), sawmill::job::OutcomeClass::Succeeded).await;
        let log = attempt.read(0).await;
        let out = text(&log.of(Stream::Stdout));
        let Some(LogVerdict::Truncated { bytes }) = verdict else { panic!("{verdict:?}") };
        assert_eq!(out.len() as u64 + bytes, lines.len() as u64);
        let kept = lines.bytes().zip(out.bytes()).take_while(|(a, b)| a == b).count();
        assert!(kept > 90_000, "the head has {kept} bytes: {:?}", &out[kept.saturating_sub(40)..kept + 40]);
        assert!(lines.ends_with(&out[kept..]), "the tail is {:?}…", &out[kept..kept + 80]);
        assert_eq!(text(&log.of(Stream::System)).matches("left out").count(), 1);
    }
}
