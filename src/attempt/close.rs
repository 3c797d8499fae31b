//! The closing of an attempt, which always runs: processes ended, work salvaged, log shipped, end on record, slot cleared.

use std::time::Duration;

use tracing::{debug, error, warn};

use super::Ended;
use super::halt::{Halt, chain};
use super::open::Attempt;
use super::stop::{Stop, StopReason};
use crate::git::{SalvagePush, Worktree};
use crate::ids::ObjectId;
use crate::job::spec::Keep;
use crate::job::{Claim, Completion, LogVerdict, Outcome, OutcomeClass, Stage};
use crate::logs::LogsError;
use crate::sandbox::{Status, Supervisor};
use crate::store::{Finish, Store, StoreError};
use crate::workspace::{Kept, Salvage};

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
        end_processes(&self.supervisor).await;
        let salvage = if delivered { None } else { self.salvage().await };
        if let Some(outcome) = &outcome {
            self.say(&outcome.to_string());
        }
        let lost = outcome.is_none() || self.stop.reason() == Some(StopReason::LeaseLost);
        let ended = match outcome {
            Some(outcome) if !lost => self.record_end(outcome, completion, salvage).await,
            _ => Ended::Lost,
        };
        self.leave_slot(delivered);
        ended
    }

    async fn salvage(&self) -> Option<ObjectId> {
        let push = match self.tools.workspace.salvage {
            Salvage::Remote => SalvagePush::Remote,
            Salvage::Mirror => SalvagePush::Local,
        };
        let claim = &self.claimed.claim;
        let worktree = Worktree::open(&self.tools.git, self.slot_root()).ok()?;
        let salvaging = worktree.salvage(claim.job, claim.attempt, push);
        match tokio::time::timeout(self.tools.config.close_timeout, salvaging).await {
            Ok(Ok(found)) => {
                if let Some(commit) = &found {
                    self.say(&format!("salvaged what was left as {commit}"));
                }
                found
            }
            Ok(Err(error)) => {
                error!("cannot salvage job {}: {}; its slot is kept", claim.job, chain(&error));
                self.say(&format!("cannot salvage what was left: {}", chain(&error)));
                self.keep();
                None
            }
            Err(_) => {
                error!("salvaging job {} took too long; its slot is kept", claim.job);
                self.keep();
                None
            }
        }
    }

    async fn record_end(&mut self, outcome: Outcome, completion: Option<Completion>, salvage: Option<ObjectId>) -> Ended {
        let shipped = self.shipper.position();
        let log = match self.shipper.drain(self.tools.config.close_timeout).await {
            Ok(verdict) => verdict,
            Err(LogsError::LeaseLost { .. }) => return Ended::Lost,
            Err(error) => {
                warn!("the log of job {} is not whole: {}", self.claimed.claim.job, chain(&error));
                match error {
                    LogsError::DrainDeadline { verdict, .. } => verdict,
                    _ => LogVerdict::Gap { from: shipped, to: self.spool.length().max(shipped) },
                }
            }
        };
        self.stages.enter(Stage::Complete, self.now());
        self.stages.end(OutcomeClass::Succeeded, None, self.now());
        let finish = Finish {
            outcome,
            resources: self.journal.resources,
            stages: self.stages.records().to_vec(),
            log,
            salvage,
            completion,
            not_before: None,
        };
        record(&self.tools.store, &self.claimed.claim, finish, &self.stop).await
    }

    fn leave_slot(&self, delivered: bool) {
        let keep = self.claimed.job.spec.workspace.keep.unwrap_or(self.tools.workspace.keep);
        if keep == Keep::Always || (keep == Keep::OnFailure && !delivered) {
            self.keep();
        }
        if let Err(error) = self.slot.clear(&self.tools.state.trash()) {
            error!("cannot clear slot {}: {error}", self.slot.number());
        }
    }

    fn keep(&self) {
        let claim = &self.claimed.claim;
        match Kept::new(self.tools.state.kept()).keep(&self.slot, claim.job, claim.attempt) {
            Ok(place) => warn!("the workspace of job {} is kept at {}", claim.job, place.display()),
            Err(error) => debug!("the workspace of job {} cannot be kept: {error}", claim.job),
        }
    }
}

/// Makes sure that no process of the attempt lives.
async fn end_processes(supervisor: &Supervisor) {
    let ended = match supervisor.status().await {
        Ok(Status::Running { id, .. }) => match supervisor.stop(&id).await {
            Ok(()) => supervisor.wait(&id).await.map(drop),
            Err(error) => Err(error),
        },
        Ok(Status::Idle | Status::Ended { .. }) => Ok(()),
        Err(error) => Err(error),
    };
    if let Err(error) = ended {
        // A supervisor that is gone has taken its processes with it, or the worker finds them by their mark.
        warn!("cannot make sure that the job's processes have ended: {error}");
    }
}

/// Writes an attempt's end under its claim, for as long as it takes: until it is written, or the claim is lost.
pub(super) async fn record(store: &Store, claim: &Claim, finish: Finish, stop: &Stop) -> Ended {
    let mut wait = RETRY.0;
    loop {
        match store.finish(claim, finish.clone()).await {
            Ok(job) => return Ended::Recorded(Box::new(job)),
            Err(StoreError::LeaseLost) => return Ended::Lost,
            Err(error) if error.is_transient() => warn!("cannot record the end of job {} yet: {}", claim.job, chain(&error)),
            // Tried again all the same: the lease bounds it, and losing a result to an odd error would be worse.
            Err(error) => error!("cannot record the end of job {}: {}", claim.job, chain(&error)),
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => wait = (wait * 2).min(RETRY.1),
            () = stop.lease_lost() => return Ended::Lost,
        }
    }
}
