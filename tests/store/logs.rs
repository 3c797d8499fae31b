//! Logs in the store.

use sawmill::clock::Timestamp;
use sawmill::ids::{AttemptNo, JobId};
use sawmill::job::{LogChunk, LogVerdict, OutcomeClass, Stream};
use sawmill::store::{LogPosition, StoreError};

use super::{finish, on_both};

/// Chunks that follow each other, from the texts, taking the streams in turn.
fn chunks(texts: &[&[u8]]) -> Vec<LogChunk> {
    let mut offset = 0;
    let chunk = |(seq, text): (usize, &&[u8])| {
        let chunk = LogChunk {
            seq: seq as u64,
            stream: Stream::ALL[seq % 3],
            offset,
            spool_end: 100 * (seq as u64 + 1),
            at: Timestamp(seq as i64),
            data: text.to_vec(),
        };
        offset += text.len() as u64;
        chunk
    };
    texts.iter().enumerate().map(chunk).collect()
}

fn text(chunks: &[LogChunk]) -> Vec<u8> {
    chunks.iter().flat_map(|chunk| chunk.data.clone()).collect()
}

on_both! {
    async fn a_log_reads_back_from_any_offset(queue) {
        let job = queue.enqueue().await;
        let claim = queue.claim("w").await.claim;
        let log = chunks(&[b"one\n", b"", b"\xff\x00two\n", b"three\n"]);
        queue.store.append_log(&claim, &log).await.expect("appended");
        let whole = text(&log);
        let page = queue.store.read_log(job.id, claim.attempt, 0, 1_000).await.expect("read");
        assert_eq!(page.end, None);
        assert_eq!(page.total, whole.len() as u64);
        assert_eq!(page.chunks, log);
        for from in 0..=whole.len() {
            let page = queue.store.read_log(job.id, claim.attempt, from as u64, 1_000).await.expect("read");
            assert_eq!(text(&page.chunks), whole[from..], "from {from}");
            assert!(page.chunks.first().is_none_or(|chunk| chunk.offset == from as u64));
        }
        for max_bytes in 1..=whole.len() {
            let (mut read, mut from) = (Vec::new(), 0);
            while from < whole.len() as u64 {
                let page = queue.store.read_log(job.id, claim.attempt, from, max_bytes).await.expect("read");
                let bytes = text(&page.chunks);
                assert!(!bytes.is_empty() && bytes.len() <= max_bytes, "{max_bytes} from {from}: {}", bytes.len());
                from = page.next_offset(from);
                read.extend(bytes);
            }
            assert_eq!(read, whole, "{max_bytes} bytes at a time");
        }
        let beyond = queue.store.read_log(job.id, claim.attempt, 1_000, 10).await.expect("read");
        assert_eq!((beyond.chunks.len(), beyond.total), (0, whole.len() as u64));
    }

    async fn appending_again_changes_nothing_and_the_position_says_where_to_go_on(queue) {
        let job = queue.enqueue().await;
        let claim = queue.claim("w").await.claim;
        let log = chunks(&[b"aa", b"bbb", b"c", b"dddd", b"e"]);
        queue.store.append_log(&claim, &log[..2]).await.expect("appended");
        assert_eq!(
            queue.store.log_position(job.id, claim.attempt).await.expect("there"),
            LogPosition { next_seq: 2, offset: 5, spool_end: [100, 200, 0] }
        );
        let mut altered = log[1].clone();
        altered.data = b"BBB".to_vec();
        queue.store.append_log(&claim, &[altered]).await.expect("left alone");
        queue.store.append_log(&claim, &log[1..4]).await.expect("the new ones are appended");
        queue.store.append_log(&claim, &log).await.expect("the last one is appended");
        queue.store.append_log(&claim, &log).await.expect("nothing is appended");
        let page = queue.store.read_log(job.id, claim.attempt, 0, 1_000).await.expect("read");
        assert_eq!(page.chunks, log);
        let expected = LogPosition { next_seq: 5, offset: 11, spool_end: [400, 500, 300] };
        assert_eq!(queue.store.log_position(job.id, claim.attempt).await.expect("there"), expected);
        assert_eq!(queue.store.attempts(job.id).await.expect("there")[0].log_bytes, 11);
    }

    async fn a_chunk_that_does_not_go_on_where_the_log_ends_is_refused_with_all_others(queue) {
        let job = queue.enqueue().await;
        let claim = queue.claim("w").await.claim;
        let log = chunks(&[b"aa", b"bbb", b"c"]);
        let gap = queue.store.append_log(&claim, &[log[0].clone(), log[2].clone()]).await;
        assert!(matches!(gap, Err(StoreError::LogGap { seq: 2, next_seq: 1, end: 2, .. })), "{gap:?}");
        assert_eq!(queue.store.log_position(job.id, claim.attempt).await.expect("there"), LogPosition::default());
        let mut shifted = log[0].clone();
        shifted.offset = 1;
        assert!(matches!(queue.store.append_log(&claim, &[shifted]).await, Err(StoreError::LogGap { .. })));
    }

    async fn many_and_large_chunks_are_appended_at_once(queue) {
        let job = queue.enqueue().await;
        let claim = queue.claim("w").await.claim;
        let big: Vec<u8> = (0..300_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        let texts: Vec<&[u8]> = std::iter::once(big.as_slice()).chain(std::iter::repeat_n(b"line\n".as_slice(), 99)).collect();
        let log = chunks(&texts);
        queue.store.append_log(&claim, &log).await.expect("appended");
        let page = queue.store.read_log(job.id, claim.attempt, 0, usize::MAX).await.expect("read");
        assert_eq!(text(&page.chunks), text(&log));
    }

    async fn the_verdict_comes_with_the_end_of_the_attempt(queue) {
        let job = queue.enqueue().await;
        let claim = queue.claim("w").await.claim;
        queue.store.append_log(&claim, &chunks(&[b"abc"])).await.expect("appended");
        queue.store.finish(&claim, finish(OutcomeClass::Backend)).await.expect("finished");
        let page = queue.store.read_log(job.id, claim.attempt, 3, 10).await.expect("read");
        assert_eq!((page.end, page.total, page.chunks.len()), (Some(LogVerdict::Complete), 3, 0));
        for (id, attempt) in [(JobId::generate(), AttemptNo(1)), (job.id, AttemptNo(2))] {
            assert!(matches!(queue.store.read_log(id, attempt, 0, 10).await, Err(StoreError::NotFound { .. })));
            assert!(matches!(queue.store.log_position(id, attempt).await, Err(StoreError::NotFound { .. })));
        }
    }

    async fn a_chunk_that_was_damaged_is_reported_and_not_returned(queue) {
        let job = queue.enqueue().await;
        let claim = queue.claim("w").await.claim;
        queue.store.append_log(&claim, &chunks(&[b"abc", b"def"])).await.expect("appended");
        for damage in [
            "UPDATE log_chunks SET crc = crc + 1 WHERE seq = 1",
            "UPDATE log_chunks SET crc = crc - 1, data = (SELECT c.data FROM log_chunks c WHERE c.seq = 0) WHERE seq = 1",
            "UPDATE log_chunks SET end_offset = 900 WHERE seq = 1",
        ] {
            queue.place.tamper(damage).await;
            let read = queue.store.read_log(job.id, claim.attempt, 0, 1_000).await;
            assert!(matches!(read, Err(StoreError::Corrupt { .. })), "{damage}: {read:?}");
        }
        let intact = queue.store.read_log(job.id, claim.attempt, 0, 3).await.expect("the first chunk is intact");
        assert_eq!(text(&intact.chunks), b"abc");
    }
}
