//! What a daemon does with what an earlier one left in its slots: jobs that still run are taken up, the rest is salvaged and
//! cleared.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tracing::{error, info, warn};

use super::claims::{Assigned, give_back};
use super::leases::Leases;
use super::slots::Slots;
use crate::attempt::{Journal, Place, vacate};
use crate::clock::Timestamp;
use crate::ids::{JobId, WorkerId};
use crate::job::{Claim, ClaimedJob};
use crate::sandbox::Roster;
use crate::sandbox::container::Container;
use crate::store::{Renewal, Store, StoreError};
use crate::workspace::{SlotDir, StateDir};

/// What adopting takes.
pub(super) struct Adoption<'a> {
    pub(super) store: &'a Store,
    pub(super) worker: &'a WorkerId,
    pub(super) state: &'a StateDir,
    pub(super) slots: &'a Slots,
    pub(super) leases: &'a Leases,
    pub(super) lease: Duration,
    /// This program.
    pub(super) executable: &'a std::path::Path,
    /// The supervisors that hear from this daemon: those of all containers that slots name, until it is known which jobs go on.
    pub(super) roster: &'a Roster,
}

/// A claim that was renewed, with the deadline of its attempt where that was moved.
type Renewed = (ClaimedJob, Option<Timestamp>);

impl Adoption<'_> {
    /// Takes up every claim that this worker still holds and whose slot is as it left it. A claim without a slot is given
    /// back; a slot without a claim is salvaged and cleared, which may take its time: all claims are held by then.
    pub(super) async fn adopt(&self) -> Result<Vec<Assigned>, StoreError> {
        let slots = self.state.slots().unwrap_or_else(|error| {
            error!("cannot look for slots of an earlier daemon: {error}");
            Vec::new()
        });
        let (asked, mut held) = self.renewed(&slots).await?;
        let (mut adopted, mut left) = (Vec::new(), Vec::new());
        for dir in slots {
            match self.claim_of(&dir, &mut held) {
                Some(claimed) => adopted.extend(self.take_up(claimed, &dir, asked)),
                None => {
                    lodging(&dir).iter().for_each(|container| self.roster.remove(&container.dir));
                    left.push(dir);
                }
            }
        }
        for (claimed, _) in held.into_values() {
            warn!(job.id = %claimed.claim.job, "job {} was claimed and never begun; giving it back", claimed.claim.job);
            let lease = self.leases.hold(&claimed.claim, asked);
            give_back(self.store, &claimed.claim, &lease.stop()).await;
        }
        for dir in left {
            if let Err(error) = vacate(&dir, self.state, self.executable).await {
                error!("cannot clear slot {}: {error}", dir.number());
            }
        }
        Ok(adopted)
    }

    fn take_up(&self, (claimed, deadline): Renewed, dir: &SlotDir, asked: Instant) -> Option<Assigned> {
        info!(job.id = %claimed.claim.job, "taking up job {} in slot {}", claimed.claim.job, dir.number());
        let slot = self.slots.take_number(dir.number());
        // A slot beyond the configured ones is still good for the job that is in it.
        let slot = slot.or_else(|| Slots::new(vec![dir.clone()]).take_number(dir.number()))?;
        let lease = self.leases.hold(&claimed.claim, asked);
        if let Some(at) = deadline {
            self.leases.move_deadline(claimed.claim.job, claimed.claim.attempt, at);
        }
        Some(Assigned { claimed, slot, lease })
    }

    /// The claims that this worker holds, renewed first: what follows may take its time. Each with its deadline, where that was
    /// moved; with all of them the moment when that was asked for.
    ///
    /// A lease that has run out is renewed only where the end of its attempt waits in a slot: any other has been ended by its supervisor.
    async fn renewed(&self, slots: &[SlotDir]) -> Result<(Instant, BTreeMap<JobId, Renewed>), StoreError> {
        let has_end = |claimed: &ClaimedJob| slots.iter().filter_map(end_in).any(|claim| claim == claimed.claim);
        let (mut held, now) = (self.store.held_by(self.worker).await?, self.store.now());
        held.retain(|claimed| claimed.lease_until > now || has_end(claimed));
        let asked = self.leases.now();
        let claims: Vec<_> = held.iter().map(|claimed| claimed.claim.clone()).collect();
        let renewals = self.store.renew(self.worker, &claims, self.lease).await?.renewals;
        let still = held.into_iter().zip(renewals).filter_map(|(claimed, renewal)| match renewal {
            Renewal::Held { deadline, .. } => Some((claimed.claim.job, (claimed, deadline))),
            Renewal::Lost => None,
        });
        Ok((asked, still.collect()))
    }

    fn claim_of(&self, dir: &SlotDir, held: &mut BTreeMap<JobId, Renewed>) -> Option<Renewed> {
        let journal = match Journal::read(&dir.journal()) {
            Ok(journal) => journal?,
            Err(error) => {
                warn!("slot {}: {error}", dir.number());
                return None;
            }
        };
        let matches = held.get(&journal.claim.job).is_some_and(|(claimed, _)| claimed.claim == journal.claim);
        if matches { held.remove(&journal.claim.job) } else { None }
    }
}

/// The container of the attempt that was last in a slot, by its journal.
pub(super) fn lodging(slot: &SlotDir) -> Option<Box<Container>> {
    match Journal::read(&slot.journal()).ok()??.place? {
        Place::Container { container, .. } => Some(container),
        Place::Host => None,
    }
}

/// The claim of an attempt whose end waits in a slot.
fn end_in(slot: &SlotDir) -> Option<Claim> {
    Journal::read(&slot.journal()).ok().flatten().filter(|journal| journal.end.is_some()).map(|journal| journal.claim)
}
