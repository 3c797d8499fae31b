//! A job that cuts its output files, and a claim that is lost.

use std::io::Write as _;
use std::time::Duration;

use sawmill::job::{LogVerdict, OutcomeClass, Stream};
use sawmill::logs::LogsError;

use super::harness::DEADLINE;
use super::{on_both, text};

on_both! {
    async fn a_file_that_the_job_cut_is_a_gap_and_what_follows_is_shipped(db) {
        let attempt = db.attempt().await;
        let shipper = attempt.ship();
        let mut writer = attempt.writer(Stream::Stdout);
        writer.write_all(b"before the cut\n").unwrap();
        attempt.wait_for_stored(15).await;
        // What `echo after > /dev/stdout` does.
        std::fs::write(attempt.spool.stdout(), "after\n").unwrap();
        attempt.wait_for_stored(21).await;
        writer.write_all(b"and on\n").unwrap();
        assert_eq!(attempt.finish(shipper).await, LogVerdict::Gap { from: 0, to: 15 });
        let log = attempt.read(0).await;
        assert_eq!(text(&log.of(Stream::Stdout)), "before the cut\nafter\nand on\n");
        assert!(text(&log.of(Stream::System)).contains("some of its output is lost"));
    }

    async fn a_file_that_lost_its_end_goes_on_where_it_ends(db) {
        let attempt = db.attempt().await;
        let shipper = attempt.ship();
        let mut writer = attempt.writer(Stream::Stderr);
        let line = "x".repeat(99) + "\n";
        writer.write_all(line.repeat(10).as_bytes()).unwrap();
        attempt.wait_for_stored(1000).await;
        writer.set_len(700).unwrap();
        // The shipper says so in the log: then it has seen it.
        attempt.wait_for_stored(1001).await;
        writer.write_all(b"new\n").unwrap();
        assert_eq!(attempt.finish(shipper).await, LogVerdict::Gap { from: 700, to: 1000 });
        assert_eq!(text(&attempt.read(0).await.of(Stream::Stderr)), line.repeat(10) + "new\n");
    }

    async fn a_job_that_cuts_its_file_all_the_time_is_survived(db) {
        let attempt = db.attempt().await;
        let shipper = attempt.ship();
        let mut writer = attempt.writer(Stream::Stdout);
        for n in 0..2_000 {
            writeln!(writer, "line {n} {}", "x".repeat(n % 300)).unwrap();
            if n % 3 == 0 {
                writer.set_len((n % 50) as u64).unwrap();
            }
            tokio::task::yield_now().await;
        }
        writer.set_len(0).unwrap();
        writer.write_all(b"the end\n").unwrap();
        let verdict = attempt.finish(shipper).await;
        assert!(matches!(verdict, LogVerdict::Gap { .. } | LogVerdict::Complete), "{verdict:?}");
        assert!(text(&attempt.read(0).await.of(Stream::Stdout)).ends_with("the end\n"));
    }

    async fn a_spool_that_is_gone_when_the_attempt_is_taken_up_again_is_a_gap(db) {
        let mut attempt = db.attempt().await;
        let shipper = attempt.ship();
        attempt.write(Stream::Stdout, b"was here\n");
        attempt.wait_for_stored(9).await;
        drop(shipper);
        let run = attempt.spool.stdout().parent().unwrap().to_owned();
        std::fs::remove_file(attempt.spool.stdout()).unwrap();
        attempt.spool = sawmill::logs::Spool::open(&run).unwrap();
        let shipper = attempt.ship();
        assert_eq!(attempt.finish(shipper).await, LogVerdict::Gap { from: 0, to: 9 });
    }

    async fn a_shipper_that_lost_its_lease_ships_nothing_more_and_says_so(db) {
        let attempt = db.attempt().await;
        let shipper = attempt.ship();
        attempt.write(Stream::Stdout, b"mine\n");
        attempt.wait_for_stored(5).await;
        attempt.seal(LogVerdict::Complete, OutcomeClass::Succeeded).await;
        attempt.write(Stream::Stdout, b"not mine any more\n");
        tokio::time::timeout(DEADLINE, shipper.ended()).await.expect("it ends by itself");
        let end = shipper.drain(DEADLINE).await;
        assert!(matches!(end, Err(LogsError::LeaseLost { .. })), "{end:?}");
        assert_eq!(text(&attempt.read(0).await.all()), "mine\n");
    }

    async fn a_drain_keeps_its_deadline_and_says_what_is_missing(db) {
        let attempt = db.attempt().await;
        attempt.write(Stream::Stdout, &b"0123456789\n".repeat(1_000_000));
        let end = attempt.ship().drain(Duration::from_millis(20)).await;
        let Err(LogsError::DrainDeadline { verdict: LogVerdict::Gap { from, to }, .. }) = end else { panic!("{end:?}") };
        assert!(from < 11_000_000 && to == 11_000_000, "{from}-{to}");
    }
}
