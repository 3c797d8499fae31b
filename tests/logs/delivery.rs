//! What the job writes is what the reader gets, byte for byte.

use std::io::Write as _;

use rand::RngExt as _;
use sawmill::job::{LogVerdict, Stream};
use sawmill::logs::Start;

use super::harness::read_to_end;
use super::{Attempt, on_both, text};

/// Writes numbered lines of a stream until there are so many bytes, in pieces of any size.
fn flood(attempt: &Attempt, stream: Stream, bytes: usize) -> std::thread::JoinHandle<Vec<u8>> {
    let mut writer = attempt.writer(stream);
    std::thread::spawn(move || {
        let mut random = rand::rng();
        let mut written = Vec::with_capacity(bytes + 200);
        let mut done = 0;
        let mut number = 0u64;
        while written.len() < bytes {
            let until = written.len() + random.random_range(1..60_000);
            while written.len() < until {
                number += 1;
                writeln!(written, "{stream} {number} {:016x} ok", number.wrapping_mul(0x9E37_79B9_7F4A_7C15)).unwrap();
            }
            // Pieces end anywhere, not only at line ends.
            let end = written.len() - random.random_range(0..20);
            writer.write_all(&written[done..end]).unwrap();
            done = end;
        }
        writer.write_all(&written[done..]).unwrap();
        written
    })
}

on_both! {
    async fn fifty_megabytes_of_both_streams_arrive_byte_for_byte(db) {
        let attempt = db.attempt().await;
        let reader = tokio::spawn(read_to_end(attempt.tail(Start::Newest, 0)));
        let shipper = attempt.ship();
        let (out, err) = (flood(&attempt, Stream::Stdout, 30_000_000), flood(&attempt, Stream::Stderr, 20_000_000));
        let (out, err) = tokio::task::spawn_blocking(move || (out.join().unwrap(), err.join().unwrap())).await.unwrap();
        assert_eq!(attempt.finish(shipper).await, LogVerdict::Complete);
        let log = reader.await.unwrap();
        assert!(log.of(Stream::Stdout) == out, "standard output differs");
        assert!(log.of(Stream::Stderr) == err, "standard error differs");
        assert_eq!(log.ends, [(attempt.claim.attempt, LogVerdict::Complete)]);
        let torn = log.chunks.windows(2).filter(|pair| pair[0].stream != pair[1].stream && !pair[0].data.ends_with(b"\n")).count();
        assert!(torn * 20 < log.chunks.len(), "{torn} of {} chunks end within a line", log.chunks.len());
    }

    async fn bytes_that_are_no_text_arrive_as_they_are(db) {
        let attempt = db.attempt().await;
        let shipper = attempt.ship();
        let data: Vec<u8> = (0..300_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        attempt.write(Stream::Stdout, &data);
        attempt.finish(shipper).await;
        assert!(attempt.read(0).await.all() == data);
    }

    async fn what_the_system_says_stands_where_it_was_said(db) {
        let attempt = db.attempt().await;
        attempt.spool.say("preparing");
        attempt.write(Stream::Stdout, b"one\n");
        attempt.spool.say("second command\nof two");
        attempt.write(Stream::Stderr, b"two\n");
        attempt.write(Stream::Stdout, b"three without an end");
        attempt.spool.say("done");
        // Only now is anything shipped: the order is that of the spool.
        let shipper = attempt.ship();
        attempt.finish(shipper).await;
        let log = text(&attempt.read(0).await.all());
        insta::allow_duplicates!(insta::assert_snapshot!(log, @r"
        sawmill: preparing
        one
        sawmill: second command
        sawmill: of two
        three without an endtwo
        sawmill: done
        "));
    }

    async fn a_line_without_an_end_does_not_wait_for_one(db) {
        let attempt = db.attempt().await;
        let shipper = attempt.ship();
        attempt.write(Stream::Stdout, b"Continue? ");
        attempt.wait_for_stored(10).await;
        attempt.write(Stream::Stdout, b"y\n");
        attempt.finish(shipper).await;
        assert_eq!(text(&attempt.read(0).await.all()), "Continue? y\n");
    }

    async fn an_attempt_that_says_nothing_has_an_empty_log(db) {
        let attempt = db.attempt().await;
        let shipper = attempt.ship();
        assert_eq!(attempt.finish(shipper).await, LogVerdict::Complete);
        assert_eq!(attempt.read(0).await.chunks, []);
    }

    async fn secrets_never_reach_the_store_wherever_they_are_cut(db) {
        use base64::Engine as _;
        let secret = "correct-horse/battery&staple";
        let encoded = base64::engine::general_purpose::STANDARD.encode(secret);
        let url = "correct-horse%2Fbattery%26staple";
        let mut attempt = db.attempt().await;
        attempt.redactor = sawmill::redact::Redactor::new([secret]);
        attempt.config.chunk_bytes = bytesize::ByteSize::kib(1);
        let shipper = attempt.ship();
        let mut expected = String::new();
        let mut writer = attempt.writer(Stream::Stdout);
        for n in 0..400usize {
            let form = [secret, &encoded, url, "ghp_a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8"][n % 4];
            let line = format!("{}{form}{}\n", ".".repeat(n % 97), ",".repeat(n % 13));
            // Cut within the secret, and let the shipper see the first half by itself every now and then.
            let cut = n % 97 + 1 + n % (form.len() - 1);
            writer.write_all(&line.as_bytes()[..cut]).unwrap();
            if n % 40 == 0 {
                attempt.wait_for_stored(expected.len() as u64).await;
            }
            writer.write_all(&line.as_bytes()[cut..]).unwrap();
            expected.push_str(&format!("{}[redacted]{}\n", ".".repeat(n % 97), ",".repeat(n % 13)));
        }
        attempt.finish(shipper).await;
        let log = text(&attempt.read(0).await.all());
        for form in [secret, encoded.trim_end_matches('='), url, "ghp_"] {
            assert!(!log.contains(form), "{form} is in the log");
        }
        let marks = log.matches("[redacted]").count();
        assert!(marks >= 400, "{marks} secrets were masked");
        assert_eq!(log.lines().count(), expected.lines().count());
    }
}
