//! The gate before claims: closed while somebody wants the worker drained, and while its host is short of something.
//!
//! The one rule: only the claim loop passes through it, and says so before it claims. So once the loop rests at a closed gate,
//! no claim is being made, and none will be before the gate is open again.

use tokio::sync::{Notify, watch};
use tracing::{info, warn};

use std::sync::Arc;

use super::leases::Leases;
use crate::store::{Drain, Shortage};

/// The gate. All clones are the same one.
#[derive(Debug, Clone)]
pub(super) struct Gate {
    drain: watch::Sender<Option<Drain>>,
    shortage: watch::Sender<Option<Shortage>>,
    /// Whether the claim loop waits here.
    resting: watch::Sender<bool>,
    doubt: Arc<Notify>,
}

/// What becomes of who comes to the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    /// It may claim.
    Open,
    /// The worker is drained, and no job is left: it may leave.
    Leave,
}

/// What a worker does once it is drained and has no job left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Drained {
    /// It leaves.
    Leaves,
    /// It waits to be resumed: it was started under the drain, and whoever started it would only start it again.
    Waits,
}

impl Gate {
    /// A gate that is closed only where `drain` was asked for already.
    pub(super) fn new(drain: Option<Drain>) -> Self {
        if let Some(drain) = &drain {
            info!("drained, as {} asked{}: no jobs are claimed until the worker is resumed", drain.asked_by, why(drain));
        }
        Self {
            drain: watch::Sender::new(drain),
            shortage: watch::Sender::new(None),
            resting: watch::Sender::new(false),
            doubt: Arc::new(Notify::new()),
        }
    }

    /// Takes note of what the database says of a drain. Only one task may tell, or an older answer could undo a newer one.
    pub(super) fn hear_drain(&self, drain: Option<Drain>) {
        self.drain.send_if_modified(|current| {
            let changed = *current != drain;
            if changed {
                match &drain {
                    Some(drain) => info!("draining, as {} asked{}: no more jobs are claimed", drain.asked_by, why(drain)),
                    None => info!("resumed: jobs are claimed again"),
                }
                *current = drain;
            }
            changed
        });
    }

    /// Says that the database may have something new to say about a drain.
    pub(super) fn doubt_drain(&self, drain: Option<&Drain>) {
        if self.drain.borrow().as_ref() != drain {
            self.doubt.notify_one();
        }
    }

    /// Waits until somebody doubts what is known of a drain.
    pub(super) async fn doubted(&self) {
        self.doubt.notified().await;
    }

    /// Takes note of what the host is short of.
    pub(super) fn set_shortage(&self, shortage: Option<Shortage>) {
        self.shortage.send_if_modified(|current| {
            // The figures in a reason change while jobs run.
            let of = |shortage: &Option<Shortage>| shortage.as_ref().map(|shortage| shortage.of.clone());
            let changed = of(current) != of(&shortage);
            match &shortage {
                Some(shortage) if changed => warn!("no more jobs are claimed: {}", shortage.reason),
                None if changed => info!("jobs are claimed again: the host is short of nothing"),
                _ => {}
            }
            *current = shortage;
            changed
        });
    }

    pub(super) fn shortage(&self) -> Option<Shortage> {
        self.shortage.borrow().clone()
    }

    pub(super) fn is_drained(&self) -> bool {
        self.drain.borrow().is_some()
    }

    /// Whether a drain was asked for and the claim loop has heard of it.
    pub(super) fn rests_drained(&self) -> bool {
        self.is_drained() && *self.resting.borrow()
    }

    pub(super) fn is_open(&self) -> bool {
        !self.is_drained() && self.shortage.borrow().is_none()
    }

    /// Waits until the gate is closed.
    pub(super) async fn closed(&self) {
        let (mut drain, mut shortage) = (self.drain.subscribe(), self.shortage.subscribe());
        // The senders are ours.
        tokio::select! {
            _ = drain.wait_for(Option::is_some) => {}
            _ = shortage.wait_for(Option::is_some) => {}
        }
    }

    /// For the claim loop: waits until it may claim, or may leave.
    pub(super) async fn enter(&self, leases: &Leases, drained: Drained) -> Entry {
        let mut changes = self.changes();
        loop {
            changes.mark_seen();
            if self.is_open() {
                // Takes the word back; who looks is told only where it was given.
                self.resting.send_if_modified(std::mem::take);
                return Entry::Open;
            }
            self.resting.send_if_modified(|resting| !std::mem::replace(resting, true));
            tokio::select! {
                biased;
                () = changes.next() => {}
                () = leases.none_left(), if self.is_drained() && drained == Drained::Leaves => return Entry::Leave,
            }
        }
    }

    /// What happens at the gate from now on.
    pub(super) fn changes(&self) -> Changes {
        Changes { drain: self.drain.subscribe(), shortage: self.shortage.subscribe(), resting: self.resting.subscribe() }
    }
}

fn why(drain: &Drain) -> String {
    if drain.reason.is_empty() { String::new() } else { format!(" ({})", drain.reason) }
}

/// What happens at the gate.
pub(super) struct Changes {
    drain: watch::Receiver<Option<Drain>>,
    shortage: watch::Receiver<Option<Shortage>>,
    resting: watch::Receiver<bool>,
}

impl Changes {
    fn mark_seen(&mut self) {
        self.drain.mark_unchanged();
        self.shortage.mark_unchanged();
        self.resting.mark_unchanged();
    }

    /// Waits for the next thing that happens. Safe to cancel. Never resolves once the gate is gone.
    pub(super) async fn next(&mut self) {
        let changed = tokio::select! {
            changed = self.drain.changed() => changed,
            changed = self.shortage.changed() => changed,
            changed = self.resting.changed() => changed,
        };
        if changed.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::clock::Timestamp;
    use crate::ids::{AttemptNo, ClaimToken, JobId, WorkerId};
    use crate::job::Claim;
    use crate::store::Resource;

    fn drain() -> Option<Drain> {
        Some(Drain { asked_at: Timestamp(1), asked_by: "op".to_owned(), reason: String::new() })
    }

    fn claim() -> Claim {
        Claim { job: JobId::generate(), attempt: AttemptNo(1), token: ClaimToken::generate(), worker: WorkerId::new("w") }
    }

    #[tokio::test]
    async fn a_drained_worker_leaves_when_its_last_lease_is_gone() {
        let (gate, leases) = (Gate::new(None), Leases::default());
        assert_eq!(gate.enter(&leases, Drained::Leaves).await, Entry::Open);
        let lease = leases.hold(&claim(), Instant::now());
        gate.hear_drain(drain());
        assert!(!gate.rests_drained(), "the loop may be claiming");
        let entered = {
            let (gate, leases) = (gate.clone(), leases.clone());
            tokio::spawn(async move { gate.enter(&leases, Drained::Leaves).await })
        };
        let mut changes = gate.changes();
        while !gate.rests_drained() {
            changes.next().await;
        }
        assert!(!entered.is_finished());
        drop(lease);
        assert_eq!(entered.await.expect("it does not panic"), Entry::Leave);
    }

    #[tokio::test]
    async fn who_was_started_under_a_drain_waits_until_it_is_resumed() {
        let (gate, leases) = (Gate::new(drain()), Leases::default());
        let (entry, ()) = tokio::join!(gate.enter(&leases, Drained::Waits), async {
            tokio::task::yield_now().await;
            assert!(gate.rests_drained(), "and does not leave");
            gate.hear_drain(None);
        });
        assert_eq!((entry, gate.is_open()), (Entry::Open, true));
    }

    #[tokio::test]
    async fn a_host_that_is_short_of_something_closes_the_gate_and_nobody_leaves() {
        let (gate, leases) = (Gate::new(None), Leases::default());
        gate.set_shortage(Some(Shortage { of: [Resource::Disk].into(), reason: "disk".to_owned(), since: Timestamp(1) }));
        gate.closed().await;
        let (entry, ()) = tokio::join!(gate.enter(&leases, Drained::Leaves), async {
            tokio::task::yield_now().await;
            assert!(!gate.rests_drained());
            gate.set_shortage(None);
        });
        assert_eq!(entry, Entry::Open);
    }
}
