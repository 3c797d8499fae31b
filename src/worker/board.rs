//! What is in each slot, and how claiming fares, for who looks at the worker.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::clock::Timestamp;
use crate::ids::{AttemptNo, JobId};
use crate::job::spec::ContainerMode;
use crate::job::worker_record::NoEngine;
use crate::job::{ClaimedJob, Stage};
use crate::store::{ClaimFailure, Claiming, Rooms, SlotContent, SlotRecord, StoreError};

/// The slots of a worker. All clones are the same board.
#[derive(Debug, Clone, Default)]
pub(super) struct Board {
    taken: Arc<Mutex<BTreeMap<u32, Content>>>,
    claiming: Arc<Mutex<Claiming>>,
}

#[derive(Debug)]
enum Content {
    Busy { job: JobId, attempt: AttemptNo, stage: watch::Receiver<Option<Stage>>, since: Timestamp },
    Broken { reason: String, since: Timestamp },
}

/// A slot's entry that is not free; it is again when this goes.
#[derive(Debug)]
pub(super) struct Entry {
    board: Board,
    number: u32,
}

impl Board {
    /// Notes that an attempt is in a slot. The sender is to be told of its stages.
    pub(super) fn occupy(&self, number: u32, claimed: &ClaimedJob) -> (Entry, watch::Sender<Option<Stage>>) {
        let (sender, stage) = watch::channel(None);
        let (job, attempt, since) = (claimed.claim.job, claimed.claim.attempt, claimed.claimed_at);
        self.lock().insert(number, Content::Busy { job, attempt, stage, since });
        (Entry { board: self.clone(), number }, sender)
    }

    /// The slots from 0 to `configured`, and those beyond that are in use.
    pub(super) fn records(&self, configured: u32) -> Vec<SlotRecord> {
        let mut contents: BTreeMap<u32, SlotContent> = (0..configured).map(|number| (number, SlotContent::Free)).collect();
        contents.extend(self.lock().iter().map(|(number, content)| (*number, content.record())));
        contents.into_iter().map(|(number, content)| SlotRecord { number, content }).collect()
    }

    /// Notes how a look at the queue ended: with how many claims, or not at all.
    pub(super) fn asked(&self, now: Timestamp, answer: Result<usize, &StoreError>) {
        let mut claiming = self.claiming.lock().unwrap_or_else(PoisonError::into_inner);
        claiming.asked_at = Some(now);
        match answer {
            Ok(count) => {
                claiming.failure = None;
                claiming.claimed_at = if count > 0 { Some(now) } else { claiming.claimed_at };
            }
            Err(error) => {
                let since = claiming.failure.as_ref().map_or(now, |failure| failure.since);
                claiming.failure = Some(ClaimFailure { reason: error.to_string(), since });
            }
        }
    }

    /// Notes whether there is an engine that makes containers, or why there is none.
    pub(super) fn engine(&self, now: Timestamp, failure: Option<String>, mode: ContainerMode) {
        let mut claiming = self.claiming.lock().unwrap_or_else(PoisonError::into_inner);
        let since = claiming.no_engine.as_ref().map_or(now, |failure| failure.since);
        let leaves_all = mode == ContainerMode::On;
        claiming.no_engine = failure.map(|reason| NoEngine { reason, since, leaves_all });
    }

    /// Where jobs can be run, as far as is known.
    pub(super) fn rooms(&self) -> Rooms {
        Rooms::without(self.claiming.lock().unwrap_or_else(PoisonError::into_inner).no_engine.as_ref())
    }

    /// How claiming fares.
    pub(super) fn claiming(&self) -> Claiming {
        self.claiming.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, Content>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Content {
    fn record(&self) -> SlotContent {
        match self {
            Self::Busy { job, attempt, stage, since } => {
                SlotContent::Busy { job: *job, attempt: *attempt, stage: *stage.borrow(), since: *since }
            }
            Self::Broken { reason, since } => SlotContent::Broken { reason: reason.clone(), since: *since },
        }
    }
}

impl Entry {
    /// Notes that the slot cannot be used.
    pub(super) fn broken(&self, reason: String, since: Timestamp) {
        self.board.lock().insert(self.number, Content::Broken { reason, since });
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.board.lock().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_to_claim_stands_from_the_first_one_on_until_a_look_succeeds() {
        let board = Board::default();
        board.asked(Timestamp(1), Ok(2));
        board.asked(Timestamp(2), Err(&StoreError::LeaseLost));
        board.asked(Timestamp(3), Err(&StoreError::LeaseLost));
        let claiming = board.claiming();
        assert_eq!((claiming.asked_at, claiming.claimed_at), (Some(Timestamp(3)), Some(Timestamp(1))));
        assert_eq!(claiming.failure.map(|failure| failure.since), Some(Timestamp(2)));
        board.asked(Timestamp(4), Ok(0));
        let claiming = board.claiming();
        assert_eq!((claiming.asked_at, claiming.claimed_at), (Some(Timestamp(4)), Some(Timestamp(1))));
        assert_eq!(claiming.failure, None);
    }
}
