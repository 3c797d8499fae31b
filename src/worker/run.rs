//! Running one claimed job in its slot.

use std::convert::Infallible;
use std::sync::Arc;

use tracing::error;

use super::claims::Assigned;
use super::slots::SupervisorSetup;
use crate::attempt::{self, Assignment, Tools};
use crate::job::{Outcome, OutcomeClass};
use crate::sandbox::Supervisor;

/// What running jobs takes.
#[derive(Clone)]
pub(super) struct Runner {
    pub(super) tools: Arc<Tools>,
    pub(super) supervisors: SupervisorSetup,
}

impl Runner {
    /// Runs a claimed job to its end. Nothing that happens in it comes out of here: a panic is that attempt's failure, and
    /// its lease then runs out.
    pub(super) async fn run(self, assigned: Assigned) -> Result<(), Infallible> {
        let Assigned { claimed, slot, lease } = assigned;
        let (job, tools) = (claimed.claim.job, self.tools.clone());
        let stop = lease.stop();
        // A task of its own, so that jobs run on all cores and a panic ends here.
        let running = tokio::spawn(async move {
            let launch = self.supervisors.of(slot.dir());
            match Supervisor::launch(&launch).await {
                Ok(supervisor) => {
                    let dir = slot.dir().clone();
                    attempt::run(Assignment { tools, claimed, slot: dir, supervisor, launch, stop }).await
                }
                Err(error) => {
                    let message = format!("slot {} has no supervisor: {error}", slot.dir().number());
                    attempt::refuse(&tools.store, &claimed.claim, &stop, Outcome::new(OutcomeClass::Infrastructure, message))
                        .await
                }
            };
            drop(lease);
            drop(slot);
        });
        if let Err(panic) = running.await {
            error!(job.id = %job, "running job {job} panicked: {panic}; please report it as a defect");
        }
        Ok(())
    }
}
