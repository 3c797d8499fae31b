//! The clock by which leases run.
//!
//! The one rule: it is the database's, whatever the clocks of hosts say. The server's is read now and then; between two readings a clock of
//! this host carries it on that nobody sets, and that goes on while the host is suspended. What a claim, a renewal or a look at a claim
//! says of a lease goes by the server's clock itself: a virtual machine that is paused takes all of its clocks with it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::{Executor, Postgres};
use tokio::time::{MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

use super::db::Db;
use super::driver::in_time;
use crate::clock::{HostClock, Timestamp, millis};

/// How often the server's clock is read.
const SAMPLE: Duration = Duration::from_secs(30);
/// When it is read for the second time: the first answer was a new connection's, which take long.
const SECOND: Duration = Duration::from_secs(1);
/// Two clocks drift apart by less than one part in so many.
pub(super) const DRIFT: u32 = 1_000;
/// Two readings in whole milliseconds may differ by so much.
const ROUNDING: Duration = Duration::from_millis(2);

/// The server's clock, in a statement. Each place where it is written has its own moment; a subquery has one for all rows.
macro_rules! server_now {
    () => {
        "(SELECT (extract(epoch FROM clock_timestamp()) * 1000)::BIGINT)"
    };
}
pub(super) use server_now;

/// Asks for it alone.
pub(super) const CLOCK: &str = concat!("SELECT ", server_now!(), " AS now");

/// The clock by which leases run.
#[derive(Debug, Clone)]
pub(super) enum LeaseClock {
    /// This host's: all who share a SQLite file are on it.
    Host,
    /// The server's, carried on between two readings by this host's.
    Server {
        /// When this process began to count.
        since: Instant,
        /// The best reading so far.
        reading: Arc<Mutex<Reading>>,
    },
}

/// A reading of the server's clock. Times are counted from when this process began to count.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reading {
    /// What the server's clock said when this process began to count, in milliseconds since the epoch.
    epoch_ms: i64,
    /// How far off that may be.
    error: Duration,
    read_at: Duration,
}

impl Reading {
    /// The server read its clock at some moment between question and answer: half-way is wrong by half of that time at most.
    fn new(server_ms: i64, asked: Duration, answered: Duration) -> Self {
        let error = answered.saturating_sub(asked) / 2;
        Self { epoch_ms: server_ms - millis(asked + error), error, read_at: answered }
    }

    /// The better one of this and a later one. An answer that was long under way says little: a clock that followed it would
    /// run ahead by seconds, and would take leases of others for over that hold. Where not both can be true the server's clock was set.
    fn or(self, later: Self) -> Self {
        let drifted = later.read_at.saturating_sub(self.read_at) / DRIFT;
        let apart = Duration::from_millis(later.epoch_ms.abs_diff(self.epoch_ms));
        let was_set = apart > self.error + later.error + drifted + ROUNDING;
        if was_set || later.error <= self.error + drifted { later } else { self }
    }
}

impl LeaseClock {
    /// Reads the server's clock for the first time.
    pub(super) async fn of_server(executor: impl Executor<'_, Database = Postgres>) -> Result<Self, sqlx::Error> {
        let since = CARRIES_ON.now();
        let reading = read(since, executor).await?;
        Ok(Self::Server { since, reading: Arc::new(Mutex::new(reading)) })
    }

    /// The clock of this host that goes on as this one does, but that nobody sets.
    pub(super) const fn beside(&self) -> HostClock {
        match self {
            Self::Host => HostClock::Awake,
            Self::Server { .. } => CARRIES_ON,
        }
    }

    /// When a lease ends that is given or renewed by a statement, as words of that statement and the value of its `$2`. A server says it by
    /// its own clock when it hears of it, so that no worker whose host was paused renews into the past.
    pub(super) fn end_of(&self, lease: Duration) -> (&'static str, i64) {
        match self {
            Self::Host => ("$2", (self.now() + lease).0),
            Self::Server { .. } => (concat!(server_now!(), " + $2"), millis(lease)),
        }
    }

    pub(super) fn now(&self) -> Timestamp {
        match self {
            Self::Host => Timestamp::now(),
            Self::Server { since, reading } => {
                let reading = *reading.lock().unwrap_or_else(PoisonError::into_inner);
                Timestamp(reading.epoch_ms + millis(elapsed(*since)))
            }
        }
    }

    /// Reads the server's clock again.
    pub(super) async fn sample(&self, executor: impl Executor<'_, Database = Postgres>) -> Result<(), sqlx::Error> {
        if let Self::Server { since, reading } = self {
            let later = read(*since, executor).await?;
            let mut reading = reading.lock().unwrap_or_else(PoisonError::into_inner);
            *reading = reading.or(later);
        }
        Ok(())
    }
}

/// Asks the server for the time.
async fn read(since: Instant, executor: impl Executor<'_, Database = Postgres>) -> Result<Reading, sqlx::Error> {
    let asked = elapsed(since);
    let server_ms: i64 = in_time(sqlx::query_scalar(CLOCK).fetch_one(executor)).await?;
    Ok(Reading::new(server_ms, asked, elapsed(since)))
}

/// What carries the server's clock on.
const CARRIES_ON: HostClock = HostClock::Always;

fn elapsed(since: Instant) -> Duration {
    CARRIES_ON.now().saturating_duration_since(since)
}

/// Reads the server's clock again and again, until `stop`.
pub(super) async fn sample_loop(db: Db, clock: LeaseClock, stop: CancellationToken) {
    let mut ticks = interval_at(tokio::time::Instant::now() + SECOND, SAMPLE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        if let Err(error) = db.sample(&clock).await {
            tracing::debug!(%error, "could not read the clock of {}; it is carried on", db.label());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(server_ms: i64, asked_ms: u64, answered_ms: u64) -> Reading {
        Reading::new(server_ms, Duration::from_millis(asked_ms), Duration::from_millis(answered_ms))
    }

    #[test]
    fn an_answer_that_was_long_under_way_does_not_move_the_clock() {
        let good = reading(100_000, 0, 2);
        // Held up for six seconds on the way there, and answered at once: half-way is three seconds off.
        let late = reading(136_000, 30_000, 36_000);
        assert_eq!(late.epoch_ms - good.epoch_ms, 3_001);
        assert_eq!(good.or(late).epoch_ms, good.epoch_ms);
    }

    #[test]
    fn the_clock_follows_a_server_whose_clock_was_set() {
        let good = reading(100_000, 0, 2);
        // Ten seconds ahead, and less exact than the first reading.
        assert_eq!(good.or(reading(140_100, 30_000, 30_200)).epoch_ms, 110_000);
        assert_eq!(good.or(reading(120_100, 30_000, 30_200)).epoch_ms, 90_000);
    }

    #[test]
    fn the_clock_follows_readings_as_good_as_its_own_and_worse_ones_as_it_ages() {
        let good = reading(100_000, 0, 2);
        assert_eq!(good.or(reading(130_005, 30_000, 30_004)).epoch_ms, 100_003);
        assert_eq!(good.or(reading(130_100, 30_000, 30_200)).epoch_ms, 99_999);
        assert_eq!(good.or(reading(300_350, 200_000, 200_300)).epoch_ms, 100_200);
    }
}
