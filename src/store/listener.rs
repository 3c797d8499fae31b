//! The connection to PostgreSQL that stays open: it hears the hints of other processes and reads the server's clock.
//!
//! The one rule: it never gives up. When the connection is lost it is made again, with a growing pause, for ever; and since
//! anything may have happened meanwhile, every new connection begins with a hint.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use sqlx::{Executor, Postgres};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::db::in_time;
use super::hints::Hinter;
use crate::clock::{Timestamp, millis};

/// How often the server's clock is read, and with it the connection tried.
const SAMPLE: Duration = Duration::from_secs(30);
/// The first and the longest pause before the connection is made again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Two clocks drift apart by less than one part in so many.
const DRIFT: u32 = 1_000;
/// Two readings in whole milliseconds may differ by so much.
const ROUNDING: Duration = Duration::from_millis(2);
const CLOCK: &str = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::BIGINT";

/// The clock by which leases run.
#[derive(Debug, Clone)]
pub(super) enum LeaseClock {
    /// This host's: all who share a SQLite file are on it.
    Host,
    /// The server's, carried on between two readings by this host's monotonic clock.
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
        let since = Instant::now();
        let reading = read(since, executor).await?;
        Ok(Self::Server { since, reading: Arc::new(Mutex::new(reading)) })
    }

    pub(super) fn now(&self) -> Timestamp {
        match self {
            Self::Host => Timestamp::now(),
            Self::Server { since, reading } => {
                let reading = *reading.lock().unwrap_or_else(PoisonError::into_inner);
                Timestamp(reading.epoch_ms + millis(since.elapsed()))
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
    let asked = since.elapsed();
    let server_ms: i64 = in_time(sqlx::query_scalar(CLOCK).fetch_one(executor)).await?;
    Ok(Reading::new(server_ms, asked, since.elapsed()))
}

/// What the listener needs.
pub(super) struct Listener {
    pub(super) options: PgConnectOptions,
    pub(super) label: Arc<str>,
    pub(super) channel: String,
    /// What this process's own notifications say: it has had their hint already.
    pub(super) own_payload: String,
    pub(super) hinter: Hinter,
    pub(super) clock: LeaseClock,
    pub(super) stop: CancellationToken,
}

impl Listener {
    /// Listens until it is told to stop.
    pub(super) async fn listen_loop(self) {
        let stop = self.stop.clone();
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.reconnect_loop() => {}
        }
    }

    async fn reconnect_loop(&self) {
        let mut pause = PAUSE.0;
        let mut warned = false;
        loop {
            match self.connect().await {
                Ok(mut listener) => {
                    if warned {
                        tracing::info!(database = %self.label, "hears hints of the database again");
                    }
                    pause = PAUSE.0;
                    self.hinter.job_changed();
                    let error = self.hear(&mut listener).await;
                    tracing::warn!(database = %self.label, %error, "lost the connection that hears hints; polling until it is back");
                    warned = true;
                }
                Err(error) => {
                    if !warned {
                        tracing::warn!(database = %self.label, %error, "cannot listen for hints of the database; polling until it is back");
                        warned = true;
                    }
                }
            }
            tokio::time::sleep(pause.mul_f64(0.5 + rand::random::<f64>() / 2.0)).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    async fn connect(&self) -> Result<PgListener, sqlx::Error> {
        // A pool of its own, as the type wants one, which never replaces the connection behind our back.
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(Duration::from_secs(10))
            .max_lifetime(None)
            .idle_timeout(None)
            .connect_with(self.options.clone())
            .await?;
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.eager_reconnect(false);
        in_time(listener.listen(&self.channel)).await?;
        Ok(listener)
    }

    /// Hears until the connection is lost, and returns why.
    async fn hear(&self, listener: &mut PgListener) -> sqlx::Error {
        let mut tick = tokio::time::interval(SAMPLE);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                heard = listener.try_recv() => match heard {
                    Ok(Some(notification)) if notification.payload() == self.own_payload => {}
                    Ok(Some(_)) => self.hinter.job_changed(),
                    Ok(None) => return sqlx::Error::Io(std::io::ErrorKind::ConnectionAborted.into()),
                    Err(error) => return error,
                },
                // Also the proof that the other end is still there.
                _ = tick.tick() => {
                    if let Err(error) = self.clock.sample(&mut *listener).await {
                        return error;
                    }
                }
            }
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
