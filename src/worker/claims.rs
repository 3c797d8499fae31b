//! The stream of claims: as many as there are free slots, each with its slot in hand, so that over-claiming is impossible.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::admission::Admission;
use super::board::Board;
use super::gate::{Drained, Entry, Gate};
use super::leases::{Lease, Leases};
use super::pace::Pace;
use super::slots::{Slot, Slots};
use crate::attempt::{self, KnownPauses, Stop};
use crate::backends::Backend;
use crate::ids::WorkerId;
use crate::job::{Claim, ClaimedJob, Label, Outcome, OutcomeClass};
use crate::store::{ClaimRequest, Store};

/// A claimed job with the slot to run it in and the lease that is kept for it.
#[derive(Debug)]
pub(super) struct Assigned {
    pub(super) claimed: ClaimedJob,
    pub(super) slot: Slot,
    pub(super) lease: Lease,
}

/// A backend, as claims name it.
#[derive(Debug, Clone)]
pub(super) struct Offer {
    name: String,
    credential: String,
    capabilities: BTreeSet<String>,
}

impl Offer {
    pub(super) fn of(backend: &Backend) -> Self {
        let (name, credential) = (backend.name().to_owned(), backend.credential().to_owned());
        Self { name, credential, capabilities: words(backend.capabilities()) }
    }
}

/// What claims are made with.
pub(super) struct Claimer {
    pub(super) store: Store,
    pub(super) worker: WorkerId,
    pub(super) backends: Vec<Offer>,
    pub(super) pauses: KnownPauses,
    pub(super) labels: BTreeSet<String>,
    pub(super) lease: Duration,
    pub(super) poll: Duration,
    pub(super) slots: Slots,
    pub(super) leases: Leases,
    pub(super) gate: Gate,
    pub(super) admission: Admission,
    pub(super) board: Board,
    pub(super) draining: CancellationToken,
}

/// The wait after a failed claim begins at the first, and doubles up to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

impl Claimer {
    /// Claims until the worker drains, as a task of its own: nobody's polling can suspend a claim half-way.
    ///
    /// What was adopted comes first. The channel has room for what all slots can hold, so no claim that was made ever
    /// waits for room.
    pub(super) fn start(self, adopted: Vec<Assigned>, room: usize) -> mpsc::Receiver<Assigned> {
        let (sender, receiver) = mpsc::channel(room.max(1));
        tokio::spawn(async move {
            for assigned in adopted {
                self.hand_over(assigned, &sender).await;
            }
            self.claim_loop(sender).await;
        });
        receiver
    }

    async fn claim_loop(self, sender: mpsc::Sender<Assigned>) {
        let mut backoff = BACKOFF.0;
        let mut pace = Pace::new(self.poll / 4);
        let mut drained = if self.gate.is_drained() { Drained::Waits } else { Drained::Leaves };
        while let Some(entry) = self.draining.run_until_cancelled(self.gate.enter(&self.leases, drained)).await {
            match entry {
                Entry::Open => drained = Drained::Leaves,
                Entry::Leave => {
                    info!("drained: no job is left, leaving");
                    return self.draining.cancel();
                }
            }
            let mut slots = tokio::select! {
                slots = self.slots.take_free() => slots,
                () = self.gate.closed() => continue,
                () = self.draining.cancelled() => return,
            };
            // Both may have come at once.
            if !self.gate.is_open() {
                continue;
            }
            slots.truncate(self.admission.fitting());
            if slots.is_empty() {
                self.draining.run_until_cancelled(self.wait_for_room()).await;
                continue;
            }
            // Subscribed before asking: what happens after the question is heard.
            let mut hints = self.store.hints();
            let mut pauses = self.pauses.changes();
            let claimed = self.claim_once(slots, &sender).await;
            self.board.asked(self.store.now(), claimed.as_ref().copied());
            backoff = backoff_after(backoff, &claimed);
            let wait = match claimed {
                Ok(0) => jitter(self.poll).min(self.pause_left()),
                Ok(_) => {
                    pace.found(Instant::now());
                    continue;
                }
                Err(error) => {
                    warn!("cannot claim jobs, trying again: {error}");
                    tokio::select! {
                        () = tokio::time::sleep(jitter(backoff)) => continue,
                        () = self.draining.cancelled() => return,
                    }
                }
            };
            pace.found_nothing(Instant::now());
            tokio::select! {
                () = hints.next_change_after(pace.due()) => {}
                () = tokio::time::sleep(wait) => {}
                // The sender is ours.
                Ok(()) = pauses.changed() => {}
                () = self.gate.closed() => {}
                () = self.draining.cancelled() => return,
            }
        }
    }

    /// Makes room, or closes the gate with the reason; else waits until those that run may have ended.
    async fn wait_for_room(&self) {
        self.admission.look_once().await;
        tokio::select! {
            // Nothing tells of memory and disk that jobs, or others on this host, give back.
            () = tokio::time::sleep(jitter(self.poll)) => {}
            () = self.gate.closed() => {}
        }
    }

    /// Claims once for `slots`, and says for how many of them there was a job.
    async fn claim_once(&self, slots: Vec<Slot>, sender: &mpsc::Sender<Assigned>) -> Result<usize, crate::store::StoreError> {
        let ask = ClaimRequest {
            worker: self.worker.clone(),
            backends: self.open_backends(),
            labels: self.labels.clone(),
            rooms: self.board.rooms(),
            limit: u32::try_from(slots.len()).unwrap_or(u32::MAX),
            lease: self.lease,
        };
        let claimed = self.store.claim(&ask).await?;
        let count = claimed.len();
        for (claimed, slot) in claimed.into_iter().zip(slots) {
            // Not from when it was asked: the question may have waited long for an answer before the lease began.
            let lease = self.leases.hold(&claimed.claim, self.began(&claimed));
            info!(job.id = %claimed.claim.job, "claimed job {} for slot {}", claimed.claim.job, slot.dir().number());
            self.hand_over(Assigned { claimed, slot, lease }, sender).await;
        }
        Ok(count)
    }

    /// The backends whose credentials are not paused, as far as is known.
    fn open_backends(&self) -> BTreeMap<String, BTreeSet<String>> {
        let now = self.store.now();
        let open = self.backends.iter().filter(|offer| !self.pauses.is_paused(&offer.credential, now));
        open.map(|offer| (offer.name.clone(), offer.capabilities.clone())).collect()
    }

    /// How long until the next pause is over.
    fn pause_left(&self) -> Duration {
        let now = self.store.now();
        self.pauses.next_end(now).map_or(Duration::MAX, |end| end.since(now))
    }

    /// When the lease of a claim that was just made began, by this host's clock.
    fn began(&self, claimed: &ClaimedJob) -> Instant {
        let left = claimed.lease_until.since(self.store.now()).min(self.lease);
        let now = self.leases.now();
        now.checked_sub(self.lease - left).unwrap_or(now)
    }

    async fn hand_over(&self, assigned: Assigned, sender: &mpsc::Sender<Assigned>) {
        if let Err(mpsc::error::SendError(unsent)) = sender.send(assigned).await {
            give_back(&self.store, &unsent.claimed.claim, &unsent.lease.stop()).await;
        }
    }
}

/// The wait after the next claim that fails, or after this one where it did.
fn backoff_after<T, E>(before: Duration, claimed: &Result<T, E>) -> Duration {
    if claimed.is_ok() { BACKOFF.0 } else { (before * 2).min(BACKOFF.1) }
}

/// Labels as claims name them.
pub(super) fn words(labels: &[Label]) -> BTreeSet<String> {
    labels.iter().map(ToString::to_string).collect()
}

/// Gives a claim back that no attempt has begun under, uncharged.
pub(super) async fn give_back(store: &Store, claim: &Claim, stop: &Stop) {
    debug!("giving job {} back", claim.job);
    attempt::refuse(store, claim, stop, Outcome::new(OutcomeClass::Released, "the worker stopped before it began")).await;
}

/// Between half of a duration and all of it, so that many workers do not ask in step.
pub(super) fn jitter(duration: Duration) -> Duration {
    duration.mul_f64(rand::random_range(0.5..=1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_after_a_failure_grows_until_a_claim_succeeds() {
        let mut backoff = BACKOFF.0;
        let waits: Vec<u128> = [Err(()), Err(()), Ok(1), Err(()), Ok(0), Err(())]
            .into_iter()
            .map(|claimed| {
                backoff = backoff_after(backoff, &claimed);
                backoff.as_millis()
            })
            .collect();
        assert_eq!(waits, [200, 400, 100, 200, 100, 200]);
        assert_eq!(backoff_after(BACKOFF.1, &Err::<(), ()>(())), BACKOFF.1);
    }
}
