//! Retention: what ended long ago is removed, in small batches with pauses, while jobs are claimed and run. Any number of
//! daemons may run this; one at a time has the duty.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::claims::jitter;
use crate::store::{Retention, Store, StoreError, Swept};

/// The longest time between two sweeps, and the shortest.
const INTERVAL: (Duration, Duration) = (Duration::from_secs(600), Duration::from_secs(1));
/// The shortest pause after a batch. A batch that took longer is followed by a pause as long as itself, so that at least half of
/// the time is left to everybody else.
const PAUSE: Duration = Duration::from_millis(20);

/// Sweeps every now and then until the token is cancelled; a batch that is under way then is ended first.
pub(super) async fn retain_loop(store: Store, retention: Retention, ended: CancellationToken) {
    let Retention::For(age) = retention else { return };
    let interval = (age / 10).clamp(INTERVAL.1, INTERVAL.0);
    while ended.run_until_cancelled(tokio::time::sleep(jitter(interval))).await.is_some() {
        match sweep(&store, age, &ended).await {
            Ok(0) => {}
            Ok(removed) => info!("removed {removed} jobs that ended longer than {age:?} ago"),
            Err(error) => debug!("cannot remove what ended long ago, trying again: {error}"),
        }
    }
}

/// One walk through all that has ended, and how many jobs went.
async fn sweep(store: &Store, age: Duration, ended: &CancellationToken) -> Result<u64, StoreError> {
    let mut sweep = store.sweep(age);
    let mut removed = 0;
    loop {
        let began = Instant::now();
        match store.sweep_once(&mut sweep).await? {
            Swept::Some(count) => removed += count,
            Swept::All | Swept::NotOurs => return Ok(removed),
        }
        let pause = began.elapsed().max(PAUSE);
        if ended.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return Ok(removed);
        }
    }
}
