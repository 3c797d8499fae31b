//! Connections kept between statements that follow each other.
//!
//! The one rule: only a connection whose statement came to its end is kept, and few are. A pool tries every connection that
//! comes back to it, which costs the server as much as a small statement, and hands it out again only after that; so who asks one
//! question after the other would ask each of another connection, and each twice.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::pool::PoolConnection;
use sqlx::{Database, Pool};

/// The connections of a pool that are kept.
#[derive(Debug)]
pub(super) struct Kept<DB: Database> {
    idle: Mutex<Vec<(PoolConnection<DB>, Instant)>>,
    /// How many at most: the pool needs room for what else is asked.
    most: usize,
}

impl<DB: Database> Kept<DB> {
    pub(super) const fn new(most: usize) -> Self {
        Self { idle: Mutex::new(Vec::new()), most }
    }

    /// Does one thing with a connection, and keeps it unless that fails or is dropped. One that was idle for longer than `trusted`
    /// goes back to the pool, which tries it.
    pub(super) async fn with<T>(
        &self,
        pool: &Pool<DB>,
        trusted: Duration,
        action: impl AsyncFnOnce(&mut DB::Connection) -> Result<T, sqlx::Error>,
    ) -> Result<T, sqlx::Error> {
        let mut connection = match self.take(trusted) {
            Some(connection) => connection,
            None => pool.acquire().await?,
        };
        let done = action(&mut connection).await?;
        self.keep(pool, connection);
        Ok(done)
    }

    fn take(&self, trusted: Duration) -> Option<PoolConnection<DB>> {
        // Dropped after the lock is given back.
        let (connection, _idle_for_too_long) = {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            let old = idle.extract_if(.., |(_, since)| since.elapsed() >= trusted).collect::<Vec<_>>();
            (idle.pop(), old)
        };
        connection.map(|(connection, _)| connection)
    }

    fn keep(&self, pool: &Pool<DB>, connection: PoolConnection<DB>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        // A pool that is being closed waits for it.
        if idle.len() < self.most && !pool.is_closed() {
            idle.push((connection, Instant::now()));
        }
    }

    /// Gives all back: to a pool that closes, or since one of them may be broken.
    pub(super) fn clear(&self) {
        let all = std::mem::take(&mut *self.idle.lock().unwrap_or_else(PoisonError::into_inner));
        drop(all);
    }
}
