//! The stages of an attempt on record, written beside the work: a slow or absent database does not hold the work up.

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{debug, info, warn};

use crate::clock::Timestamp;
use crate::job::{Claim, OutcomeClass, Stage, StageRecord};
use crate::store::{Store, StoreError};

/// For how long what is new waits for what else comes: nobody is to be told of a stage that is over at once by a write of its own.
const TOGETHER: std::time::Duration = std::time::Duration::from_millis(100);
/// How long to wait before a write is tried again.
const RETRY: std::time::Duration = std::time::Duration::from_millis(500);

/// The stages of one attempt.
#[derive(Debug)]
pub(super) struct Stages {
    records: Vec<StageRecord>,
    newest: watch::Sender<Vec<StageRecord>>,
    /// The stage that runs.
    current: watch::Sender<Option<Stage>>,
    writer: JoinHandle<()>,
}

impl Stages {
    /// Goes on from `records`, those of an earlier daemon. `current` is told of each stage that is entered.
    pub(super) fn resume(store: &Store, claim: &Claim, records: Vec<StageRecord>, current: watch::Sender<Option<Stage>>) -> Self {
        let (newest, receiver) = watch::channel(records.clone());
        let writer = tokio::spawn(write_loop(store.clone(), claim.clone(), receiver));
        current.send_replace(records.last().map(|last| last.stage));
        Self { records, newest, current, writer }
    }

    /// Ends the stage that runs, as a success, and begins another. A stage that a crash cut off is gone on with.
    pub(super) fn enter(&mut self, stage: Stage, now: Timestamp) {
        if self.records.last().is_some_and(|last| last.stage == stage && last.ended_at.is_none()) {
            return;
        }
        self.end(OutcomeClass::Succeeded, None, now);
        info!(stage.name = %stage, "stage {stage}");
        self.current.send_replace(Some(stage));
        let seq = u32::try_from(self.records.len()).unwrap_or(u32::MAX);
        self.records.push(StageRecord { seq, stage, started_at: now, ended_at: None, outcome: None, detail: None });
        self.newest.send_replace(self.records.clone());
    }

    /// Ends the stage that runs, if one does.
    pub(super) fn end(&mut self, outcome: OutcomeClass, detail: Option<String>, now: Timestamp) {
        if let Some(last) = self.records.last_mut().filter(|last| last.ended_at.is_none()) {
            last.ended_at = Some(now);
            last.outcome = Some(outcome);
            last.detail = detail;
            self.newest.send_replace(self.records.clone());
        }
    }

    /// The stages so far.
    pub(super) fn records(&self) -> &[StageRecord] {
        &self.records
    }
}

impl Drop for Stages {
    fn drop(&mut self) {
        // What is not written yet goes into the store with the attempt's end.
        self.writer.abort();
    }
}

async fn write_loop(store: Store, claim: Claim, mut newest: watch::Receiver<Vec<StageRecord>>) {
    let mut written: Vec<StageRecord> = Vec::new();
    while newest.changed().await.is_ok() {
        tokio::time::sleep(TOGETHER).await;
        loop {
            let wanted = newest.borrow_and_update().clone();
            let changed: Vec<StageRecord> =
                wanted.iter().filter(|record| written.get(record.seq as usize) != Some(*record)).cloned().collect();
            match store.record_stages(&claim, &changed).await {
                Ok(()) => {
                    written = wanted;
                    break;
                }
                // The lease keeper hears of it too, and stops the attempt.
                Err(StoreError::LeaseLost) => return,
                Err(error) if error.is_transient() => {
                    debug!("cannot record stages yet: {error}");
                    tokio::time::sleep(RETRY).await;
                }
                Err(error) => {
                    warn!("cannot record stages: {error}");
                    break;
                }
            }
        }
    }
}
