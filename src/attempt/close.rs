//! The closing of an attempt, which always runs: processes ended, work salvaged, log shipped, end on record, slot cleared.

use std::path::PathBuf;

use tracing::{error, info, warn};

use super::Ended;
use super::carry;
use super::egress::Egress;
use super::execute;
use super::halt::{Halt, chain};
use super::keep;
use super::open::Attempt;
use super::place::{Lodged, Processes};
use super::stop::StopReason;
use super::withdraw::Withdrawal;
use crate::git::{SalvagePush, Worktree};
use crate::ids::ObjectId;
use crate::job::spec::Keep;
use crate::job::{Claim, Completion, JobState, OutcomeClass, Stage};
use crate::sandbox::{Refusal, SandboxError, Status, Supervisor};
use crate::store::Finish;
use crate::workspace::{Kept, Salvage, SlotDir, StateDir};

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
        if !self.journal.phase.is_executed() {
            // It was stopped, or lost what it ran in, before anybody heard its last word on what it used: that is paid for.
            self.hear_usage().await;
        }
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
        let mut remains = Remains::of(&self);
        let withdrawal = Withdrawal::of(&self);
        let ended = match outcome {
            Some(outcome) if !lost => self.record_end(outcome, completion, salvage).await,
            _ => Ended::Lost,
        };
        if let Some(withdrawal) = withdrawal {
            withdrawal.after(&ended).await;
        }
        remains.collect().await;
        if let (Some(pending), Ended::Recorded(job)) = (pending, &ended)
            && job.state == JobState::Succeeded
        {
            pending.save().await;
        }
        let certain = processes == Processes::Ended && matches!(ended, Ended::Recorded(_));
        remains.leave(class, if certain { Trust::Certain } else { Trust::None }, &ended).await;
        ended
    }

    /// Goes on with the closing of an attempt whose end the daemon before this one could not put on record.
    pub(super) async fn conclude(self, end: Finish) -> Ended {
        let (mut remains, class) = (Remains::of(&self), end.outcome.class);
        let withdrawal = Withdrawal::of(&self);
        let ended = self.put_on_record(end).await;
        if let Some(withdrawal) = withdrawal {
            withdrawal.after(&ended).await;
        }
        remains.collect().await;
        remains.leave(class, Trust::None, &ended).await;
        ended
    }

    async fn hear_usage(&mut self) {
        if let Err(halt) = execute::hear_usage(self).await {
            error!("job {}: {}", self.claimed.claim.job, message_of(&halt));
        }
    }

    /// Takes the caches out of the tree, unless somebody may be at work in it, who could lead elsewhere what is moved; answers what of them
    /// is still there, where that can be told.
    async fn take_out_caches(&self, processes: Processes) -> Option<Vec<PathBuf>> {
        let taken = if processes == Processes::Ended { carry::take_out(self).await } else { carry::left_in(self).await };
        taken.inspect_err(|halt| error!("job {}: {}", self.claimed.claim.job, message_of(halt))).ok()
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
}

fn message_of(halt: &Halt) -> String {
    halt.outcome().map_or_else(String::new, |outcome| outcome.message)
}

/// Whether a job's tree is nobody's any more with certainty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trust {
    Certain,
    None,
}

/// What there is of an attempt beside its end: commands that its supervisors know, a container, and its slot.
struct Remains {
    supervisor: Supervisor,
    commands: Vec<String>,
    lodged: Option<Lodged>,
    place: Place,
}

impl Remains {
    fn of(attempt: &Attempt) -> Self {
        Self {
            supervisor: attempt.supervisor.clone(),
            commands: execute::command_ids(attempt),
            lodged: attempt.lodged(),
            place: Place::of(attempt),
        }
    }

    async fn collect(&mut self) {
        collect(&self.supervisor, &self.commands).await;
        if let Some(lodged) = self.lodged.take() {
            collect(&lodged.supervisor(), &self.commands).await;
            lodged.leave();
        }
    }

    /// Leaves the slot to whoever is next: the next attempt, or the daemon that puts this one's end on record.
    async fn leave(self, class: OutcomeClass, trust: Trust, ended: &Ended) {
        if !matches!(ended, Ended::Unrecorded) {
            self.place.leave(class, trust).await;
        }
    }
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
