//! The daemon's life: take what is ours, take up what was left, claim and run, drain, leave.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use super::admission::Admission;
use super::adopt::{Adoption, lodging};
use super::board::Board;
use super::claims::{Assigned, Claimer, Offer, words};
use super::config::Config;
use super::costs::Costs;
use super::engine::EngineWatch;
use super::gate::Gate;
use super::identity::{Identity, IdentityError};
use super::images::ReplacedImages;
use super::janitor::Janitor;
use super::keeper::{Keeper, KeeperSetup};
use super::leases::Leases;
use super::reconcile::Reconciler;
use super::registry::{self, Registry};
use super::run::Runner;
use super::slots::{Slots, SupervisorSetup};
use super::warm_up::WarmUp;
use super::{maintenance, namesake, queue, reaper, retention, withdrawals};
use crate::artifacts::{self, Artifacts};
use crate::attempt::{self, KnownPauses, StopReason, Tools};
use crate::backends;
use crate::caches::{self, CacheError, ProjectCaches, Shelf};
use crate::critic::Critics;
use crate::git::{self, Git, GitError, Provisioner, Strategy};
use crate::ids::WorkerId;
use crate::janitor::Space;
use crate::sandbox::container::{self, Containers, ContainersSetup};
use crate::sandbox::{Roster, SandboxError, Status, Supervisor};
use crate::store::{self, Store, StoreError};
use crate::workspace::{self, Kept, SlotDir, StateDir};
use crate::{logs, sandbox};

/// What a daemon is made of.
pub struct Setup {
    /// `[worker]`.
    pub config: Config,
    /// `[attempt]`.
    pub attempt: attempt::Config,
    /// `[queue]`: leases, polling, and the lease keeper's own connection.
    pub queue: store::Config,
    /// `[git]`.
    pub git: git::Config,
    /// Whether this process was made ready to mount overlays.
    pub mounting: git::Mounting,
    /// `[workspace]`.
    pub workspace: workspace::Config,
    /// `[caches]`.
    pub caches: caches::Config,
    /// What caches projects have, by their names.
    pub project_caches: BTreeMap<String, ProjectCaches>,
    /// `[sandbox]`.
    pub sandbox: sandbox::Config,
    /// `[container]`.
    pub container: container::Config,
    /// `[logs]`.
    pub logs: logs::Config,
    /// `[artifacts]`.
    pub artifacts: artifacts::Config,
    /// `[backends]`.
    pub backends: backends::Registry,
    /// `[critics]`.
    pub critics: Critics,
    /// The daemon's own environment.
    pub environment: BTreeMap<String, String>,
    /// This executable, which supervisors are started from.
    pub executable: PathBuf,
    /// This build, for the registry of workers.
    pub version: String,
}

/// How a daemon is told to stop.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// Claim no more; let what runs end within the grace.
    pub drain: CancellationToken,
    /// Stop what runs, salvage it, and give it back.
    pub abort: CancellationToken,
}

/// Why a daemon cannot run.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// Its state directory cannot be made.
    #[error("cannot use worker.state_dir {path}")]
    StateDir {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Its state directory cannot be taken.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Another worker has the same name.
    #[error(
        "another worker is named {name}: process {pid} on host {host}, which reported {silence} ago; give each worker its own worker.name, \
         or none. If that one is gone for good, its name is free {left} from now"
    )]
    NameInUse {
        /// The name.
        name: WorkerId,
        /// Its host.
        host: String,
        /// Its process.
        pid: u32,
        /// How long ago it reported, for people.
        silence: String,
        /// How long until it counts as gone, for people.
        left: String,
    },
    /// Git cannot be used.
    #[error(transparent)]
    Git(#[from] GitError),
    /// The database cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Saved caches cannot be used.
    #[error(transparent)]
    Caches(#[from] CacheError),
    /// A supervisor cannot be started.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The lease keeper cannot be started.
    #[error("cannot start the lease keeper")]
    Keeper(#[source] std::io::Error),
    /// The loop ended otherwise than by draining.
    #[error("the worker's loop ended: {0}")]
    Loop(String),
}

/// A daemon that is ready to claim.
pub struct Daemon {
    setup: Setup,
    identity: Identity,
    tools: Arc<Tools>,
    slots: Slots,
    leases: Leases,
    gate: Gate,
    board: Board,
    janitor: Janitor,
    costs: Costs,
    admission: Admission,
    supervisors: SupervisorSetup,
    /// The supervisors that hear from this daemon.
    roster: Roster,
    /// The slots that have a supervisor.
    supervised: Vec<SlotDir>,
    keeper: Keeper,
    adopted: Vec<Assigned>,
}

impl Daemon {
    /// Takes the state directory, starts the supervisors and the lease keeper, and takes up what an earlier daemon left.
    ///
    /// # Errors
    /// What cannot be had; nothing has been claimed then.
    pub async fn start(setup: Setup, store: Store) -> Result<Self, WorkerError> {
        let failed = |source| WorkerError::StateDir { path: setup.config.state_dir.clone(), source };
        let state = StateDir::create(&setup.config.state_dir).map_err(failed)?;
        let identity = Identity::take(&state, &setup.config.name)?;
        // Before anything is taken up: what is claimed under this name would be.
        namesake::refuse(&store, &identity).await?;
        let git = Git::open(&setup.git, &setup.executable, &state.mirrors())?;
        let (strategy, budget) = (setup.workspace.strategy, setup.workspace.bases);
        let provisioner = Provisioner::open_where(&git, strategy, budget, &setup.mounting)?;
        info!("worktrees are made by {}: {}", provisioner.strategy(), provisioner.reason());
        Kept::new(state.kept(), state.trash()).mount_again();
        let shelf = Shelf::open(state.root(), &setup.caches)?;
        shelf.shrink_once(Space::default())?;
        let supervisors = SupervisorSetup {
            executable: setup.executable.clone(),
            worker: identity.id().clone(),
            // Early enough that a job which ignores TERM is dead, and salvaged, before another worker can have its claim.
            orphan_after: setup.queue.lease.mul_f64(0.75),
        };
        let configured: Vec<_> = (0..setup.config.slots).map(|number| state.slot(number)).collect();
        // An earlier daemon may have had more slots, with jobs in them.
        let all = with_those_on_disk(&configured, &state).map_err(failed)?;
        let (slots, leases) = (Slots::new(configured.clone()), Leases::counted_by(store.host_clock()));
        // Before the first claim: a worker that was drained is so still.
        let heard = store.orders(identity.id()).await?.heard;
        let (gate, pauses) = (Gate::new(heard.drain), KnownPauses::default());
        pauses.hear(heard.pauses, store.now());
        let roster = Roster::default();
        for slot in &all {
            roster.add(&slot.supervisor());
            // Whoever has to be asked before it is known whether the job goes on may take longer than its container waits for a daemon.
            lodging(slot).iter().for_each(|container| roster.add(&container.dir));
        }
        let containers = Containers::open(ContainersSetup {
            config: setup.container.clone(),
            worker: identity.id().to_string(),
            state: state.root().to_owned(),
            executable: setup.executable.clone(),
            orphan_after: supervisors.orphan_after,
            roster: roster.clone(),
        });
        let containers = containers.map_err(failed)?;
        let keeper = Keeper::start(KeeperSetup {
            store: setup.queue.clone(),
            worker: identity.id().clone(),
            leases: leases.clone(),
            gate: gate.clone(),
            pauses: pauses.clone(),
            supervisors: roster.clone(),
        })
        .map_err(WorkerError::Keeper)?;
        // Before anything is adopted: what supervisors that died left running is ended by their successors.
        launch_all(&supervisors, &all).await?;

        let adoption = Adoption {
            store: &store,
            worker: identity.id(),
            state: &state,
            slots: &slots,
            leases: &leases,
            lease: setup.queue.lease,
            executable: &setup.executable,
            roster: &roster,
        };
        let adopted = adoption.adopt().await?;
        containers.take_up(&lodged(&adopted), &configured.iter().map(SlotDir::number).collect()).await;
        let in_use = |dir: &&SlotDir| configured.contains(dir) || adopted.iter().any(|job| job.slot.dir() == *dir);
        let (kept, spare): (Vec<&SlotDir>, Vec<&SlotDir>) = all.iter().partition(in_use);
        join_all(spare.iter().map(|dir| close_supervisor(dir))).await;
        spare.iter().for_each(|slot| roster.remove(&slot.supervisor()));
        // Those of jobs in containers are, where overlays are private.
        let recycles = provisioner.strategy() == Strategy::Recycled || provisioner.is_private();
        drop_recycled(&state, all.iter().filter(|slot| !recycles || spare.contains(slot)));
        discard(&state, &spare);
        let supervised = kept.into_iter().cloned().collect();
        let limits = setup.config.admission.clone();
        let bases = provisioner.bases().cloned();
        let stock = (&git, bases, shelf.clone());
        let images = ReplacedImages::of(&setup.container);
        let janitor = Janitor::new(state.clone(), stock, images, setup.workspace.ttl, limits.reserve());
        let costs = Costs::open(state.root(), limits.disk_job);
        let admission = Admission::new(limits, (&state, costs.clone(), &leases), janitor.clone(), &store, gate.clone());
        let tools = Arc::new(Tools {
            store,
            git,
            provisioner,
            git_config: setup.git.clone(),
            backends: setup.backends.clone(),
            critics: setup.critics.clone(),
            pauses,
            artifacts: Artifacts::new(&setup.artifacts, state.root(), &setup.environment),
            state,
            config: setup.attempt.clone(),
            workspace: setup.workspace.clone(),
            sandbox: setup.sandbox.clone(),
            containers,
            caches: shelf,
            project_caches: setup.project_caches.clone(),
            logs: setup.logs.clone(),
            environment: setup.environment.clone(),
            executable: setup.executable.clone(),
        });
        let board = Board::default();
        Ok(Self {
            setup,
            identity,
            tools,
            slots,
            leases,
            gate,
            board,
            janitor,
            costs,
            admission,
            supervisors,
            roster,
            supervised,
            keeper,
            adopted,
        })
    }

    /// The worker's name.
    #[must_use]
    pub fn id(&self) -> &WorkerId {
        self.identity.id()
    }

    /// Claims and runs jobs until it is told to stop and what ran has ended.
    ///
    /// # Errors
    /// The loop ended otherwise; its jobs go on under their supervisors until their leases run out.
    pub async fn run(mut self, shutdown: Shutdown) -> Result<(), WorkerError> {
        let adopted = std::mem::take(&mut self.adopted);
        let ended = CancellationToken::new();
        self.admission.look_once().await;
        self.engine_watch().look_once().await;
        let background = self.start_background(&shutdown, &ended).await;
        info!("worker {} runs with {} slots", self.id(), self.setup.config.slots);

        let room = self.setup.config.slots as usize + adopted.len();
        let claims = self.claimer(&shutdown).start(adopted, room);
        let runner = Runner {
            tools: self.tools.clone(),
            supervisors: self.supervisors.clone(),
            board: self.board.clone(),
            janitor: self.janitor.clone(),
            draining: shutdown.drain.clone(),
        };
        let stopping = tokio::spawn(stop_jobs(self.leases.clone(), shutdown, self.setup.config.shutdown_grace));
        let store = self.tools.store.clone();
        let driven = queue::drive(self.id(), store, claims, move |assigned| runner.clone().run(assigned)).await;

        stopping.abort();
        ended.cancel();
        background.wait().await;
        // Whatever of them threw something away last.
        self.janitor.sweep_once().await;
        self.tools.containers.close().await;
        join_all(self.supervised.iter().map(close_supervisor)).await;
        self.keeper.close().await;
        driven.map_err(|error| WorkerError::Loop(error.to_string()))
    }

    fn claimer(&self, shutdown: &Shutdown) -> Claimer {
        Claimer {
            store: self.tools.store.clone(),
            worker: self.id().clone(),
            backends: self.tools.backends.all().map(Offer::of).collect(),
            pauses: self.tools.pauses.clone(),
            labels: words(&self.setup.config.labels),
            lease: self.setup.queue.lease,
            poll: self.setup.queue.poll,
            slots: self.slots.clone(),
            leases: self.leases.clone(),
            gate: self.gate.clone(),
            admission: self.admission.clone(),
            board: self.board.clone(),
            draining: shutdown.drain.clone(),
        }
    }

    fn engine_watch(&self) -> EngineWatch {
        let (containers, store, board) = (self.tools.containers.clone(), self.tools.store.clone(), self.board.clone());
        EngineWatch { containers, store, board }
    }

    /// Where containers can wait: each slot, with the directory of its jobs.
    fn job_dirs(&self) -> Vec<(u32, PathBuf)> {
        let slots = (0..self.setup.config.slots).map(|number| self.tools.state.slot(number));
        let made = slots.filter_map(|slot| match slot.make_job_dir() {
            Ok(()) => Some((slot.number(), slot.job())),
            Err(error) => {
                warn!("no container waits for the first job of slot {}: {error}", slot.number());
                None
            }
        });
        made.collect()
    }

    async fn start_background(&self, shutdown: &Shutdown, ended: &CancellationToken) -> TaskTracker {
        let (tasks, store) = (TaskTracker::new(), &self.tools.store);
        let registry = Registry {
            store: store.clone(),
            board: self.board.clone(),
            gate: self.gate.clone(),
            admission: self.admission.clone(),
            every: self.setup.config.report,
            slots: self.setup.config.slots,
            row: registry::row(store, self.id(), &self.setup.version, &self.setup.config, &self.tools.backends),
        };
        let said = registry.introduce().await;
        tasks.spawn(registry.report_loop(said, shutdown.drain.clone(), ended.clone()));
        tasks.spawn(reaper::reap_loop(store.clone(), self.setup.queue.poll, ended.clone()));
        tasks.spawn(retention::retain_loop(
            store.clone(),
            self.tools.artifacts.clone(),
            self.setup.queue.retention,
            ended.clone(),
        ));
        tasks.spawn(retention::forget_loop(store.clone(), ended.clone()));
        tasks.spawn(withdrawals::withdraw_loop(self.tools.clone(), self.setup.config.reconcile, ended.clone()));
        tasks.spawn(self.janitor.clone().sweep_loop(ended.clone()));
        tasks.spawn(self.costs.clone().sample_loop(self.tools.state.clone(), ended.clone()));
        tasks.spawn(self.admission.clone().look_loop(ended.clone()));
        tasks.spawn(self.engine_watch().look_loop(ended.clone()));
        let reconciler = Reconciler {
            tools: self.tools.clone(),
            slots: self.slots.clone(),
            leases: self.leases.clone(),
            roster: self.roster.clone(),
            every: self.setup.config.reconcile,
        };
        tasks.spawn(reconciler.reconcile_loop(ended.clone()));
        let warm_up = WarmUp::of(&self.tools, ended.clone());
        tasks.spawn(warm_up.warm_loop());
        tasks.spawn(maintenance::maintain_loop(self.tools.git.clone(), self.setup.git.maintenance, ended.clone()));
        tasks.spawn(self.tools.containers.clone().purge_loop(ended.clone()));
        tasks.spawn(self.tools.containers.clone().tend_loop(self.job_dirs(), ended.clone()));
        tasks.close();
        tasks
    }
}

/// Stops what runs when draining takes too long, or when that is asked for.
async fn stop_jobs(leases: Leases, shutdown: Shutdown, grace: Duration) {
    shutdown.drain.cancelled().await;
    tokio::select! {
        () = tokio::time::sleep(grace) => warn!("jobs still run after {grace:?}; stopping them"),
        () = shutdown.abort.cancelled() => info!("stopping the jobs that still run"),
    }
    leases.stop_all(&StopReason::Shutdown);
}

/// The containers of jobs that were taken up, by their names.
fn lodged(adopted: &[Assigned]) -> BTreeSet<String> {
    adopted.iter().filter_map(|job| Some(lodging(job.slot.dir())?.name)).collect()
}

/// These slots, and those that an earlier daemon has left.
fn with_those_on_disk(slots: &[SlotDir], state: &StateDir) -> std::io::Result<Vec<SlotDir>> {
    let found = state.slots()?.into_iter().filter(|slot| !slots.contains(slot));
    Ok(slots.iter().cloned().chain(found).collect())
}

/// Starts the supervisors of all slots, or of none: where one cannot be had, those that have nothing to do are ended again.
async fn launch_all(supervisors: &SupervisorSetup, slots: &[SlotDir]) -> Result<(), SandboxError> {
    let launches: Vec<_> = slots.iter().map(|slot| supervisors.of(slot)).collect();
    let launched = join_all(launches.iter().map(Supervisor::launch)).await;
    let failed = launched.iter().any(Result::is_err);
    for supervisor in launched.iter().flatten().filter(|_| failed) {
        if !matches!(supervisor.status().await, Ok(Status::Running { .. }))
            && let Err(error) = supervisor.clone().shutdown().await
        {
            warn!("{error}");
        }
    }
    launched.into_iter().try_for_each(|result| result.map(drop))
}

/// Moves trees to the trash with which no job will begin.
fn drop_recycled<'a>(state: &StateDir, slots: impl Iterator<Item = &'a SlotDir>) {
    for slot in slots {
        if let Err(error) = state.trash().take(&slot.recycled()) {
            warn!("a tree with which no job will begin stays: {error}");
        }
    }
}

/// Moves the directories of slots to the trash that are no slots any more. One that could not be cleared stays, and is looked after by
/// who reconciles.
fn discard(state: &StateDir, slots: &[&SlotDir]) {
    for slot in slots.iter().filter(|slot| slot.is_empty()) {
        match state.trash().take(slot.root()) {
            Ok(()) => info!("slot {} is no slot any more; its directory is removed", slot.number()),
            Err(error) => warn!("the directory of slot {}, which is no slot any more, stays: {error}", slot.number()),
        }
    }
}

async fn close_supervisor(slot: &SlotDir) {
    let closed = match Supervisor::attach(&slot.supervisor()).await {
        Ok(Some(supervisor)) => supervisor.shutdown().await,
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    if let Err(error) = closed {
        warn!("cannot end the supervisor of slot {}; it ends itself: {error}", slot.number());
    }
}
