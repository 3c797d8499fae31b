//! Reads a log as it grows: every byte once, in order, from any offset on, wherever the worker is.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream::try_unfold;
use tokio::time::Instant;

use crate::ids::{AttemptNo, JobId};
use crate::job::{LogChunk, LogVerdict};
use crate::store::{Hints, Store, StoreError};

/// How soon the store is looked at again when no hint arrives: for a log that grows, and at most. Logs are hinted within one
/// host only, so this is the delay of a log whose worker is elsewhere; each look that finds nothing doubles it.
const POLL: (Duration, Duration) = (Duration::from_millis(40), Duration::from_millis(120));
/// How soon at the earliest: hints of other jobs' logs come far more often.
const PAUSE: Duration = Duration::from_millis(15);
/// The same while it is away.
const AWAY_POLL: Duration = Duration::from_millis(500);
/// The most that is read at once.
const PAGE_BYTES: usize = 1024 * 1024;

/// Which log to read, and how.
#[derive(Debug, Clone, Copy)]
pub struct TailRequest {
    /// The job.
    pub job: JobId,
    /// The attempt to start with.
    pub start: Start,
    /// The offset in that attempt's log to start at, in bytes.
    pub from: u64,
    /// Whether to wait for more.
    pub follow: Follow,
}

/// The attempt to start with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// This one, and no other.
    Only(AttemptNo),
    /// This one, and all that come after it: where a reader goes on that had been given it.
    From(AttemptNo),
    /// The newest one, and all that come after it.
    Newest,
}

/// Whether to wait for more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follow {
    /// Until the attempt, or the job where all attempts are asked for, has ended.
    UntilTheEnd,
    /// No: what is there now.
    No,
}

/// What a reader is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TailEvent {
    /// The log of this attempt follows.
    Attempt(AttemptNo),
    /// A piece of it. The first one is cut to begin at the offset asked for.
    Chunk(LogChunk),
    /// The attempt has ended, and all of its log was given.
    End {
        /// The attempt.
        attempt: AttemptNo,
        /// Whether its log is whole.
        verdict: LogVerdict,
    },
}

/// A reader of a log.
#[derive(Debug)]
pub struct Tail {
    store: Store,
    hints: Hints,
    request: TailRequest,
    attempt: Option<AttemptNo>,
    offset: u64,
    ready: VecDeque<TailEvent>,
    state: State,
    poll: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// There may be more to give at once.
    Reading,
    /// Everything that is there was given.
    CaughtUp,
    /// The attempt has ended; there may be another.
    BetweenAttempts,
    /// Nothing more will come.
    Done,
}

impl Tail {
    /// Prepares to read; nothing is asked of the store yet.
    #[must_use]
    pub fn new(store: &Store, request: TailRequest) -> Self {
        Self {
            store: store.clone(),
            hints: store.hints(),
            request,
            attempt: None,
            offset: request.from,
            ready: VecDeque::new(),
            state: State::BetweenAttempts,
            poll: POLL.0,
        }
    }

    /// The next event; none when everything was given. Safe to cancel: what was not returned comes the next time. While it
    /// follows, a store that is away is waited for.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is no such job or attempt; [`StoreError::Corrupt`] when the log is damaged.
    pub async fn next(&mut self) -> Result<Option<TailEvent>, StoreError> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(Some(event));
            }
            let looked = match self.state {
                State::Done => return Ok(None),
                State::Reading => self.read().await,
                State::CaughtUp => {
                    self.wait().await;
                    self.state = State::Reading;
                    continue;
                }
                State::BetweenAttempts => self.find_attempt().await,
            };
            match looked {
                Err(error) if error.is_transient() && self.request.follow == Follow::UntilTheEnd => {
                    tracing::debug!(%error, job.id = %self.request.job, "a reader of a log waits for the database");
                    tokio::time::sleep(AWAY_POLL).await;
                }
                other => other?,
            }
        }
    }

    /// The events as a stream, which ends after an error.
    pub fn into_stream(self) -> impl Stream<Item = Result<TailEvent, StoreError>> + Send {
        try_unfold(self, async |mut tail| Ok(tail.next().await?.map(|event| (event, tail))))
    }

    /// Waits for a hint, but not for long: a hint is never the truth.
    async fn wait(&mut self) {
        let earliest = Instant::now() + PAUSE;
        if tokio::time::timeout(self.poll, self.hints.next()).await.is_err() {
            self.poll = (self.poll * 2).min(POLL.1);
        }
        tokio::time::sleep_until(earliest).await;
    }

    async fn read(&mut self) -> Result<(), StoreError> {
        let Some(attempt) = self.attempt else { return Ok(()) };
        let page = self.store.read_log(self.request.job, attempt, self.offset, PAGE_BYTES).await?;
        if !page.chunks.is_empty() {
            self.poll = POLL.0;
        }
        self.offset = page.next_offset(self.offset);
        self.ready.extend(page.chunks.into_iter().map(TailEvent::Chunk));
        if self.offset < page.total {
            return Ok(());
        }
        match page.end {
            Some(verdict) => {
                self.ready.push_back(TailEvent::End { attempt, verdict });
                let more = !matches!(self.request.start, Start::Only(_));
                self.state = if more { State::BetweenAttempts } else { State::Done };
            }
            None if self.request.follow == Follow::No => self.state = State::Done,
            None => self.state = State::CaughtUp,
        }
        Ok(())
    }

    /// Goes over to the first attempt, or to the next.
    async fn find_attempt(&mut self) -> Result<(), StoreError> {
        let asked = match self.request.start {
            Start::Only(attempt) | Start::From(attempt) => Some(attempt),
            Start::Newest => None,
        };
        if let (None, Some(attempt)) = (self.attempt, asked) {
            self.begin(attempt);
            return Ok(());
        }
        let job = self.store.job(self.request.job).await?;
        let next = match (self.attempt, job.attempt) {
            (None, newest) => newest,
            (Some(last), Some(newest)) if newest > last => Some(AttemptNo(last.0 + 1)),
            (Some(_), _) => None,
        };
        match next {
            Some(attempt) => {
                if self.attempt.is_some() {
                    self.offset = 0;
                }
                self.begin(attempt);
            }
            None if job.state.is_final() || self.request.follow == Follow::No => self.state = State::Done,
            None => self.wait().await,
        }
        Ok(())
    }

    fn begin(&mut self, attempt: AttemptNo) {
        self.attempt = Some(attempt);
        self.ready.push_back(TailEvent::Attempt(attempt));
        self.state = State::Reading;
    }
}
