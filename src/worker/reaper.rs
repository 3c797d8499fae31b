//! The reaper: leases that ran out, of any worker or integrator, and jobs whose time has come. Every worker and server may do this; one does
//! at a time.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::claims::jitter;
use crate::store::{AuditCursor, Expired, RelieveCursor, Store, StoreError};

/// How much one pass takes on.
const BATCH: u32 = 200;
/// For how many limits' sake one pass looks.
const LIMITS: u32 = 20;

/// How long the duty stays with a process that says no more.
const DUTY: Duration = Duration::from_secs(5);
/// What is looked for is looked for again at once where a pass found so much of it.
const MUCH: usize = 100;

/// Looks for what is over until the token is cancelled, as long as this process has the duty: as soon as the next job's time comes, and at
/// least every `poll`.
pub async fn reap_loop(store: Store, poll: Duration, ended: CancellationToken) {
    let mut state = State::default();
    loop {
        let wait =
            if state.has_duty(&store).await { reap_once(&store, &mut state).await.min(jitter(poll)) } else { jitter(poll) };
        if ended.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
            return;
        }
    }
}

/// What a process knows from pass to pass.
#[derive(Default)]
struct State {
    relieved: RelieveCursor,
    audited: AuditCursor,
    /// When it last took the duty.
    taken: Option<Instant>,
    /// What went wrong in the last pass, so that it is told once.
    failed: Vec<String>,
}

impl State {
    async fn has_duty(&mut self, store: &Store) -> bool {
        if self.taken.is_some_and(|taken| taken.elapsed() < DUTY / 2) {
            return true;
        }
        let begun = Instant::now();
        self.taken = match store.take_reaping(DUTY).await {
            Ok(taken) => taken.then_some(begun),
            Err(error) => {
                debug!("cannot take the duty to look for leases that ran out: {error}");
                None
            }
        };
        self.taken.is_some()
    }
}

/// One pass; says how long until the next one has something to do. What one duty meets keeps none of the others from being done.
async fn reap_once(store: &Store, state: &mut State) -> Duration {
    let mut failed = Vec::new();
    let mut much = false;
    match store.expire_once(BATCH).await {
        Ok(expired) => {
            much = expired.len() >= MUCH;
            expired.into_iter().for_each(tell);
        }
        Err(error) => failed.push(("take back what is over", error)),
    }
    if let Err(error) = store.relieve_once(&mut state.relieved, LIMITS).await {
        failed.push(("look for room under limits", error));
    }
    if let Err(error) = store.audit_once(&mut state.audited, BATCH).await {
        failed.push(("look at what budgets hold", error));
    }
    let next = match promote(store).await {
        Ok(next) => next,
        Err(error) => {
            failed.push(("let in those whose time has come", error));
            Duration::MAX
        }
    };
    let failed: Vec<String> = failed.into_iter().map(|(what, error)| complain(what, &error, &state.failed)).collect();
    let next = if much && failed.is_empty() { Duration::from_millis(1) } else { next };
    state.failed = failed;
    next
}

/// Lets in those whose time has come, and says how long until the next one's does.
async fn promote(store: &Store) -> Result<Duration, StoreError> {
    let mut next = store.next_ready_at().await?;
    if next.is_some_and(|at| at <= store.now()) {
        store.promote_once(BATCH).await?;
        next = store.next_ready_at().await?;
    }
    Ok(next.map_or(Duration::MAX, |at| at.since(store.now()).max(Duration::from_millis(1))))
}

/// Tells what went wrong, unless that was told `before`; a database that is away is told of elsewhere.
fn complain(what: &str, error: &StoreError, before: &[String]) -> String {
    let told = format!("cannot {what}: {error}");
    if error.is_transient() {
        debug!("{told}");
    } else if !before.contains(&told) {
        warn!("{told}; it is tried again");
    }
    told
}

fn tell(expired: Expired) {
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
