//! An attempt's log as events, to its end and from any offset.
//!
//! The one rule: an event's id says where the log goes on after it, so that a reader who comes back with the last one misses
//! nothing and sees nothing twice. Reading the log as it grows is `logs::Tail`'s.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use axum::response::sse::Event;
use futures_util::Stream as EventStream;
use futures_util::stream;
use tokio::time::timeout;

use super::problem::Problem;
use super::sse;
use super::wire::{LogEnd, LogPiece};
use crate::ids::{AttemptNo, JobId};
use crate::job::{LogVerdict, Stream};
use crate::logs::{Follow, Start, Tail, TailEvent, TailRequest};
use crate::store::{Hints, Store, StoreError};

/// How long at most until an attempt that is still to come is looked for again.
const POLL: Duration = Duration::from_millis(300);

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
    phase: Phase,
}

enum Phase {
    /// The attempt is still to come, or to be found.
    Awaiting,
    /// The attempt's log is read.
    Reading(Box<Tail>),
    /// All of it was read; what became of the attempt is to be told.
    Ending(AttemptNo, LogVerdict),
    /// The last event is made.
    Ended,
}

impl Follower {
    /// Follows from `at`; the job is known to exist, and `hints` are older than that knowledge.
    pub(super) fn new(store: Store, hints: Hints, job: JobId, at: Position, only: Option<Stream>) -> Self {
        Self { store, hints, job, at, only, phase: Phase::Awaiting }
    }

    /// The events; dropping the stream ends the following.
    pub(super) fn into_events(self) -> impl EventStream<Item = Event> + Send {
        stream::unfold(self, |mut follower| async move { follower.next().await.map(|event| (event, follower)) })
    }

    async fn next(&mut self) -> Option<Event> {
        loop {
            let looked = match &mut self.phase {
                Phase::Awaiting => self.find_attempt().await,
                Phase::Reading(tail) => match tail.next().await {
                    Ok(event) => Ok(self.event_of(event)),
                    Err(error) => Err(error),
                },
                Phase::Ending(attempt, verdict) => {
                    let (attempt, verdict) = (*attempt, *verdict);
                    self.end_of(attempt, verdict).await
                }
                Phase::Ended => return None,
            };
            match looked {
                Ok(Some(event)) => return Some(event),
                Ok(None) => {}
                // A database that is away for a while costs the reader nothing but the wait.
                Err(error) if error.is_transient() => self.pause().await,
                Err(error) => {
                    self.phase = Phase::Ended;
                    return Some(sse::problem(&Problem::from(error)));
                }
            }
        }
    }

    /// Waits until there may be an attempt: a hint, or the poll.
    async fn pause(&mut self) {
        // That nothing happened for a while is as good as a hint.
        _ = timeout(POLL, self.hints.next_change()).await;
    }

    /// Goes over to reading once the attempt is there; the last event, where it will never be.
    async fn find_attempt(&mut self) -> Result<Option<Event>, StoreError> {
        let job = self.store.job(self.job).await?;
        let attempt = match (self.at.attempt, job.attempt) {
            (None, Some(latest)) => latest,
            (Some(wanted), Some(latest)) if wanted <= latest => wanted,
            _ if job.state.is_final() => {
                self.phase = Phase::Ended;
                let end = LogEnd { job: job.id, state: job.state, attempt: None, outcome: job.outcome, log: None, total: 0 };
                return Ok(Some(sse::event("end", &end)));
            }
            _ => {
                self.pause().await;
                return Ok(None);
            }
        };
        self.at.attempt = Some(attempt);
        let request =
            TailRequest { job: self.job, start: Start::Only(attempt), from: self.at.offset, follow: Follow::UntilTheEnd };
        self.phase = Phase::Reading(Box::new(Tail::new(&self.store, request)));
        Ok(None)
    }

    /// What a piece of the log is to the reader: nothing, where it comes from a stream that was not asked for.
    fn event_of(&mut self, event: Option<TailEvent>) -> Option<Event> {
        match event? {
            TailEvent::Attempt(_) => None,
            TailEvent::Chunk(chunk) => {
                self.at.offset = chunk.offset + chunk.data.len() as u64;
                let wanted = self.only.is_none_or(|stream| stream == chunk.stream);
                wanted.then(|| sse::event("log", &LogPiece::from(chunk)).id(self.at.to_string()))
            }
            TailEvent::End { attempt, verdict } => {
                self.phase = Phase::Ending(attempt, verdict);
                None
            }
        }
    }

    async fn end_of(&mut self, attempt: AttemptNo, verdict: LogVerdict) -> Result<Option<Event>, StoreError> {
        let job = self.store.job(self.job).await?;
        let record = self.store.attempts(job.id).await?.into_iter().find(|record| record.attempt == attempt);
        let total = record.as_ref().map_or(self.at.offset, |record| record.log_bytes);
        let outcome = record.and_then(|record| record.outcome);
        let end = LogEnd { job: job.id, state: job.state, attempt: Some(attempt), outcome, log: Some(verdict), total };
        self.phase = Phase::Ended;
        Ok(Some(sse::event("end", &end).id(self.at.to_string())))
    }
}
