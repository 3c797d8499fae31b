//! The lease keeper: a thread of its own, with its own runtime and its own connection, that keeps leases and supervisors
//! alive whatever the jobs' runtime is doing, and hears what the database has to say about running jobs.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::leases::Leases;
use crate::attempt::StopReason;
use crate::ids::WorkerId;
use crate::job::Claim;
use crate::sandbox;
use crate::store::{self, Renewal, StopRequest, Store, StoreError};

/// How often running jobs' requests to stop are looked for when no hint comes.
const LISTEN: Duration = Duration::from_secs(1);

/// What the keeper keeps.
#[derive(Clone)]
pub(super) struct KeeperSetup {
    pub(super) store: store::Config,
    pub(super) worker: WorkerId,
    pub(super) leases: Leases,
    /// The directories of the slots' supervisors.
    pub(super) supervisors: Arc<[PathBuf]>,
}

/// The running thread.
pub(super) struct Keeper {
    ended: CancellationToken,
    thread: JoinHandle<()>,
}

impl Keeper {
    pub(super) fn start(setup: KeeperSetup) -> std::io::Result<Self> {
        let ended = CancellationToken::new();
        let token = ended.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(2).build()?;
        let thread = std::thread::Builder::new().name("lease-keeper".to_owned()).spawn(move || {
            runtime.block_on(token.run_until_cancelled(setup.keep_loop()));
            runtime.shutdown_timeout(Duration::from_secs(1));
        })?;
        Ok(Self { ended, thread })
    }

    /// Ends the thread. No lease is kept afterwards.
    pub(super) async fn close(self) {
        self.ended.cancel();
        let joined = tokio::task::spawn_blocking(move || self.thread.join()).await;
        if !matches!(joined, Ok(Ok(()))) {
            error!("the lease keeper panicked; please report it as a defect");
        }
    }
}

impl KeeperSetup {
    async fn keep_loop(self) {
        tokio::join!(self.touch_loop(), self.fence_loop(), self.lease_loop());
    }

    /// Tells the supervisors that their daemon lives.
    async fn touch_loop(&self) {
        let mut ticks = interval(self.store.lease / 6);
        loop {
            ticks.tick().await;
            let supervisors = self.supervisors.clone();
            let touched = tokio::task::spawn_blocking(move || {
                for dir in supervisors.iter() {
                    if let Err(error) = sandbox::touch(dir) {
                        debug!("cannot touch a supervisor: {error}");
                    }
                }
            });
            if touched.await.is_err() {
                error!("touching the supervisors panicked; please report it as a defect");
            }
        }
    }

    /// Gives up leases that were not renewed in time. It asks nobody, so it works when the database is away.
    async fn fence_loop(&self) {
        let limit = self.store.lease.mul_f64(0.9);
        let mut ticks = interval(self.store.lease / 30);
        loop {
            ticks.tick().await;
            for claim in self.leases.fence(limit, Instant::now()) {
                error!(job.id = %claim.job, "the lease of job {} could not be renewed in time; it is given up", claim.job);
            }
        }
    }

    async fn lease_loop(&self) {
        let store = self.connect().await;
        let mut hints = store.hints();
        let mut renew = interval(self.store.lease / 3);
        let mut listen = interval(LISTEN);
        loop {
            tokio::select! {
                _ = renew.tick() => self.renew_once(&store).await,
                _ = listen.tick() => self.listen_once(&store).await,
                () = hints.next_change() => self.listen_once(&store).await,
            }
        }
    }

    async fn connect(&self) -> Store {
        loop {
            match Store::connect_unmigrated(&self.store).await {
                Ok(store) => return store,
                Err(error) => warn!("the lease keeper cannot connect yet: {error}"),
            }
            tokio::time::sleep(LISTEN).await;
        }
    }

    async fn renew_once(&self, store: &Store) {
        let claims = self.leases.claims();
        if claims.is_empty() {
            return;
        }
        let asked = Instant::now();
        let renewing = store.renew(&self.worker, &claims, self.store.lease);
        match tokio::time::timeout(self.store.lease / 3, renewing).await {
            Ok(Ok(renewals)) => {
                for (claim, renewal) in claims.iter().zip(renewals) {
                    self.heed(claim, renewal, asked);
                }
            }
            Ok(Err(error)) => warn!("cannot renew {} leases, trying again: {error}", claims.len()),
            Err(_) => warn!("cannot renew {} leases in time, trying again", claims.len()),
        }
    }

    fn heed(&self, claim: &Claim, renewal: Renewal, asked: Instant) {
        match renewal {
            Renewal::Held { stop, .. } => {
                self.leases.renewed(claim, asked);
                if let Some(request) = stop {
                    self.leases.stop(claim.job, claim.attempt, reason(request));
                }
            }
            Renewal::Lost => {
                warn!(job.id = %claim.job, "the claim on job {} is lost", claim.job);
                self.leases.stop(claim.job, claim.attempt, StopReason::LeaseLost);
            }
        }
    }

    /// Hears requests to stop running jobs.
    async fn listen_once(&self, store: &Store) {
        if self.leases.is_empty() {
            return;
        }
        match store.stop_requests(&self.worker).await {
            Ok(requests) => {
                for (job, attempt, request) in requests {
                    self.leases.stop(job, attempt, reason(request));
                }
            }
            Err(StoreError::Unreachable { .. }) => {}
            Err(error) => warn!("cannot ask for requests to stop: {error}"),
        }
    }
}

fn reason(request: StopRequest) -> StopReason {
    match request {
        StopRequest::Cancel(why) => StopReason::Cancelled(why),
        StopRequest::Requeue(why) => StopReason::Requeued(why),
    }
}

fn interval(period: Duration) -> tokio::time::Interval {
    let mut interval = tokio::time::interval(period.max(Duration::from_millis(20)));
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}
