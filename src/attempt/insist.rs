//! Asking a database that may be away for a while.

use std::time::Duration;

use tracing::warn;

use super::halt::{Halt, chain};
use super::open::Attempt;
use crate::job::OutcomeClass;
use crate::store::StoreError;

/// The first wait before the database is asked again, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

impl Attempt {
    /// Makes a call to the store until it is answered: a database that is away for a moment costs the attempt time, and
    /// nothing else. A request to stop, a lost lease or the deadline ends the asking.
    pub(super) async fn insist<T, F>(&self, call: impl Fn() -> F + Send + Sync) -> Result<T, Halt>
    where
        F: Future<Output = Result<T, StoreError>> + Send,
    {
        let mut wait = RETRY.0;
        loop {
            let error = match call().await {
                Err(error) if error.is_transient() => error,
                answered => return Ok(answered?),
            };
            if self.deadline().left(self.now()).is_zero() {
                return Err(Halt::failed(OutcomeClass::Infrastructure, chain(&error)));
            }
            warn!("the database is away, asking again: {}", chain(&error));
            tokio::select! {
                () = tokio::time::sleep(wait) => wait = (wait * 2).min(RETRY.1),
                reason = self.stop.stopped() => return Err(Halt::Stopped(reason)),
            }
        }
    }
}
