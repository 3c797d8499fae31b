//! Retention: what ended long ago is removed, in small batches with pauses, while jobs are claimed and run, and so is what no job needs any
//! more. Any number of daemons may run this; one at a time has the duty. What is left of artifacts then goes by whoever reaches the place where it is.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::claims::jitter;
use crate::artifacts::Artifacts;
use crate::store::{Retention, Store, StoreError, Swept};

/// The longest time between two sweeps, and the shortest.
const INTERVAL: (Duration, Duration) = (Duration::from_secs(600), Duration::from_secs(1));
/// The shortest pause after a batch. A batch that took longer is followed by a pause as long as itself, so that at least half of
/// the time is left to everybody else.
const PAUSE: Duration = Duration::from_millis(20);
/// The pause where the database does not answer.
const AWAY: Duration = Duration::from_secs(10);
/// For how long objects of an attempt stay that ended without a word of them: its worker may have lost its claim and not know it yet.
const UNSAID: Duration = Duration::from_secs(3600);

/// Sweeps every now and then until the token is cancelled; a batch that is under way then is ended first.
pub(super) async fn retain_loop(store: Store, artifacts: Artifacts, retention: Retention, ended: CancellationToken) {
    let age = if let Retention::For(age) = retention { Some(age) } else { None };
    let interval = age.map_or(INTERVAL.0, |age| (age / 10).clamp(INTERVAL.1, INTERVAL.0));
    while ended.run_until_cancelled(tokio::time::sleep(jitter(interval))).await.is_some() {
        if let Some(age) = age {
            match sweep(&store, age, &ended).await {
                Ok(0) => {}
                Ok(removed) => info!("removed {removed} jobs that ended longer than {age:?} ago"),
                Err(error) => debug!("cannot remove what ended long ago, trying again: {error}"),
            }
        }
        match ended.run_until_cancelled(sweep_artifacts(&store, &artifacts)).await {
            None | Some(Ok(0)) => {}
            Some(Ok(removed)) => info!("removed {removed} artifacts that nobody can ask for any more"),
            Some(Err(error)) => warn!("cannot remove artifacts that nobody can ask for any more, trying again: {error:#}"),
        }
    }
}

/// Every now and then looks whether there is something that workers are asked for and that no job needs any more, until the token is cancelled.
/// Beside the sweeps, because of very many jobs a walk takes long.
pub(super) async fn forget_loop(store: Store, ended: CancellationToken) {
    while ended.run_until_cancelled(tokio::time::sleep(jitter(INTERVAL.0))).await.is_some() {
        match forget_routes(&store, &ended).await {
            Ok(0) => {}
            Ok(removed) => info!("forgot {removed} combinations of backend and requirements that no job has had for days"),
            Err(error) => warn!("cannot forget what no job asks for any more: {error}"),
        }
    }
}

/// Removes the objects of jobs that are gone, and of attempts that ended without a word of what they kept, from the place that this
/// worker reaches. Says how many went.
async fn sweep_artifacts(store: &Store, artifacts: &Artifacts) -> anyhow::Result<u64> {
    let Some(place) = artifacts.known_place()? else { return Ok(0) };
    let mut removed = 0;
    loop {
        let orphans = store.orphaned_artifacts(&place.id, store.now() - UNSAID).await?;
        if orphans.is_empty() {
            return Ok(removed);
        }
        for (job, attempt) in orphans {
            removed += artifacts.remove_all(job, attempt).await?;
            store.forget_artifacts(job, attempt, &place.id).await?;
        }
    }
}

/// One walk through all jobs for what they ask of workers, where one is due; how much went that none asks. A database that is away is waited
/// for.
async fn forget_routes(store: &Store, ended: &CancellationToken) -> Result<u64, StoreError> {
    let mut walk = match store.walk_routes().await {
        Ok(Some(walk)) => walk,
        Ok(None) => return Ok(0),
        Err(error) if error.is_transient() => return Ok(0),
        Err(error) => return Err(error),
    };
    loop {
        let began = Instant::now();
        let pause = match store.walk_routes_once(&mut walk).await {
            Ok(Some(removed)) => return Ok(removed),
            Ok(None) => PAUSE,
            Err(error) if error.is_transient() => AWAY,
            Err(error) => return Err(error),
        };
        if !goes_on(began, pause, ended).await {
            return Ok(0);
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
        if !goes_on(began, PAUSE, ended).await {
            return Ok(removed);
        }
    }
}

/// Rests after a batch that began then, for the sake of everybody else (see [`PAUSE`]); whether there is to be another.
async fn goes_on(began: Instant, pause: Duration, ended: &CancellationToken) -> bool {
    ended.run_until_cancelled(tokio::time::sleep(began.elapsed().max(pause))).await.is_some()
}
