//! Ships the log of one attempt: follows its spool, and appends what comes to the store until it is told to drain.

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::config::Config;
use super::error::LogsError;
use super::feed::{self, Feed};
use super::pace::Pace;
use super::source::{PartLine, Piece};
use super::spool::Spool;
use crate::clock::Timestamp;
use crate::ids::{AttemptNo, JobId};
use crate::job::{Claim, LogChunk, LogVerdict, Stream};
use crate::redact::Redactor;
use crate::store::{LogPosition, Store, StoreError};

/// How long the few bytes that may be the beginning of a secret are held back when nothing follows them.
const HOLD: Duration = Duration::from_millis(250);
/// The first and the longest wait before the store is tried again.
const BACKOFF: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(2)];
/// An append that takes longer than this is given up and made again: its connection may be dead.
const APPEND_TIMEOUT: Duration = Duration::from_secs(20);

/// While a job floods, the shipper rests that many times as long as it works, but not for longer than this at once.
const REST: u32 = 3;
const LONGEST_REST: Duration = Duration::from_millis(100);
/// How often disk is given back while the store is waited for.
const RECLAIM: Duration = Duration::from_millis(200);
/// How long a shipper that is told to stop may take to do so.
const STOP: Duration = Duration::from_secs(1);

/// What a shipper needs.
#[derive(Debug)]
pub struct Shipment {
    /// Where to.
    pub store: Store,
    /// On whose behalf.
    pub claim: Claim,
    /// Where from.
    pub spool: Spool,
    /// What to take out.
    pub redactor: Redactor,
    /// How much, and how often.
    pub config: Config,
    /// Ends the shipper at once, with whatever is in the spool left there.
    pub cancel: CancellationToken,
}

/// The shipper of one attempt. Dropping it stops it.
#[derive(Debug)]
pub struct Shipper {
    job: JobId,
    attempt: AttemptNo,
    spool: Spool,
    position: watch::Receiver<LogPosition>,
    drain: watch::Sender<Phase>,
    ended: watch::Receiver<Life>,
    answers: watch::Receiver<bool>,
    task: JoinHandle<Result<LogVerdict, LogsError>>,
    stop: DropGuard,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// More may be written.
    Following,
    /// Everything is written.
    Draining,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Running,
    Ended,
}

impl Shipper {
    /// Starts to ship, where the store's log of this attempt ends: at its beginning, or where a shipper before this one
    /// stopped, however it stopped. A store that is away is waited for, in the background. A spool has one shipper at a time.
    #[must_use]
    pub fn start(shipment: Shipment) -> Self {
        let (job, attempt) = (shipment.claim.job, shipment.claim.attempt);
        let spool = shipment.spool.clone();
        let (shipped, position) = watch::channel(LogPosition::default());
        let (drain, phase) = watch::channel(Phase::Following);
        let (life, ended) = watch::channel(Life::Running);
        let (answering, answers) = watch::channel(true);
        let stop = shipment.cancel.child_token();
        let run = Run { shipment: Shipment { cancel: stop.clone(), ..shipment }, phase, position: shipped, answering };
        let task = tokio::spawn(async move {
            let end = run.ship().await;
            life.send_replace(Life::Ended);
            end
        });
        Self { job, attempt, spool, position, drain, ended, answers, task, stop: stop.drop_guard() }
    }

    /// How long the log in the store is, in bytes; 0 until the store has first been asked.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position.borrow().offset
    }

    /// Waits until what the job has written so far is in the store, or `within` is over (a log beyond its cap is shipped at the
    /// end only), and says how long the log in the store is then, in bytes.
    pub async fn settle(&self, within: Duration) -> u64 {
        let written = [Stream::Stdout, Stream::Stderr].map(|stream| self.spool.length(stream));
        let mut position = self.position.clone();
        let reached = position.wait_for(|at| at.spool_end[0] >= written[0] && at.spool_end[1] >= written[1]);
        // Too late, or the shipper has ended: what is in the store by then is the answer all the same.
        _ = tokio::time::timeout(within, reached).await.is_ok();
        self.position()
    }

    /// Hears whether the store answers.
    #[must_use]
    pub fn answers(&self) -> Answers {
        Answers { answers: self.answers.clone() }
    }

    /// Waits until the shipper has ended by itself: the lease is lost, or the store refuses for good. [`Shipper::drain`] then
    /// says which. Safe to cancel.
    pub async fn ended(&self) {
        let mut ended = self.ended.clone();
        // The sender goes only when the task does.
        _ = ended.wait_for(|life| *life == Life::Ended).await;
    }

    /// Waits until everything that was written is in the store, and says whether that is everything. To be called when no
    /// process of the job is left. Cancelling it stops the shipper.
    ///
    /// # Errors
    /// [`LogsError::DrainDeadline`] when that takes longer than `within`, counted anew from when a store answers again that was away; [`LogsError::LeaseLost`], [`LogsError::Stopped`],
    /// [`LogsError::Store`] and [`LogsError::Spool`] when it ended before. The shipper has stopped in each case, and the rest
    /// of the log is in the spool.
    pub async fn drain(mut self, within: Duration) -> Result<LogVerdict, LogsError> {
        self.drain.send_replace(Phase::Draining);
        let mut answers = self.answers();
        let ended = tokio::select! {
            ended = &mut self.task => Some(ended),
            () = answers.so_for(true, within) => None,
        };
        match ended {
            Some(Ok(end)) => end,
            Some(Err(panic)) if panic.is_panic() => std::panic::resume_unwind(panic.into_panic()),
            // The runtime is shutting down.
            Some(Err(_)) => Err(LogsError::Stopped { job: self.job, attempt: self.attempt }),
            None => {
                self.stop.disarm().cancel();
                // It may be reading a file just now: another one is not to begin before that is over.
                _ = tokio::time::timeout(STOP, &mut self.task).await;
                let shipped = *self.position.borrow();
                let verdict = feed::verdict_without_rest(&self.spool, shipped);
                let LogPosition { offset, .. } = shipped;
                Err(LogsError::DrainDeadline { job: self.job, attempt: self.attempt, within, shipped: offset, verdict })
            }
        }
    }
}

/// Whether the store of a shipper answers, as far as is known.
#[derive(Debug, Clone)]
pub struct Answers {
    answers: watch::Receiver<bool>,
}

impl Answers {
    /// Waits until the store has been away for this long. Never, where the shipper ends before.
    pub async fn away_for(mut self, time: Duration) {
        self.so_for(false, time).await;
    }

    async fn so_for(&mut self, wanted: bool, time: Duration) {
        while self.answers.wait_for(|answers| *answers == wanted).await.is_ok() {
            match tokio::time::timeout(time, self.answers.wait_for(|answers| *answers != wanted)).await {
                Ok(Ok(_)) => {}
                Ok(Err(_)) => break,
                Err(_) => return,
            }
        }
        std::future::pending().await
    }
}

/// The shipper's task.
struct Run {
    shipment: Shipment,
    phase: watch::Receiver<Phase>,
    position: watch::Sender<LogPosition>,
    /// Whether the store answers, as far as is known.
    answering: watch::Sender<bool>,
}

/// When to stop reading rounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Until {
    /// Less than a chunk is left: that waits for its time.
    LittleIsLeft,
    AllIsShipped,
}

/// How far the store is.
struct Shipped {
    next: LogPosition,
    last_append: Instant,
}

impl Shipped {
    /// How much of the job's two streams is in the store.
    const fn stored(&self) -> [u64; 2] {
        [self.next.spool_end[0], self.next.spool_end[1]]
    }
}

impl Run {
    async fn ship(mut self) -> Result<LogVerdict, LogsError> {
        let from = self.store_position().await?;
        self.position.send_replace(from);
        let Shipment { spool, redactor, config, .. } = &self.shipment;
        let mut feed = Feed::open(spool, redactor, config, from)?;
        let mut shipped = Shipped { next: from, last_append: Instant::now() };
        feed = self.follow(feed, &mut shipped).await?;
        self.finish(feed, &mut shipped).await
    }

    /// Ships what comes until the owner says that nothing more will, and all that was there by then.
    async fn follow(&mut self, mut feed: Feed, shipped: &mut Shipped) -> Result<Feed, LogsError> {
        let flush = self.shipment.config.flush;
        let mut pace = Pace::new(Instant::now());
        loop {
            let phase = *self.phase.borrow_and_update();
            let mut pieces = Vec::new();
            let look = feed.look(&mut pieces);
            let now = Instant::now();
            pace.saw(look.unread, now);
            let full = look.unread >= feed.limits.chunk as u64;
            let waited = pace.waited(now) >= flush;
            let draining = phase == Phase::Draining;
            if draining || waited || (look.unread > 0 && (full || shipped.last_append.elapsed() >= flush)) {
                let part = if draining || waited { PartLine::Take } else { PartLine::Leave };
                let until = if draining { Until::AllIsShipped } else { Until::LittleIsLeft };
                let more;
                (feed, more) = self.rounds(feed, pieces, part, until, shipped).await?;
                if draining {
                    return Ok(feed);
                }
                if more {
                    pace.took(now);
                }
            } else {
                if look.held > 0 && pace.quiet(now) >= HOLD {
                    feed.release(&mut pieces);
                }
                if !pieces.is_empty() {
                    (feed, _) = self.rounds(feed, pieces, PartLine::Leave, Until::LittleIsLeft, shipped).await?;
                }
            }
            feed.reclaim(shipped.stored());
            let Self { phase, shipment, .. } = self;
            tokio::select! {
                () = shipment.cancel.cancelled() => return Err(self.stopped()),
                () = tokio::time::sleep(pace.next_look(now)) => {}
                _ = phase.changed() => {}
            }
        }
    }

    /// Reads and appends; the next round is read while the last one is on its way. Says whether there was anything.
    async fn rounds(
        &self,
        feed: Feed,
        first: Vec<Piece>,
        part: PartLine,
        until: Until,
        shipped: &mut Shipped,
    ) -> Result<(Feed, bool), LogsError> {
        let mut pieces = first;
        let (mut feed, round) = blocking(feed, move |feed| feed.round(part)).await;
        pieces.extend(round);
        let (mut any, mut before) = (false, feed.length());
        while !pieces.is_empty() {
            any = true;
            let begun = Instant::now();
            let stored = shipped.stored();
            let over = CancellationToken::new();
            let append = async {
                let appended = self.append(pieces, shipped).await;
                over.cancel();
                appended
            };
            let next = async {
                let (mut feed, round) = blocking(feed, move |feed| match until {
                    Until::AllIsShipped => feed.round(part),
                    Until::LittleIsLeft => feed.round_if_much(part),
                })
                .await;
                // A store that is away can take long, and the job goes on writing.
                while tokio::time::timeout(RECLAIM, over.cancelled()).await.is_err() {
                    feed.reclaim(stored);
                }
                (feed, round)
            };
            let (appended, (back, round)) = tokio::join!(append, next);
            appended?;
            feed = back;
            feed.reclaim(shipped.stored());
            pieces = round;
            let length = feed.length();
            let grows = std::mem::replace(&mut before, length) != length;
            if until == Until::LittleIsLeft && grows && !pieces.is_empty() {
                self.leave_time_to_the_job(begun.elapsed()).await;
            }
        }
        Ok((feed, any))
    }

    /// A job that floods needs the processor more than its log does: what is not shipped now is on disk, and is shipped at
    /// full speed once the job pauses or is over.
    async fn leave_time_to_the_job(&self, worked: Duration) {
        let mut phase = self.phase.clone();
        tokio::select! {
            () = tokio::time::sleep((worked * REST).min(LONGEST_REST)) => {}
            _ = phase.wait_for(|phase| *phase == Phase::Draining) => {}
            () = self.shipment.cancel.cancelled() => {}
        }
    }

    /// Ships the tail, the last bytes, and what the system has said meanwhile.
    async fn finish(&self, feed: Feed, shipped: &mut Shipped) -> Result<LogVerdict, LogsError> {
        let (mut feed, mut pieces) = blocking(feed, Feed::begin_tail).await;
        loop {
            self.append(pieces, shipped).await?;
            (feed, pieces) = blocking(feed, Feed::tail_round).await;
            if pieces.is_empty() {
                break;
            }
        }
        (feed, pieces) = blocking(feed, Feed::finish).await;
        let (feed, _) = self.rounds(feed, pieces, PartLine::Take, Until::AllIsShipped, shipped).await?;
        Ok(feed.verdict())
    }

    /// Appends pieces as chunks, as often as it takes.
    async fn append(&self, pieces: Vec<Piece>, shipped: &mut Shipped) -> Result<(), LogsError> {
        if pieces.is_empty() {
            return Ok(());
        }
        let Shipment { store, claim, .. } = &self.shipment;
        let (chunks, next) = number(pieces, shipped.next, store.now());
        self.persist(|| store.append_log(claim, &chunks)).await?;
        *shipped = Shipped { next, last_append: Instant::now() };
        self.position.send_replace(next);
        Ok(())
    }

    async fn store_position(&self) -> Result<LogPosition, LogsError> {
        let Shipment { store, claim, .. } = &self.shipment;
        // An append of a shipper before this one may still be under way; behind its lock we see what came of it.
        self.persist(|| store.append_log(claim, &[])).await?;
        self.persist(|| store.log_position(claim.job, claim.attempt)).await
    }

    /// Makes a call to the store until it succeeds, the claim is lost, or the owner says stop. Meanwhile the spool grows.
    async fn persist<T, F: Future<Output = Result<T, StoreError>>>(&self, call: impl Fn() -> F) -> Result<T, LogsError> {
        let Claim { job, attempt, .. } = self.shipment.claim;
        let mut wait = BACKOFF[0];
        loop {
            let result = tokio::select! {
                () = self.shipment.cancel.cancelled() => return Err(self.stopped()),
                result = tokio::time::timeout(APPEND_TIMEOUT, call()) => result,
            };
            let away = result.as_ref().map_or(true, |made| made.as_ref().is_err_and(StoreError::is_transient));
            self.answering.send_if_modified(|answers| std::mem::replace(answers, !away) == away);
            match result {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(StoreError::LeaseLost)) => return Err(LogsError::LeaseLost { job, attempt }),
                Ok(Err(source)) if !source.is_transient() => return Err(LogsError::Store { job, attempt, source }),
                Ok(Err(error)) => tracing::debug!(%error, job.id = %job, %attempt, "the log waits for the database"),
                Err(_) => tracing::debug!(job.id = %job, %attempt, "the log waits for the database, which does not answer"),
            }
            tokio::select! {
                () = self.shipment.cancel.cancelled() => return Err(self.stopped()),
                () = tokio::time::sleep(wait) => {}
            }
            wait = (wait * 2).min(BACKOFF[1]);
        }
    }

    fn stopped(&self) -> LogsError {
        LogsError::Stopped { job: self.shipment.claim.job, attempt: self.shipment.claim.attempt }
    }
}

/// Numbers pieces as the chunks that follow `next`.
fn number(pieces: Vec<Piece>, mut next: LogPosition, at: Timestamp) -> (Vec<LogChunk>, LogPosition) {
    let mut chunks = Vec::with_capacity(pieces.len());
    for Piece { stream, data, spool_end } in pieces {
        let length = data.len() as u64;
        chunks.push(LogChunk { seq: next.next_seq, stream, offset: next.offset, spool_end, at, data });
        next.next_seq += 1;
        next.offset += length;
        let index = match stream {
            Stream::Stdout => 0,
            Stream::Stderr => 1,
            Stream::System => 2,
        };
        next.spool_end[index] = spool_end;
    }
    (chunks, next)
}

/// Reads files on a thread that may block.
async fn blocking<T: Send + 'static>(mut feed: Feed, work: impl FnOnce(&mut Feed) -> T + Send + 'static) -> (Feed, T) {
    let done = tokio::task::spawn_blocking(move || {
        let result = work(&mut feed);
        (feed, result)
    });
    match done.await {
        Ok(done) => done,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime is shutting down: nobody waits for us any more.
        Err(_) => std::future::pending().await,
    }
}
