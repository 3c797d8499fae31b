//! The connection to PostgreSQL that stays open: it hears the hints of other processes and reads the server's clock.
//!
//! The one rule: it never gives up. When the connection is lost it is made again, with a growing pause, for ever; and since
//! anything may have happened meanwhile, every new connection begins with a hint.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
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
        /// What the server's clock said then.
        epoch_ms: Arc<AtomicI64>,
    },
}

impl LeaseClock {
    /// Reads the server's clock for the first time.
    pub(super) async fn of_server(executor: impl Executor<'_, Database = Postgres>) -> Result<Self, sqlx::Error> {
        let clock = Self::Server { since: Instant::now(), epoch_ms: Arc::new(AtomicI64::new(0)) };
        clock.sample(executor).await?;
        Ok(clock)
    }

    pub(super) fn now(&self) -> Timestamp {
        match self {
            Self::Host => Timestamp::now(),
            Self::Server { since, epoch_ms } => Timestamp(epoch_ms.load(Ordering::Relaxed) + millis(since.elapsed())),
        }
    }

    async fn sample(&self, executor: impl Executor<'_, Database = Postgres>) -> Result<(), sqlx::Error> {
        if let Self::Server { since, epoch_ms } = self {
            let asked = since.elapsed();
            let server: i64 = in_time(sqlx::query_scalar(CLOCK).fetch_one(executor)).await?;
            // The server read its clock about half-way between question and answer.
            let half_way = (asked + since.elapsed()) / 2;
            epoch_ms.store(server - millis(half_way), Ordering::Relaxed);
        }
        Ok(())
    }
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
