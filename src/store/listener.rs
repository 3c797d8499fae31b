//! The connection to PostgreSQL that stays open and hears the hints of other processes.
//!
//! The one rule: it never gives up. When the connection is lost it is made again, with a growing pause, for ever; and since
//! anything may have happened meanwhile, every new connection begins with a hint. It is made when hints are first wanted: the server wakes
//! each that listens for each hint, at the moment when those who wait for it need the processor.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::driver::in_time;
use super::hints::Hinter;
use super::lease_clock::LeaseClock;

/// How often the connection is tried.
const TRY: Duration = Duration::from_secs(30);
/// The first and the longest pause before the connection is made again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// What the listener needs.
#[derive(Debug, Clone)]
pub(super) struct Listener {
    pub(super) options: PgConnectOptions,
    pub(super) label: Arc<str>,
    pub(super) channel: String,
    /// What this process's own notifications say: it has had their hint already.
    pub(super) own_payload: String,
    pub(super) hinter: Hinter,
    pub(super) clock: LeaseClock,
    pub(super) stop: CancellationToken,
    pub(super) started: Arc<AtomicBool>,
}

impl Listener {
    /// Listens from now on, until it is told to stop, unless it does so already.
    pub(super) fn start(&self) {
        if !self.started.swap(true, Ordering::Relaxed) {
            let listener = self.clone();
            tokio::spawn(async move { listener.stop.run_until_cancelled(listener.reconnect_loop()).await });
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
        // It may be another server by now.
        self.clock.sample(&mut listener).await?;
        in_time(listener.listen(&self.channel)).await?;
        Ok(listener)
    }

    /// Hears until the connection is lost, and returns why.
    async fn hear(&self, listener: &mut PgListener) -> sqlx::Error {
        let mut tick = tokio::time::interval(TRY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                heard = listener.try_recv() => match heard {
                    Ok(Some(notification)) if notification.payload() == self.own_payload => {}
                    Ok(Some(_)) => self.hinter.job_changed(),
                    Ok(None) => return sqlx::Error::Io(std::io::ErrorKind::ConnectionAborted.into()),
                    Err(error) => return error,
                },
                // Nobody says that the other end is gone.
                _ = tick.tick() => {
                    if let Err(error) = in_time(sqlx::raw_sql("SELECT 1").execute(&mut *listener)).await {
                        return error;
                    }
                }
            }
        }
    }
}
