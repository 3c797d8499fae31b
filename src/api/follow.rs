//! Following an attempt's log to its end, from any offset.
//!
//! The one rule: a reader never misses or repeats a byte. The store's offsets are the truth, and an event's id says where the
//! log goes on after it; hints only say when to look again.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use axum::response::sse::Event;
use futures_util::Stream as EventStream;
use futures_util::stream;
use tokio::time::{Instant, sleep_until, timeout};

use super::problem::Problem;
use super::sse;
use super::wire::{LogEnd, LogPiece};
use crate::ids::{AttemptNo, JobId};
use crate::job::{Job, LogVerdict, Stream};
use crate::store::{Hints, LogPage, Store, StoreError};

/// How much of the log is read at once, in bytes.
const READ: usize = 256 * 1024;
/// How soon a log that had nothing new is looked at again: hints of other jobs' logs come far more often.
const PAUSE: Duration = Duration::from_millis(20);
/// How long at most until a log that grows is looked at again. Logs are hinted within one process only, so that this is the
/// delay of a log whose worker is elsewhere; each look that finds nothing doubles it, up to [`POLL_IDLE`].
const POLL_BUSY: Duration = Duration::from_millis(40);
/// How long at most until a log that does not grow, or is still to come, is looked at again.
const POLL_IDLE: Duration = Duration::from_millis(320);

/// A place in a job's log, and the form of the ids of its events: `attempt:offset`, or an offset alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    /// The attempt; the latest when absent.
    pub(super) attempt: Option<AttemptNo>,
    /// The offset in its log.
    pub(super) offset: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.attempt {
            Some(attempt) => write!(f, "{attempt}:{}", self.offset),
            None => write!(f, "{}", self.offset),
        }
    }
}

impl FromStr for Position {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            Some((attempt, offset)) => Ok(Self { attempt: Some(AttemptNo(attempt.parse()?)), offset: offset.parse()? }),
            None => Ok(Self { attempt: None, offset: text.parse()? }),
        }
    }
}

/// Follows one attempt's log.
pub(super) struct Follower {
    store: Store,
    hints: Hints,
    job: JobId,
    at: Position,
    only: Option<Stream>,
    ready: VecDeque<Event>,
    phase: Phase,
    poll: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The attempt is still to come, or to be found.
    Awaiting,
    /// The attempt's log is read.
    Reading,
    /// The last event is made.
    Ended,
}

impl Follower {
    /// Follows from `at`; the job is known to exist, and `hints` are older than that knowledge.
    pub(super) fn new(store: Store, hints: Hints, job: JobId, at: Position, only: Option<Stream>) -> Self {
        Self { store, hints, job, at, only, ready: VecDeque::new(), phase: Phase::Awaiting, poll: POLL_IDLE }
    }

    /// The events; dropping the stream ends the following.
    pub(super) fn into_events(self) -> impl EventStream<Item = Event> + Send {
        stream::unfold(self, |mut follower| async move { follower.next().await.map(|event| (event, follower)) })
    }

    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            let progress = match self.phase {
                Phase::Awaiting => self.find_attempt().await,
                Phase::Reading => self.read().await,
                Phase::Ended => return None,
            };
            match progress {
                Ok(Progress::Made) => self.poll = POLL_BUSY,
                Ok(Progress::None) => self.pause().await,
                // A database that is away for a while costs the reader nothing but the wait.
                Err(error) if error.is_transient() => self.pause().await,
                Err(error) => self.end_with(sse::problem(&Problem::from(error))),
            }
        }
    }

    /// Waits until there may be more: a hint, or the poll; never less than a pause, however many hints there are.
    async fn pause(&mut self) {
        let earliest = Instant::now() + PAUSE;
        let hinted = timeout(self.poll, self.hints.next()).await;
        if hinted.is_err() {
            self.poll = (self.poll * 2).min(POLL_IDLE);
        }
        sleep_until(earliest).await;
    }

    async fn find_attempt(&mut self) -> Result<Progress, StoreError> {
        let job = self.store.job(self.job).await?;
        match (self.at.attempt, job.attempt) {
            (None, Some(latest)) => self.at.attempt = Some(latest),
            (Some(wanted), Some(latest)) if wanted <= latest => {}
            _ if job.state.is_final() => {
                let outcome = job.outcome.clone();
                let end = LogEnd { job: job.id, state: job.state, attempt: None, outcome, log: None, total: 0 };
                self.end_with(sse::event("end", &end));
                return Ok(Progress::Made);
            }
            _ => return Ok(Progress::None),
        }
        self.phase = Phase::Reading;
        Ok(Progress::Made)
    }

    async fn read(&mut self) -> Result<Progress, StoreError> {
        let attempt = self.at.attempt.unwrap_or(AttemptNo(1));
        let LogPage { chunks, end, total } = self.store.read_log(self.job, attempt, self.at.offset, READ).await?;
        let progress = if chunks.is_empty() { Progress::None } else { Progress::Made };
        for chunk in chunks {
            self.at.offset = chunk.offset + chunk.data.len() as u64;
            if self.only.is_none_or(|stream| stream == chunk.stream) {
                self.ready.push_back(sse::event("log", &LogPiece::from(chunk)).id(self.at.to_string()));
            }
        }
        match end {
            Some(verdict) if self.at.offset >= total => {
                let job = self.store.job(self.job).await?;
                let end = self.end_of(&job, attempt, verdict, total).await?;
                self.end_with(sse::event("end", &end).id(self.at.to_string()));
                Ok(Progress::Made)
            }
            _ => Ok(progress),
        }
    }

    async fn end_of(&self, job: &Job, attempt: AttemptNo, verdict: LogVerdict, total: u64) -> Result<LogEnd, StoreError> {
        let attempts = self.store.attempts(job.id).await?;
        let outcome = attempts.into_iter().find(|record| record.attempt == attempt).and_then(|record| record.outcome);
        Ok(LogEnd { job: job.id, state: job.state, attempt: Some(attempt), outcome, log: Some(verdict), total })
    }

    fn end_with(&mut self, event: Event) {
        self.ready.push_back(event);
        self.phase = Phase::Ended;
    }
}

/// Whether a look at the store brought the follower further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Made,
    None,
}
