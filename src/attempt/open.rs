//! Opening an attempt: fresh in an emptied slot, or where an earlier daemon left it.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::Ended;
use super::egress::Egress;
use super::environment;
use super::halt::{Halt, chain};
use super::journal::{Journal, Phase, SalvageContext, Used};
use super::moved::MovedDeadline;
use super::orphan::vacate;
use super::place::Place;
use super::record;
use super::stages::Stages;
use super::stop::Stop;
use super::tools::Tools;
use crate::clock::Timestamp;
use crate::git::Remote;
use crate::job::attempt::Resources;
use crate::job::spec::Gate;
use crate::job::time_limit::{LimitMode, TimeLimit};
use crate::job::{Claim, ClaimedJob, Deadline, LogVerdict, Outcome, OutcomeClass, Stage};
use crate::logs::{Shipment, Shipper, Spool};
use crate::redact::Redactor;
use crate::sandbox::{Launch, Supervisor};
use crate::store::{Finish, Store};
use crate::workspace::SlotDir;

/// A claim with what it takes to act on it.
pub struct Assignment {
    /// What all attempts share.
    pub tools: Arc<Tools>,
    /// The claim and its job.
    pub claimed: ClaimedJob,
    /// The slot's files, which [`make_ready`] made ready.
    pub slot: SlotDir,
    /// The slot's supervisor on the host.
    pub supervisor: Supervisor,
    /// How that was started, and another is when it dies.
    pub launch: Launch,
    /// Hears when the attempt is to stop.
    pub stop: Stop,
    /// Hears when its deadline is moved.
    pub moved: MovedDeadline,
    /// Is told which stage the attempt is in, for who looks at the slot.
    pub stage: watch::Sender<Option<Stage>>,
}

/// An attempt under way.
pub(super) struct Attempt {
    pub(super) tools: Arc<Tools>,
    pub(super) claimed: ClaimedJob,
    pub(super) slot: SlotDir,
    pub(super) supervisor: Supervisor,
    pub(super) launch: Launch,
    pub(super) stop: Stop,
    pub(super) moved: MovedDeadline,
    /// How long it may take from the claim on, unless its deadline is moved.
    timeout: Duration,
    pub(super) remote: Remote,
    pub(super) backend: crate::backends::Backend,
    /// Takes its secrets out of what leaves it.
    pub(super) redactor: Redactor,
    pub(super) journal: Journal,
    /// Where the backend met a usage limit: when that is reset, if it is known.
    pub(super) limited: Option<Option<Timestamp>>,
    /// The way out of its container, where it has one.
    pub(super) egress: Option<Egress>,
    pub(super) stages: Stages,
    pub(super) spool: Spool,
    pub(super) shipper: Shipper,
}

/// An attempt that could not be opened.
pub(super) struct Unopened {
    assignment: Assignment,
    outcome: Outcome,
}

impl Assignment {
    pub(super) async fn open(self) -> Result<Attempt, Unopened> {
        let job = &self.claimed.job;
        let backend_name = job.spec.backend.clone().unwrap_or_default();
        let Some(backend) = self.tools.backends.get(&backend_name).cloned() else {
            let message = format!("this worker has no backend {backend_name:?}");
            return Err(Unopened { assignment: self, outcome: Outcome::new(OutcomeClass::Infrastructure, message) });
        };
        let remote = match job.repo.parse::<Remote>() {
            Ok(remote) => remote,
            Err(error) => {
                let outcome = Outcome::new(OutcomeClass::Invalid, error.to_string());
                return Err(Unopened { assignment: self, outcome });
            }
        };
        let (mut journal, spool) = match self.open_slot() {
            Ok(opened) => opened,
            Err(message) => {
                let outcome = Outcome::new(OutcomeClass::Infrastructure, message);
                return Err(Unopened { assignment: self, outcome });
            }
        };
        let Self { tools, claimed, slot, supervisor, launch, stop, moved, stage } = self;
        let timeout = match claimed.job.spec.timeout.or(backend.timeout()) {
            Some(set) => set,
            None => learnt(&tools, &claimed, &mut journal, &spool).await.unwrap_or(tools.config.timeout),
        };
        let redactor = environment::redactor(&tools, &claimed.job, &backend);
        Ok(Attempt {
            stages: Stages::resume(&tools.store, &claimed.claim, journal.stages.clone(), stage),
            shipper: Shipper::start(Shipment {
                store: tools.store.clone(),
                claim: claimed.claim.clone(),
                spool: spool.clone(),
                redactor: redactor.clone(),
                config: tools.logs.clone(),
                cancel: CancellationToken::new(),
            }),
            tools,
            claimed,
            slot,
            supervisor,
            launch,
            stop,
            moved,
            timeout,
            remote,
            backend,
            redactor,
            journal,
            limited: None,
            egress: None,
            spool,
        })
    }

    /// Opens the slot, which is ready: as an earlier daemon left it when its journal is of this very claim, else empty.
    fn open_slot(&self) -> Result<(Journal, Spool), String> {
        if let Some(journal) = Journal::read(&self.slot.journal()).map_err(|error| chain(&error))? {
            let spool = Spool::open(&self.slot.run()).map_err(|error| chain(&error))?;
            return Ok((journal, spool));
        }
        let journal = Journal {
            claim: self.claimed.claim.clone(),
            time_limit: None,
            phase: Phase::Preparing,
            stages: Vec::new(),
            answers: Vec::new(),
            previous: None,
            rejections: Vec::new(),
            revision: None,
            before: Used::default(),
            resources: Resources::default(),
            usage: None,
            left: None,
            place: None,
            ground: None,
            gates: None,
            said_before: 0,
            passed: Vec::new(),
            critiques: Vec::new(),
            artifacts: None,
            end: None,
            salvage: SalvageContext {
                git: self.tools.git_config.clone(),
                mirrors: self.tools.state.mirrors(),
                to: self.tools.workspace.salvage,
            },
        };
        let spool = Spool::create(&self.slot.run()).map_err(|error| chain(&error))?;
        journal.write(&self.slot.journal()).map_err(|error| chain(&error))?;
        Ok((journal, spool))
    }
}

/// Makes a slot ready: one in which the attempt under `own` was begun stays as it is; of any other everything is saved and cleared away.
///
/// # Errors
/// It cannot be cleared. No attempt can begin in it, and trying again comes to the same until somebody has mended that.
pub async fn make_ready(tools: &Tools, slot: &SlotDir, own: Option<&Claim>) -> io::Result<()> {
    match Journal::read(&slot.journal()) {
        Ok(Some(journal)) if Some(&journal.claim) == own => return Ok(()),
        Ok(None) => {}
        // An attempt in this slot ended without leaving it empty: it panicked, or the disk was full.
        Ok(Some(journal)) => {
            if let Some(Place::Container { container, .. }) = &journal.place {
                tools.containers.destroy(container).await;
            }
            vacate(slot, &tools.state, &tools.executable).await?;
        }
        Err(error) => {
            warn!("{}", chain(&error));
            vacate(slot, &tools.state, &tools.executable).await?;
        }
    }
    slot.reset(&tools.state.trash())
}

/// How long the attempt may take by how long those like it took, where that is wanted and known. The journal has it before the backend
/// is started, and one that is taken up then goes by the journal alone.
async fn learnt(tools: &Tools, claimed: &ClaimedJob, journal: &mut Journal, spool: &Spool) -> Option<Duration> {
    let fresh = matches!(journal.phase, Phase::Preparing) && journal.stages.is_empty();
    if journal.time_limit.is_none() && fresh && tools.config.adaptive.mode == LimitMode::On {
        match tools.store.learn_limit(&claimed.job, &tools.config.adaptive).await {
            Ok(limit) => journal.time_limit = limit,
            // It has the time that is for all.
            Err(error) => warn!("cannot learn how long job {} may take: {}", claimed.claim.job, chain(&error)),
        }
        if let Some(limit) = &journal.time_limit {
            spool.say(&format!("it may take {limit}"));
        }
    }
    journal.time_limit.as_ref().map(TimeLimit::limit)
}

impl Attempt {
    /// The moment, by the database's clock.
    pub(super) fn now(&self) -> Timestamp {
        self.tools.store.now()
    }

    /// The deadline, as it is now: it may be moved at any time.
    pub(super) fn deadline(&self) -> Deadline {
        let (start, reserve) = (self.claimed.claimed_at, self.tools.config.publish_reserve);
        match self.moved.at() {
            None => Deadline::new(start, self.timeout, reserve),
            Some(at) => Deadline::until(start, at, reserve),
        }
    }

    /// What judges its results.
    pub(super) fn gates(&self) -> &[Gate] {
        self.journal.gates.as_deref().unwrap_or(&self.claimed.job.spec.gates)
    }

    /// The directory of the attempt's files, as long as the slot is not cleared.
    pub(super) fn slot_root(&self) -> &Path {
        self.slot.root()
    }

    /// How often the backend has been told before now what was wrong with its work.
    pub(super) const fn round(&self) -> usize {
        self.journal.rejections.len()
    }

    /// Ends the pipeline when somebody asked for that.
    pub(super) fn check_stop(&self) -> Result<(), Halt> {
        self.stop.reason().map_or(Ok(()), |reason| Err(Halt::Stopped(reason)))
    }

    /// Goes on to the next phase, which is in the journal before anything of it is done.
    pub(super) fn enter(&mut self, phase: Phase) -> Result<(), Halt> {
        self.journal.phase = phase;
        self.journal.stages = self.stages.records().to_vec();
        self.journal
            .write(&self.slot.journal())
            .map_err(|error| Halt::infrastructure("the attempt cannot keep its journal", &error))
    }

    /// Says something in the job's own log, as the worker.
    pub(super) fn say(&self, line: &str) {
        self.spool.say(line);
    }
}

impl Unopened {
    /// Puts on record that the attempt could not even begin.
    pub(super) async fn give_back(self) -> Ended {
        let Self { assignment: Assignment { tools, claimed, stop, .. }, outcome } = self;
        warn!("attempt {} of job {} cannot begin: {}", claimed.claim.attempt, claimed.claim.job, outcome.message);
        refuse(&tools.store, &claimed.claim, &stop, outcome).await
    }
}

/// Puts the end of an attempt on record that has done nothing and has left nothing.
pub async fn refuse(store: &Store, claim: &Claim, stop: &Stop, outcome: Outcome) -> Ended {
    let finish = Finish {
        outcome,
        resources: Resources::default(),
        stages: Vec::new(),
        log: LogVerdict::Complete,
        salvage: None,
        completion: None,
        not_before: None,
        usage: None,
        credential: None,
    };
    record::refusal(store, claim, finish, stop).await
}
