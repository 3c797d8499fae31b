//! The worker's slots: each a directory and its supervisor, held by one attempt at a time.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::ids::WorkerId;
use crate::sandbox::{Launch, Mark};
use crate::workspace::SlotDir;
use std::path::PathBuf;
use std::time::Duration;

/// How the supervisors of slots are started.
#[derive(Debug, Clone)]
pub(super) struct SupervisorSetup {
    pub(super) executable: PathBuf,
    pub(super) worker: WorkerId,
    /// How long a supervisor goes on without hearing from a daemon.
    pub(super) orphan_after: Duration,
}

impl SupervisorSetup {
    /// How the slot's supervisor is started, or the one that lives is found.
    pub(super) fn of(&self, slot: &SlotDir) -> Launch {
        Launch {
            executable: self.executable.clone(),
            dir: slot.supervisor(),
            mark: Mark { worker: self.worker.to_string(), slot: slot.number().to_string() },
            orphan_after: self.orphan_after,
        }
    }
}

/// The slots that are free. A claim is made only with one in hand.
#[derive(Debug, Clone)]
pub(super) struct Slots {
    numbers: Arc<[u32]>,
    free: Arc<Mutex<Vec<SlotDir>>>,
    permits: Arc<Semaphore>,
}

/// A slot in hand; it is free again when this goes.
#[derive(Debug)]
pub(super) struct Slot {
    dir: SlotDir,
    free: Arc<Mutex<Vec<SlotDir>>>,
    _permit: OwnedSemaphorePermit,
}

impl Slots {
    /// Slots, all of them free.
    pub(super) fn new(dirs: Vec<SlotDir>) -> Self {
        let permits = Arc::new(Semaphore::new(dirs.len()));
        let numbers = dirs.iter().map(SlotDir::number).collect();
        Self { numbers, free: Arc::new(Mutex::new(dirs)), permits }
    }

    /// Waits for a free slot, and takes all others that are free too.
    pub(super) async fn take_free(&self) -> Vec<Slot> {
        // The semaphore is never closed; were it, there would be no slot to be had.
        let Ok(first) = self.permits.clone().acquire_owned().await else { return Vec::new() };
        // Others that become free at this very moment come along.
        tokio::task::yield_now().await;
        let mut taken: Vec<Slot> = self.take(first).into_iter().collect();
        while let Some(slot) = self.permits.clone().try_acquire_owned().ok().and_then(|permit| self.take(permit)) {
            taken.push(slot);
        }
        taken
    }

    /// Whether there is a slot of that number.
    pub(super) fn has(&self, number: u32) -> bool {
        self.numbers.contains(&number)
    }

    /// Whether the slot of that number is free.
    pub(super) fn is_free(&self, number: u32) -> bool {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|dir| dir.number() == number)
    }

    /// Takes the slot of that number, if it is free.
    pub(super) fn take_number(&self, number: u32) -> Option<Slot> {
        let permit = self.permits.clone().try_acquire_owned().ok()?;
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let at = free.iter().position(|dir| dir.number() == number)?;
        let dir = free.remove(at);
        Some(Slot { dir, free: self.free.clone(), _permit: permit })
    }

    fn take(&self, permit: OwnedSemaphorePermit) -> Option<Slot> {
        let dir = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
        Some(Slot { dir, free: self.free.clone(), _permit: permit })
    }
}

impl Slot {
    pub(super) fn dir(&self) -> &SlotDir {
        &self.dir
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // The permit is given back after this, with the field: whoever gets it finds the directory.
        self.free.lock().unwrap_or_else(PoisonError::into_inner).push(self.dir.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(count: u32) -> Slots {
        Slots::new((0..count).map(|number| SlotDir::at(format!("/slots/{number}").into())).collect())
    }

    #[tokio::test]
    async fn no_slot_is_ever_held_twice() {
        let slots = slots(3);
        let one = slots.take_number(1).expect("free");
        assert!(slots.take_number(1).is_none());
        let rest = slots.take_free().await;
        let mut numbers: Vec<u32> = rest.iter().map(|slot| slot.dir().number()).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, vec![0, 2]);
        drop(one);
        assert_eq!(slots.take_free().await[0].dir().number(), 1);
    }
}
