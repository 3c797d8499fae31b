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
use crate::job::{Outcome, OutcomeClass};
use crate::sandbox::{Launch, Supervisor};

/// How long a slot that is broken stays so before it is tried again.
const MEND: Duration = Duration::from_secs(5);

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
        match Supervisor::launch(&launch).await {
            Ok(supervisor) => {
                let (tools, dir) = (self.tools.clone(), slot.dir().clone());
                let (stop, moved) = (lease.stop(), lease.moved());
                attempt::run(Assignment { tools, claimed, slot: dir, supervisor, launch, stop, moved, stage }).await;
                drop(lease);
            }
            Err(error) => {
                let message = format!("slot {} has no supervisor: {error}", slot.dir().number());
                entry.broken(message.clone(), self.tools.store.now());
                let outcome = Outcome::new(OutcomeClass::Infrastructure, message);
                attempt::refuse(&self.tools.store, &claimed.claim, &lease.stop(), outcome).await;
                drop(lease);
                self.mend(&launch, slot.dir().number()).await;
            }
        }
        self.janitor.make_room().await;
        drop(entry);
        drop(slot);
    }

    /// Holds a slot until it has a supervisor: no job is claimed for it meanwhile, only to be failed.
    async fn mend(&self, launch: &Launch, number: u32) {
        error!("slot {number} cannot be used; it is tried again every {MEND:?}");
        while self.draining.run_until_cancelled(tokio::time::sleep(MEND)).await.is_some() {
            match Supervisor::launch(launch).await {
                Ok(_) => return info!("slot {number} can be used again"),
                Err(error) => debug!("slot {number} still has no supervisor: {error}"),
            }
        }
    }
}
