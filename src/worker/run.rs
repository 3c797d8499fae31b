//! Running one claimed job in its slot.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info};

use super::board::Board;
use super::claims::Assigned;
use super::janitor::Janitor;
use super::slots::SupervisorSetup;
use crate::attempt::{self, Assignment, Tools};
use crate::job::{Claim, Outcome, OutcomeClass};
use crate::sandbox::{Launch, Supervisor};
use crate::workspace::SlotDir;

/// How long a slot that is broken stays so before it is tried again: at first, and at most.
const MEND: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// What running jobs takes.
#[derive(Clone)]
pub(super) struct Runner {
    pub(super) tools: Arc<Tools>,
    pub(super) supervisors: SupervisorSetup,
    pub(super) board: Board,
    pub(super) janitor: Janitor,
    pub(super) draining: CancellationToken,
}

impl Runner {
    /// Runs a claimed job to its end. Nothing that happens in it comes out of here: a panic is that attempt's failure, and
    /// its lease then runs out.
    pub(super) async fn run(self, assigned: Assigned) -> Result<(), Infallible> {
        let job = assigned.claimed.claim.job;
        // A task of its own, so that jobs run on all cores and a panic ends here.
        if let Err(panic) = tokio::spawn(self.run_in_slot(assigned)).await {
            error!(job.id = %job, "running job {job} panicked: {panic}; please report it as a defect");
        }
        Ok(())
    }

    async fn run_in_slot(self, Assigned { claimed, slot, lease }: Assigned) {
        let (entry, stage) = self.board.occupy(slot.dir().number(), &claimed);
        let launch = self.supervisors.of(slot.dir());
        match self.ready(&launch, slot.dir(), Some(&claimed.claim)).await {
            Ok(supervisor) => {
                let (tools, dir) = (self.tools.clone(), slot.dir().clone());
                let (stop, moved) = (lease.stop(), lease.moved());
                attempt::run(Assignment { tools, claimed, slot: dir, supervisor, launch, stop, moved, stage }).await;
                drop(lease);
            }
            Err(why) => {
                let since = self.tools.store.now();
                entry.broken(why.clone(), since);
                error!("{why}; it takes no jobs until that is mended, which is tried again and again");
                // It has begun nothing, and is for another slot.
                let outcome = Outcome::new(OutcomeClass::Released, why);
                attempt::refuse(&self.tools.store, &claimed.claim, &lease.stop(), outcome).await;
                drop(lease);
                self.mend(&launch, slot.dir(), |why| entry.broken(why, since)).await;
            }
        }
        self.janitor.make_room().await;
        drop(entry);
        drop(slot);
    }

    /// Has a slot in order, with its supervisor. The error says of which slot what is missing.
    async fn ready(&self, launch: &Launch, slot: &SlotDir, own: Option<&Claim>) -> Result<Supervisor, String> {
        let number = slot.number();
        let launched = Supervisor::launch(launch).await;
        let supervisor = launched.map_err(|error| format!("slot {number} has no supervisor: {error}"))?;
        let ready = attempt::make_ready(&self.tools, slot, own).await;
        ready.map_err(|error| format!("slot {number} cannot be cleared: {error}"))?;
        Ok(supervisor)
    }

    /// Holds a slot until it is in order: no job is claimed for it meanwhile, only to be given back. `still` hears why it is not.
    async fn mend(&self, launch: &Launch, slot: &SlotDir, still: impl Fn(String)) {
        let mut wait = MEND.0;
        while self.draining.run_until_cancelled(tokio::time::sleep(wait)).await.is_some() {
            match self.ready(launch, slot, None).await {
                Ok(_) => return info!("slot {} can be used again", slot.number()),
                Err(why) => {
                    debug!("{why}; it is tried again");
                    still(why);
                }
            }
            wait = (wait * 2).min(MEND.1);
        }
    }
}
