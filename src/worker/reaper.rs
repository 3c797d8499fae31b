//! The reaper: leases that ran out, of any worker, and jobs whose time has come. Any number of daemons may run it.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::claims::jitter;
use crate::store::{AuditCursor, Expired, RelieveCursor, Store, StoreError};

/// How much one pass takes on.
const BATCH: u32 = 200;
/// For how many limits' sake one pass looks.
const LIMITS: u32 = 20;

/// Runs [`reap_once`] until the token is cancelled: as soon as the next job's time comes, and at least every `poll`.
pub(super) async fn reap_loop(store: Store, poll: Duration, ended: CancellationToken) {
    let (mut relieved, mut audited) = (RelieveCursor::default(), AuditCursor::default());
    loop {
        let wait = match reap_once(&store, &mut relieved, &mut audited).await {
            Ok(next) => next.min(jitter(poll)),
            Err(error) => {
                debug!("cannot look for leases that ran out: {error}");
                jitter(poll)
            }
        };
        if ended.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
            return;
        }
    }
}

/// One pass; says how long until the next waiting job's time comes.
async fn reap_once(store: &Store, relieved: &mut RelieveCursor, audited: &mut AuditCursor) -> Result<Duration, StoreError> {
    for expired in store.expire_once(BATCH).await? {
        match expired {
            Expired::Claim { job, attempt, worker, state } => {
                warn!(job.id = %job, "attempt {attempt} of job {job} on worker {worker} lost its lease; the job is {state}");
            }
            Expired::Question { job } => info!(job.id = %job, "nobody answered the question of job {job}, which has failed"),
            Expired::Start { job } => info!(job.id = %job, "job {job} had not started in time, and has failed"),
            Expired::Completion { id, consumer, state } => {
                info!("consumer {consumer} lost its lease on completion {id}, which is {state}");
            }
        }
    }
    store.relieve_once(relieved, LIMITS).await?;
    store.audit_once(audited, BATCH).await?;
    let mut next = store.next_ready_at().await?;
    if next.is_some_and(|at| at <= store.now()) {
        store.promote_once(BATCH).await?;
        next = store.next_ready_at().await?;
    }
    Ok(next.map_or(Duration::MAX, |at| at.since(store.now()).max(Duration::from_millis(1))))
}
