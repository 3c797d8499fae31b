//! The lease keeper: a thread of its own, with its own runtime and its own connection, that keeps leases and supervisors
//! alive whatever the jobs' runtime is doing, and hears what the database has to say about running jobs and the worker.

use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::time::{MissedTickBehavior, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::gate::Gate;
use super::leases::Leases;
use super::pace::Pace;
use crate::attempt::{KnownPauses, StopReason};
use crate::ids::WorkerId;
use crate::job::Claim;
use crate::sandbox::{Roster, Supervisor};
use crate::store::{self, Heard, JobOrder, Orders, Renewal, Renewed, StopRequest, Store, StoreError};

/// How often the orders for running jobs are looked for when no hint comes.
const LISTEN: Duration = Duration::from_secs(1);

/// What the keeper keeps.
#[derive(Clone)]
pub(super) struct KeeperSetup {
    pub(super) store: store::Config,
    pub(super) worker: WorkerId,
    pub(super) leases: Leases,
    pub(super) gate: Gate,
    pub(super) pauses: KnownPauses,
    /// The supervisors of slots and containers.
    pub(super) supervisors: Roster,
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
        let with_store = async {
            let store = self.connect().await;
            tokio::join!(self.renew_loop(&store), self.listen_loop(&store), self.outage_loop(&store));
        };
        tokio::join!(self.touch_loop(), self.fence_loop(), with_store);
    }

    /// Tells the supervisors that their daemon lives: all at once, so that one that does not answer keeps it from no other.
    async fn touch_loop(&self) {
        let period = self.store.lease / 6;
        let mut ticks = interval(period);
        loop {
            ticks.tick().await;
            let touch = async |dir: PathBuf| match timeout(period, Supervisor::at(&dir).keep_alive()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => debug!("cannot tell a supervisor that the daemon lives: {error}"),
                Err(_) => debug!("the supervisor in {} does not say that it heard that the daemon lives", dir.display()),
            };
            join_all(self.supervisors.all().into_iter().map(touch)).await;
        }
    }

    /// Gives up leases that were not renewed in time. It asks nobody, so it works when the database is away.
    async fn fence_loop(&self) {
        let limit = self.store.lease.mul_f64(0.9);
        let mut ticks = interval(self.store.lease / 30);
        loop {
            ticks.tick().await;
            for claim in self.leases.fence(limit, self.leases.now()) {
                error!(job.id = %claim.job, "the lease of job {} could not be renewed in time; it is given up", claim.job);
            }
        }
    }

    /// Notices a database that is down for everybody. Jobs live through that, however long it takes: nobody can claim them,
    /// and nothing expires before a full lease after its return. Where it is only silent, it may be silent only to us.
    async fn outage_loop(&self, store: &Store) {
        let mut ticks = interval(self.store.lease / 10);
        let mut down = false;
        loop {
            ticks.tick().await;
            let asked = self.leases.now();
            if !self.leases.any_overdue(self.store.lease / 2, asked) && !down {
                continue;
            }
            let was = std::mem::replace(&mut down, store.is_down().await);
            if down {
                self.leases.out_of_reach(asked);
            }
            match (was, down) {
                (false, true) => warn!("database {} is down; running jobs go on, and what they have to say waits", store.label()),
                (true, false) => warn!("database {} is back, or no longer says that it is down", store.label()),
                _ => {}
            }
        }
    }

    async fn renew_loop(&self, store: &Store) {
        let mut ticks = interval(self.store.lease / 3);
        loop {
            ticks.tick().await;
            self.renew_once(store).await;
        }
    }

    /// Listens beside the renewals: a question that the database takes long to answer keeps no lease from being renewed.
    async fn listen_loop(&self, store: &Store) {
        let mut hints = store.hints();
        let mut ticks = interval(LISTEN);
        let mut pace = Pace::new(LISTEN);
        loop {
            tokio::select! {
                // Without a job, the worker's own reports hear of a drain.
                _ = ticks.tick(), if !self.leases.is_empty() => {}
                () = self.gate.doubted() => {}
                // Also where something was found: it stays on record for as long as the job runs.
                () = hints.next_change_after(pace.due()) => pace.found_nothing(Instant::now()),
            }
            self.listen_once(store).await;
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
        let claims = self.leases.to_renew();
        if claims.is_empty() {
            return;
        }
        let asked = self.leases.now();
        let renewing = store.renew(&self.worker, &claims, self.store.lease);
        match timeout(self.store.lease / 3, renewing).await {
            Ok(Ok(Renewed { renewals, heard })) => {
                for (claim, renewal) in claims.iter().zip(renewals) {
                    self.heed(claim, renewal, asked);
                }
                self.hear(heard, store);
            }
            Ok(Err(error)) => warn!("cannot renew {} leases, trying again: {error}", claims.len()),
            Err(_) => warn!("cannot renew {} leases in time, trying again", claims.len()),
        }
    }

    fn heed(&self, claim: &Claim, renewal: Renewal, asked: Instant) {
        match renewal {
            Renewal::Held { stop, deadline, .. } => {
                self.leases.renewed(claim, asked);
                self.obey(JobOrder { job: claim.job, attempt: claim.attempt, stop, deadline });
            }
            Renewal::Lost => {
                // Or its end was recorded just now, which the attempt knows: it is the one to say that it lost its lease.
                self.leases.stop(claim.job, claim.attempt, StopReason::LeaseLost);
            }
        }
    }

    fn obey(&self, JobOrder { job, attempt, stop, deadline }: JobOrder) {
        if let Some(at) = deadline {
            self.leases.move_deadline(job, attempt, at);
        }
        if let Some(request) = stop {
            self.leases.stop(job, attempt, reason(request));
        }
    }

    fn hear(&self, heard: Heard, store: &Store) {
        self.gate.hear_drain(heard.drain);
        self.pauses.hear(heard.pauses, store.now());
    }

    /// Hears what is asked of the worker and of its jobs.
    async fn listen_once(&self, store: &Store) {
        match store.orders(&self.worker).await {
            Ok(Orders { jobs, heard }) => {
                jobs.into_iter().for_each(|order| self.obey(order));
                self.hear(heard, store);
            }
            Err(StoreError::Unreachable { .. }) => {}
            Err(error) => warn!("cannot ask for orders: {error}"),
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
