//! The claims that this worker holds, shared between those who run jobs and the thread that keeps the leases.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::attempt::{DeadlineMover, MovedDeadline, Stop, StopHandle, StopReason};
use crate::clock::{HostClock, Timestamp};
use crate::ids::{AttemptNo, JobId};
use crate::job::Claim;

/// The claims held.
#[derive(Debug, Clone, Default)]
pub(super) struct Leases {
    book: Arc<Mutex<Book>>,
    /// How many there are.
    count: watch::Sender<usize>,
    clock: HostClock,
}

#[derive(Debug, Default)]
struct Book {
    held: BTreeMap<JobId, Held>,
    /// Why all were stopped, where they were. A claim that was being asked for at that moment comes after it.
    stopped: Option<StopReason>,
}

#[derive(Debug)]
struct Held {
    claim: Claim,
    stop: StopHandle,
    deadline: DeadlineMover,
    /// When the lease was surely still ours for its whole length: the start of the last request that renewed it.
    renewed: Instant,
}

/// A claim's place among those held; it ends with this.
#[derive(Debug)]
pub(super) struct Lease {
    leases: Leases,
    claim: Claim,
    stop: Stop,
    moved: MovedDeadline,
}

impl Leases {
    /// No claims yet; those to come are counted by `clock`.
    pub(super) fn counted_by(clock: HostClock) -> Self {
        Self { clock, ..Self::default() }
    }

    /// This moment, as all others here are said.
    pub(super) fn now(&self) -> Instant {
        self.clock.now()
    }

    /// Holds a claim that was made, or renewed, by a request that began at `asked`. An older claim of the same job is lost by that.
    /// Where all were told to stop meanwhile, so is this one.
    pub(super) fn hold(&self, claim: &Claim, asked: Instant) -> Lease {
        let ((handle, stop), (deadline, moved)) = (StopHandle::new(), DeadlineMover::new());
        let mut book = self.lock();
        if let Some(reason) = &book.stopped {
            handle.stop(reason.clone());
        }
        let older = book.held.insert(claim.job, Held { claim: claim.clone(), stop: handle, deadline, renewed: asked });
        if let Some(older) = older.filter(|older| older.claim != *claim) {
            older.stop.stop(StopReason::LeaseLost);
        }
        self.count.send_replace(book.held.len());
        drop(book);
        Lease { leases: self.clone(), claim: claim.clone(), stop, moved }
    }

    pub(super) fn claims(&self) -> Vec<Claim> {
        self.lock().held.values().map(|held| held.claim.clone()).collect()
    }

    /// Those whose leases are to last. One that was given up is over for good, even where it could be renewed again: what its attempt left is
    /// seen to once the claim is off the record, and others are to have the job.
    pub(super) fn to_renew(&self) -> Vec<Claim> {
        self.lock().held.values().filter(|held| !held.stop.is_lost()).map(|held| held.claim.clone()).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().held.is_empty()
    }

    /// Waits until no claim is held.
    pub(super) async fn none_left(&self) {
        let mut count = self.count.subscribe();
        // It fails when the sender is gone, which is ours.
        if count.wait_for(|count| *count == 0).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Notes that a claim was renewed by a request that began at `asked`.
    pub(super) fn renewed(&self, claim: &Claim, asked: Instant) {
        if let Some(held) = self.lock().held.get_mut(&claim.job).filter(|held| held.claim == *claim) {
            held.renewed = asked;
        }
    }

    /// Whether a claim that is to be renewed has not been for `limit`.
    pub(super) fn any_overdue(&self, limit: Duration, now: Instant) -> bool {
        let overdue = |held: &Held| now.saturating_duration_since(held.renewed) > limit;
        self.lock().held.values().any(|held| overdue(held) && !held.stop.is_lost())
    }

    /// Notes that nobody could take a claim from us at `asked`: as good as having renewed them all then.
    pub(super) fn out_of_reach(&self, asked: Instant) {
        for held in self.lock().held.values_mut() {
            held.renewed = held.renewed.max(asked);
        }
    }

    /// Stops an attempt; not a later one that has begun since the reason was learnt.
    pub(super) fn stop(&self, job: JobId, attempt: AttemptNo, reason: StopReason) {
        if let Some(held) = self.lock().held.get(&job).filter(|held| held.claim.attempt == attempt) {
            held.stop.stop(reason);
        }
    }

    /// Moves the deadline of an attempt, where it is under a claim that is held.
    pub(super) fn move_deadline(&self, job: JobId, attempt: AttemptNo, at: Timestamp) {
        if let Some(held) = self.lock().held.get(&job).filter(|held| held.claim.attempt == attempt) {
            held.deadline.move_to(at);
        }
    }

    /// Stops every attempt, and whatever is claimed from now on.
    pub(super) fn stop_all(&self, reason: &StopReason) {
        let mut book = self.lock();
        for held in book.held.values() {
            held.stop.stop(reason.clone());
        }
        book.stopped = Some(reason.clone());
    }

    /// Stops the attempts whose leases were last renewed longer than `limit` ago, which may belong to others by now. Answers with those
    /// that it stopped just now. The clock is one of this host's that nobody sets, so it does not matter whether the database can be asked.
    pub(super) fn fence(&self, limit: Duration, now: Instant) -> Vec<Claim> {
        let overdue = |held: &&Held| now.saturating_duration_since(held.renewed) > limit;
        let book = self.lock();
        book.held
            .values()
            .filter(overdue)
            .filter(|held| held.stop.stop(StopReason::LeaseLost))
            .map(|held| held.claim.clone())
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lease {
    /// Hears when the attempt is to stop.
    pub(super) fn stop(&self) -> Stop {
        self.stop.clone()
    }

    /// Hears when the attempt's deadline is moved.
    pub(super) fn moved(&self) -> MovedDeadline {
        self.moved.clone()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut book = self.leases.lock();
        if book.held.get(&self.claim.job).is_some_and(|held| held.claim == self.claim) {
            book.held.remove(&self.claim.job);
            self.leases.count.send_replace(book.held.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{ClaimToken, WorkerId};

    fn claim() -> Claim {
        Claim { job: JobId::generate(), attempt: AttemptNo(1), token: ClaimToken::generate(), worker: WorkerId::new("w") }
    }

    #[test]
    fn a_lease_that_is_not_renewed_in_time_is_given_up_without_asking_anybody() {
        let (leases, start, limit) = (Leases::default(), Instant::now(), Duration::from_secs(30));
        let (kept, lost) = (claim(), claim());
        let (kept_lease, lost_lease) = (leases.hold(&kept, start), leases.hold(&lost, start));
        leases.renewed(&kept, start + Duration::from_secs(20));

        assert_eq!(leases.fence(limit, start + Duration::from_secs(31)), vec![lost]);
        assert_eq!(leases.fence(limit, start + Duration::from_secs(32)), vec![], "it is told once");
        assert_eq!(lost_lease.stop().reason(), Some(StopReason::LeaseLost));
        assert_eq!(kept_lease.stop().reason(), None);
        assert_eq!((leases.claims().len(), leases.to_renew()), (2, vec![kept.clone()]), "what was given up is not renewed again");
        let since = start + Duration::from_secs(32);
        assert!(!leases.any_overdue(limit, since) && leases.any_overdue(Duration::from_secs(11), since), "nor waited for");
        drop(lost_lease);
        assert_eq!(leases.claims(), vec![kept]);
    }

    #[test]
    fn an_old_lease_is_lost_to_a_newer_claim_and_does_not_take_that_with_it() {
        let leases = Leases::default();
        let first = claim();
        let second = Claim { attempt: AttemptNo(2), token: ClaimToken::generate(), ..first.clone() };
        let old = leases.hold(&first, Instant::now());
        let new = leases.hold(&second, Instant::now());
        assert_eq!((old.stop().reason(), new.stop().reason()), (Some(StopReason::LeaseLost), None));
        drop(old);
        assert_eq!(leases.claims(), vec![second]);
    }

    #[test]
    fn a_claim_that_was_on_its_way_when_all_were_stopped_is_stopped_too() {
        let leases = Leases::default();
        let running = leases.hold(&claim(), Instant::now());
        leases.stop_all(&StopReason::Shutdown);
        let late = leases.hold(&claim(), Instant::now());
        assert_eq!((running.stop().reason(), late.stop().reason()), (Some(StopReason::Shutdown), Some(StopReason::Shutdown)));
    }
}
