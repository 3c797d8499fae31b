//! A log has a cap, and a spool gives disk back.

use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;

use bytesize::ByteSize;
use sawmill::job::{LogVerdict, Stream};

use super::harness::DEADLINE;
use super::{Attempt, on_both, text};

fn lines(range: std::ops::Range<u64>) -> String {
    range.map(|n| format!("this is line {n:09} of many\n")).collect()
}

fn capped(mut attempt: Attempt) -> Attempt {
    attempt.config.cap = ByteSize::kib(256);
    attempt.config.tail = ByteSize::kib(64);
    attempt.config.chunk_bytes = ByteSize::kib(16);
    attempt
}

on_both! {
    async fn head_and_tail_are_kept_and_what_is_missing_is_said(db) {
        let attempt = capped(db.attempt().await);
        let shipper = attempt.ship();
        let written = lines(0..100_000);
        attempt.write(Stream::Stdout, written.as_bytes());
        attempt.write(Stream::Stderr, b"an error at the end\n");
        let verdict = attempt.finish(shipper).await;
        let log = attempt.read(0).await;
        let (out, err) = (text(&log.of(Stream::Stdout)), text(&log.of(Stream::Stderr)));
        let LogVerdict::Truncated { bytes } = verdict else { panic!("{verdict:?}") };
        assert_eq!(out.len() as u64 + bytes, written.len() as u64);
        assert_eq!(err, "an error at the end\n");
        let kept = written.bytes().zip(out.bytes()).take_while(|(a, b)| a == b).count();
        assert!((180 * 1024..=200 * 1024).contains(&kept), "the head has {kept} bytes");
        let tail = &out[kept..];
        assert!((60 * 1024..=64 * 1024).contains(&tail.len()), "the tail has {} bytes", tail.len());
        assert!(written.ends_with(tail) && tail.starts_with("this is line"), "the tail is that of the job, from a line's beginning");
        let said = text(&log.of(Stream::System));
        assert!(said.contains(&format!("sawmill: … {bytes} bytes left out …\n")), "{said}");
        assert!(said.contains("the log has reached 192.0 KiB"), "{said}");
    }

    async fn a_log_that_fits_into_head_and_tail_is_complete(db) {
        let attempt = capped(db.attempt().await);
        let shipper = attempt.ship();
        let written = lines(0..7_500);
        attempt.write(Stream::Stdout, written.as_bytes());
        assert_eq!(attempt.finish(shipper).await, LogVerdict::Complete);
        assert!(text(&attempt.read(0).await.of(Stream::Stdout)) == written);
    }

    async fn a_secret_at_the_beginning_of_the_tail_is_masked(db) {
        let mut attempt = capped(db.attempt().await);
        attempt.redactor = sawmill::redact::Redactor::new(["0123456789abcdefghij"]);
        let shipper = attempt.ship();
        // No line end anywhere, so that the tail begins within one of them.
        attempt.write(Stream::Stdout, "0123456789abcdefghij".repeat(50_001).as_bytes());
        attempt.finish(shipper).await;
        let out = text(&attempt.read(0).await.of(Stream::Stdout));
        assert_eq!(out.replace("[redacted]", ""), "");
    }

    async fn a_flood_takes_a_bounded_part_of_the_disk(db) {
        let mut attempt = capped(db.attempt().await);
        attempt.config.spool_cap = ByteSize::mib(4);
        let shipper = attempt.ship();
        let mut writer = attempt.writer(Stream::Stdout);
        let megabyte = lines(0..32_000);
        let mut most = 0;
        for _ in 0..48 {
            writer.write_all(megabyte.as_bytes()).unwrap();
            // The shipper gets to see each megabyte: the next one comes when the disk is back within its bounds.
            let begun = std::time::Instant::now();
            loop {
                let taken = writer.metadata().unwrap().blocks() * 512;
                most = most.max(taken);
                if taken <= 4 << 20 {
                    break;
                }
                assert!(begun.elapsed() < DEADLINE, "{taken} bytes of disk are taken");
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            }
        }
        let last = lines(50_000..53_000);
        writer.write_all(last.as_bytes()).unwrap();
        let verdict = attempt.finish(shipper).await;
        assert!(matches!(verdict, LogVerdict::Truncated { .. }), "{verdict:?}");
        assert!(most < 8 << 20, "{most} bytes of disk were taken");
        let out = text(&attempt.read(0).await.of(Stream::Stdout));
        assert!(out.starts_with(&megabyte[..150_000]) && out.ends_with(&last[last.len() - 60_000..]));
        assert!(!out.contains('\0'));
    }
}
