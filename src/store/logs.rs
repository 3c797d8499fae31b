//! The logs of attempts: chunks appended behind the fence, read by offset.
//!
//! The one rule: a log has no gap and nothing twice. Its length and the number of its next chunk are on the attempt's row,
//! under whose lock chunks are appended; a chunk that is there already is left alone, and one that does not go on where the
//! log ends is refused. Redaction, cutting and the cap are done before, in the `logs` room.

use super::Store;
use super::error::StoreError;
use super::fence::hold;
use super::rows::{json, number, word};
use super::statement::{Arg, args, tuples};
use super::tx::{Lock, Tx};
use super::types::{LogPage, LogPosition};
use crate::clock::Timestamp;
use crate::ids::{AttemptNo, JobId};
use crate::job::{Claim, LogChunk, Stream};

const ATTEMPT: &str = "SELECT j.log_next_seq, j.log_bytes, j.log_stdout_end, j.log_stderr_end, j.log_system_end, j.log_verdict \
    FROM attempts j WHERE j.job = $1 AND j.attempt = $2";
const ADD: &str =
    "INSERT INTO log_chunks (job, attempt, seq, stream, start_offset, end_offset, spool_end, at, crc, data) VALUES ";
const ADVANCE: &str = "UPDATE attempts SET log_next_seq = $3, log_bytes = $4, log_stdout_end = $5, log_stderr_end = $6, \
    log_system_end = $7 WHERE job = $1 AND attempt = $2";
const READ: &str = "SELECT seq, stream, start_offset, end_offset, spool_end, at, crc, data FROM log_chunks \
    WHERE job = $1 AND attempt = $2 AND end_offset > $3 AND start_offset < $4 ORDER BY end_offset, seq LIMIT $5";

/// Chunks in one statement.
const BATCH: usize = 32;
/// Chunks read at once, however small they are.
const READ_CHUNKS: u32 = 256;
/// zstd's level: logs are written once, by hosts that have something better to do.
const LEVEL: i32 = 1;

#[derive(sqlx::FromRow)]
struct AttemptLog {
    log_next_seq: i64,
    log_bytes: i64,
    log_stdout_end: i64,
    log_stderr_end: i64,
    log_system_end: i64,
    log_verdict: Option<String>,
}

impl AttemptLog {
    fn position(&self, what: impl Fn() -> String + Copy) -> Result<LogPosition, StoreError> {
        Ok(LogPosition {
            next_seq: number(self.log_next_seq, what)?,
            offset: number(self.log_bytes, what)?,
            spool_end: [
                number(self.log_stdout_end, what)?,
                number(self.log_stderr_end, what)?,
                number(self.log_system_end, what)?,
            ],
        })
    }
}

#[derive(sqlx::FromRow)]
struct ChunkRow {
    seq: i64,
    stream: String,
    start_offset: i64,
    end_offset: i64,
    spool_end: i64,
    at: i64,
    crc: i64,
    data: Vec<u8>,
}

impl Store {
    /// Appends chunks, in order. Those that are there already are left alone, so the same call may be made again after a
    /// failure; all or none of the others are written.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`]; [`StoreError::LogGap`] when a chunk does not go on where the log ends.
    pub async fn append_log(&self, claim: &Claim, chunks: &[LogChunk]) -> Result<(), StoreError> {
        let rows = compress(claim, chunks).await?;
        let mut tx = self.db().begin().await?;
        if let Err(error) = append_within(&mut tx, claim, chunks, rows).await {
            tx.rollback().await;
            return Err(error);
        }
        tx.commit().await?;
        self.inner.hinter.progressed();
        Ok(())
    }

    /// How far an attempt's log is in the store: where a worker that takes the attempt up again goes on.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is no such attempt.
    pub async fn log_position(&self, job: JobId, attempt: AttemptNo) -> Result<LogPosition, StoreError> {
        self.attempt_log(job, attempt).await?.position(|| format!("attempt {attempt} of job {job}"))
    }

    /// Reads an attempt's log from byte `from` on, at most `max_bytes` of it: whole chunks, except that the first one is cut
    /// to begin at `from`, and that a single chunk longer than `max_bytes` is cut to that.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is no such attempt; [`StoreError::Corrupt`] when a chunk is not what was written.
    pub async fn read_log(&self, job: JobId, attempt: AttemptNo, from: u64, max_bytes: usize) -> Result<LogPage, StoreError> {
        // The end is read first: chunks that come meanwhile are there all the same, and none comes after the end.
        let log = self.attempt_log(job, attempt).await?;
        let what = || format!("the log of attempt {attempt} of job {job}");
        let mut total: u64 = number(log.log_bytes, what)?;
        let end = log.log_verdict.as_deref().map(|verdict| json(verdict, what)).transpose()?;
        let until = from.saturating_add(u64::try_from(max_bytes).unwrap_or(u64::MAX));
        let rows: Vec<ChunkRow> = self.db().all(READ, args![job, attempt, from, until, READ_CHUNKS]).await?;
        let mut chunks: Vec<LogChunk> = Vec::with_capacity(rows.len());
        for row in rows {
            let chunk = row.chunk(what)?;
            let chunk_end = chunk.offset + chunk.data.len() as u64;
            total = total.max(chunk_end);
            if chunk_end > until && !chunks.is_empty() {
                break;
            }
            chunks.push(cut(chunk, from, until));
            tokio::task::yield_now().await;
        }
        Ok(LogPage { chunks, end, total })
    }

    async fn attempt_log(&self, job: JobId, attempt: AttemptNo) -> Result<AttemptLog, StoreError> {
        let log: Option<AttemptLog> = self.db().first(ATTEMPT, args![job, attempt]).await?;
        log.ok_or_else(|| StoreError::not_found("attempt", format!("{attempt} of job {job}")))
    }
}

async fn append_within(tx: &mut Tx, claim: &Claim, chunks: &[LogChunk], rows: Vec<Vec<Arg>>) -> Result<(), StoreError> {
    hold(tx, claim, Lock::Keep).await?;
    let log: Option<AttemptLog> = tx.first_locked(ATTEMPT, Lock::Change, args![claim.job, claim.attempt]).await?;
    let what = || format!("attempt {} of job {}", claim.attempt, claim.job);
    let before = log.ok_or_else(|| StoreError::corrupt(what(), "its job runs, and it is not there"))?.position(what)?;
    let mut position = before;
    let mut new: Vec<Vec<Arg>> = Vec::new();
    for (chunk, row) in chunks.iter().zip(rows) {
        if chunk.seq >= before.next_seq {
            position = follow(position, chunk)?;
            new.push(row);
        }
    }
    if new.is_empty() {
        return Ok(());
    }
    let mut new = new.into_iter().peekable();
    while new.peek().is_some() {
        let batch: Vec<Vec<Arg>> = new.by_ref().take(BATCH).collect();
        let sql = format!("{ADD}{}", tuples(1, batch.len(), 10));
        tx.run(&sql, batch.into_iter().flatten().collect()).await?;
    }
    let [stdout, stderr, system] = position.spool_end;
    tx.run(ADVANCE, args![claim.job, claim.attempt, position.next_seq, position.offset, stdout, stderr, system]).await?;
    Ok(())
}

/// The rows of chunks. Done before the transaction, which is not to be held up by it.
async fn compress(claim: &Claim, chunks: &[LogChunk]) -> Result<Vec<Vec<Arg>>, StoreError> {
    let mut rows = Vec::with_capacity(chunks.len());
    for chunk in chunks {
        let what = || format!("chunk {} of job {}", chunk.seq, claim.job);
        let data = zstd::bulk::compress(&chunk.data, LEVEL).map_err(|error| StoreError::corrupt(what(), error))?;
        rows.push(args![
            claim.job,
            claim.attempt,
            chunk.seq,
            chunk.stream.as_str(),
            chunk.offset,
            chunk.offset + chunk.data.len() as u64,
            chunk.spool_end,
            chunk.at,
            i64::from(crc32fast::hash(&chunk.data)),
            data,
        ]);
        // A chunk takes a fraction of a millisecond; many of them are not to hold up other tasks.
        tokio::task::yield_now().await;
    }
    Ok(rows)
}

/// The position after `chunk`, which must begin where the log ends.
fn follow(position: LogPosition, chunk: &LogChunk) -> Result<LogPosition, StoreError> {
    if (chunk.seq, chunk.offset) != (position.next_seq, position.offset) {
        return Err(StoreError::LogGap {
            seq: chunk.seq,
            offset: chunk.offset,
            next_seq: position.next_seq,
            end: position.offset,
        });
    }
    let mut spool_end = position.spool_end;
    let stream = match chunk.stream {
        Stream::Stdout => 0,
        Stream::Stderr => 1,
        Stream::System => 2,
    };
    spool_end[stream] = spool_end[stream].max(chunk.spool_end);
    Ok(LogPosition { next_seq: chunk.seq + 1, offset: chunk.offset + chunk.data.len() as u64, spool_end })
}

/// What of a chunk lies between `from` and `until`.
fn cut(mut chunk: LogChunk, from: u64, until: u64) -> LogChunk {
    let position = |offset: u64| usize::try_from(offset.saturating_sub(chunk.offset)).unwrap_or(usize::MAX).min(chunk.data.len());
    let (begin, end) = (position(from), position(until));
    chunk.data.truncate(end);
    chunk.data.drain(..begin);
    chunk.offset += begin as u64;
    chunk
}

impl ChunkRow {
    fn chunk(self, what: impl Fn() -> String + Copy) -> Result<LogChunk, StoreError> {
        let damaged = |why: &str| StoreError::corrupt(what(), format!("chunk {}: {why}", self.seq));
        let length: usize = number(self.end_offset - self.start_offset, what)?;
        let data = zstd::bulk::decompress(&self.data, length).map_err(|error| damaged(&error.to_string()))?;
        if data.len() != length || i64::from(crc32fast::hash(&data)) != self.crc {
            return Err(damaged("its length or checksum is not what was written"));
        }
        Ok(LogChunk {
            seq: number(self.seq, what)?,
            stream: word(&self.stream, what)?,
            offset: number(self.start_offset, what)?,
            spool_end: number(self.spool_end, what)?,
            at: Timestamp(self.at),
            data,
        })
    }
}
