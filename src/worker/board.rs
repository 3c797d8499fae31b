//! What is in each slot, for who looks at the worker.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::clock::Timestamp;
use crate::ids::{AttemptNo, JobId};
use crate::job::{ClaimedJob, Stage};
use crate::store::{SlotContent, SlotRecord};

/// The slots of a worker. All clones are the same board.
#[derive(Debug, Clone, Default)]
pub(super) struct Board {
    taken: Arc<Mutex<BTreeMap<u32, Content>>>,
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
