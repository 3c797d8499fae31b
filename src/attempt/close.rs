//! The closing of an attempt, which always runs: processes ended, work salvaged, log shipped, end on record, slot cleared.

use std::path::PathBuf;
use std::time::Duration;

use tracing::{error, info, warn};

use super::Ended;
use super::carry;
use super::egress::Egress;
use super::execute;
use super::halt::{Halt, chain};
use super::keep;
use super::open::Attempt;
use super::place::Processes;
use super::stop::{Stop, StopReason};
use crate::git::{SalvagePush, Worktree};
use crate::ids::ObjectId;
use crate::job::spec::Keep;
use crate::job::{Claim, Completion, JobState, LogVerdict, Outcome, OutcomeClass, Stage};
use crate::logs::LogsError;
use crate::sandbox::{Refusal, SandboxError, Status, Supervisor};
use crate::store::{CredentialNews, Finish, Store, StoreError};
use crate::workspace::{Kept, Salvage, SlotDir, StateDir};

/// The first wait before the end is written again to a database that is away, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

impl Attempt {
    /// Closes the attempt. Nothing here has the pipeline's `?`: each step is tried whatever became of the one before.
    pub(super) async fn close(mut self, result: Result<Completion, Halt>) -> Ended {
        let delivered = result.is_ok();
        let (outcome, completion) = match result {
            Ok(completion) => (Some(completion.outcome.clone()), Some(completion)),
            Err(halt) => (halt.outcome(), None),
        };
        let class = outcome.as_ref().map_or(OutcomeClass::LeaseLost, |outcome| outcome.class);
        let detail = outcome.as_ref().filter(|_| !delivered).map(|outcome| outcome.message.clone());
        self.stages.end(class, detail, self.now());

        self.stages.enter(Stage::Cleanup, self.now());
        let processes = self.end_processes().await;
        if let Some(refused) = self.egress.take().and_then(Egress::close) {
            self.say(&refused);
        }
        // Nothing of a cache is salvaged; nor is it kept with a worktree, where it can be taken out of it.
        let caches = self.take_out_caches(processes).await;
        let salvage = match class {
            _ if delivered => None,
            OutcomeClass::OutOfDisk => {
                // Nor is it to fill the mirror's disk, and the remote's.
                self.say("what it left is not salvaged: it is more than a job may have");
                None
            }
            _ => self.salvage(caches).await,
        };
        if !delivered {
            if processes == Processes::Ended {
                carry::put_back(&self).await;
            }
            keep::left(&mut self, class, salvage.as_ref()).await;
            self.take_out_caches(processes).await;
        }
        if let Some(outcome) = &outcome {
            self.say(&outcome.to_string());
        }
        let pending = completion.as_ref().and_then(|completion| carry::pending(&self, &completion.base, processes));
        let lost = outcome.is_none() || self.stop.reason() == Some(StopReason::LeaseLost);
        let place = Place::of(&self);
        let (supervisor, commands, lodged) = (self.supervisor.clone(), execute::command_ids(&self), self.lodged());
        let ended = match outcome {
            Some(outcome) if !lost => self.record_end(outcome, completion, salvage).await,
            _ => Ended::Lost,
        };
        collect(&supervisor, &commands).await;
        if let Some(lodged) = lodged {
            collect(&lodged.supervisor(), &commands).await;
            lodged.leave();
        }
        if let (Some(pending), Ended::Recorded(job)) = (pending, &ended)
            && job.state == JobState::Succeeded
        {
            pending.save().await;
        }
        let certain = processes == Processes::Ended && !matches!(ended, Ended::Lost);
        place.leave(class, if certain { Trust::Certain } else { Trust::None }).await;
        ended
    }

    /// Takes the caches out of the tree, unless somebody may be at work in it, who could lead elsewhere what is moved; answers what of them
    /// is still there, where that can be told.
    async fn take_out_caches(&self, processes: Processes) -> Option<Vec<PathBuf>> {
        let taken = if processes == Processes::Ended { carry::take_out(self).await } else { carry::left_in(self).await };
        let said = |halt: &Halt| halt.outcome().map_or_else(String::new, |outcome| outcome.message);
        taken.inspect_err(|halt| error!("job {}: {}", self.claimed.claim.job, said(halt))).ok()
    }

    /// Salvages what is in the tree beside `caches`; where it is not known what those are, the workspace is kept.
    async fn salvage(&self, caches: Option<Vec<PathBuf>>) -> Option<ObjectId> {
        let push = match self.tools.workspace.salvage {
            Salvage::Remote => SalvagePush::Remote,
            Salvage::Mirror => SalvagePush::Local,
        };
        let claim = &self.claimed.claim;
        let worktree = Worktree::open(&self.tools.git, self.slot_root()).ok()?;
        let Some(caches) = caches else {
            self.say("cannot salvage what was left: the caches in the worktree cannot be told from it");
            Place::of(self).keep().await;
            return None;
        };
        let worktree = worktree.keeping_out(caches);
        let salvaging = worktree.salvage(claim.job, claim.attempt, push);
        match tokio::time::timeout(self.tools.config.close_timeout, salvaging).await {
            Ok(Ok(found)) => {
                if let Some(commit) = &found {
                    self.say(&format!("salvaged what was left as {commit}"));
                }
                found
            }
            Ok(Err(error)) => {
                error!("cannot salvage job {}: {}", claim.job, chain(&error));
                self.say(&format!("cannot salvage what was left: {}", chain(&error)));
                Place::of(self).keep().await;
                None
            }
            Err(_) => {
                error!("salvaging job {} took too long", claim.job);
                Place::of(self).keep().await;
                None
            }
        }
    }

    async fn record_end(self, outcome: Outcome, completion: Option<Completion>, salvage: Option<ObjectId>) -> Ended {
        let credential = self.credential_news(&outcome);
        let limited = matches!(credential, Some(CredentialNews::Limited { .. }));
        let Self { tools, claimed, journal, mut stages, spool, shipper, stop, .. } = self;
        let shipped = shipper.position();
        let log = match shipper.drain(tools.config.close_timeout).await {
            Ok(verdict) => verdict,
            Err(LogsError::LeaseLost { .. }) => return Ended::Lost,
            Err(error) => {
                warn!("the log of job {} is not whole: {}", claimed.claim.job, chain(&error));
                match error {
                    LogsError::DrainDeadline { verdict, .. } => verdict,
                    _ => LogVerdict::Gap { from: shipped, to: spool.written().max(shipped) },
                }
            }
        };
        stages.enter(Stage::Complete, tools.store.now());
        stages.end(OutcomeClass::Succeeded, None, tools.store.now());
        let finish = Finish {
            outcome,
            resources: journal.resources,
            stages: stages.records().to_vec(),
            log,
            salvage,
            completion,
            not_before: None,
            usage: journal.usage,
            credential,
        };
        let ended = record(&tools.store, &claimed.claim, finish, &stop).await;
        if limited {
            // Before the slot is free: or the next job would be claimed for the same credential.
            match tools.store.pauses().await {
                Ok(pauses) => tools.pauses.hear(pauses, tools.store.now()),
                Err(error) => warn!("cannot look for paused credentials yet: {}", chain(&error)),
            }
        }
        ended
    }

    /// What the attempt has found out about its backend's credential.
    fn credential_news(&self, outcome: &Outcome) -> Option<CredentialNews> {
        let credential = self.backend.credential().to_owned();
        match (outcome.class, self.limited) {
            (OutcomeClass::UsageLimit, Some(retry_at)) => Some(CredentialNews::Limited { credential, retry_at }),
            // Only where a pause is on record is there something to say.
            (class, _)
                if (self.journal.phase.is_executed() || class == OutcomeClass::Clarification)
                    && self.tools.pauses.has(&credential) =>
            {
                Some(CredentialNews::Works { credential })
            }
            _ => None,
        }
    }
}

/// Whether a job's tree is nobody's any more with certainty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trust {
    Certain,
    None,
}

/// The slot of an attempt, which outlives the attempt by what becomes of its files.
struct Place {
    state: StateDir,
    slot: SlotDir,
    claim: Claim,
    keep: Keep,
}

impl Place {
    fn of(attempt: &Attempt) -> Self {
        Self {
            state: attempt.tools.state.clone(),
            slot: attempt.slot.clone(),
            claim: attempt.claimed.claim.clone(),
            keep: attempt.claimed.job.spec.workspace.keep.unwrap_or(attempt.tools.workspace.keep),
        }
    }

    /// Leaves the slot for the next attempt: empty, but for a tree with which that may begin.
    async fn leave(&self, class: OutcomeClass, trust: Trust) {
        // Who cancelled it, or stopped the worker, does not ask what went wrong.
        let failed = !matches!(
            class,
            OutcomeClass::Succeeded
                | OutcomeClass::Cancelled
                | OutcomeClass::Released
                | OutcomeClass::LeaseLost
                | OutcomeClass::UsageLimit
                | OutcomeClass::Clarification
        );
        if self.keep == Keep::Always || (self.keep == Keep::OnFailure && failed) {
            self.keep().await;
        }
        let ended_well = matches!(
            class,
            OutcomeClass::Succeeded
                | OutcomeClass::NoChange
                | OutcomeClass::Backend
                | OutcomeClass::Gate
                | OutcomeClass::Conflict
        );
        if trust == Trust::Certain
            && ended_well
            && let Err(error) = self.slot.set_aside(&self.state.trash())
        {
            warn!("the tree in slot {} cannot be used again: {error}", self.slot.number());
        }
        if let Err(error) = self.slot.clear(&self.state.trash()) {
            error!("cannot clear slot {}: {error}", self.slot.number());
        }
    }

    async fn keep(&self) {
        let (kept, slot) = (Kept::new(self.state.kept(), self.state.trash()), self.slot.clone());
        let of = Some((self.claim.job, self.claim.attempt));
        match tokio::task::spawn_blocking(move || kept.keep(&slot, of)).await {
            Ok(Ok(place)) => info!("the workspace of job {} is kept at {}", self.claim.job, place.display()),
            Ok(Err(error)) => error!("the workspace of job {} cannot be kept: {error}", self.claim.job),
            Err(_) => error!("keeping the workspace of job {} panicked; please report it as a defect", self.claim.job),
        }
    }
}

/// Lets the supervisor forget the attempt's commands. Until here their will was in force, and a daemon that took the attempt
/// up would have judged it by their reports.
async fn collect(supervisor: &Supervisor, commands: &[String]) {
    for id in commands {
        match supervisor.collect(id).await {
            // It was never started, or is forgotten with its supervisor.
            Ok(()) | Err(SandboxError::Refused { refusal: Refusal::Unknown { .. }, .. } | SandboxError::Gone { .. }) => {}
            Err(error) => warn!("cannot collect the report of command {id}: {error}"),
        }
    }
}

/// Ends the command that a supervisor runs. One that found its daemon gone does its will first, and is waited for: what it salvages
/// by that is not to be salvaged, nor moved away, at the same time.
pub(super) async fn end_command(supervisor: &Supervisor) -> Result<(), SandboxError> {
    if let Status::Running { id, .. } = supervisor.status().await? {
        supervisor.stop(&id).await?;
        supervisor.wait(&id).await?;
    }
    supervisor.let_leave().await
}

/// Writes an attempt's end under its claim, for as long as it takes: until it is written, or the claim is lost.
pub(super) async fn record(store: &Store, claim: &Claim, finish: Finish, stop: &Stop) -> Ended {
    let (mut wait, mut tried) = (RETRY.0, false);
    loop {
        match store.finish(claim, finish.clone()).await {
            Ok(job) => return Ended::Recorded(Box::new(job)),
            // The answer to an earlier try may be what was lost.
            Err(StoreError::LeaseLost) if tried && is_on_record(store, claim, &finish.outcome).await => {
                return store.job(claim.job).await.map_or(Ended::Lost, |job| Ended::Recorded(Box::new(job)));
            }
            Err(StoreError::LeaseLost) => return Ended::Lost,
            Err(error) if error.is_transient() => warn!("cannot record the end of job {} yet: {}", claim.job, chain(&error)),
            // Tried again all the same: the lease bounds it, and losing a result to an odd error would be worse.
            Err(error) => error!("cannot record the end of job {}: {}", claim.job, chain(&error)),
        }
        tried = true;
        tokio::select! {
            () = tokio::time::sleep(wait) => wait = (wait * 2).min(RETRY.1),
            () = stop.lease_lost() => return Ended::Lost,
        }
    }
}

/// Whether this very end of the attempt is on record already.
async fn is_on_record(store: &Store, claim: &Claim, outcome: &Outcome) -> bool {
    let attempts = store.attempts(claim.job).await.unwrap_or_default();
    attempts.iter().any(|found| found.attempt == claim.attempt && found.outcome.as_ref() == Some(outcome))
}
