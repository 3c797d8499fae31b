//! What jobs take on the disk, by repository, and so what a further one is expected to take.
//!
//! The one rule: nothing is counted on a job's path. The slots are counted now and then while jobs are in them, and the most that was
//! seen of an attempt is what it took; one that was over before it was counted says nothing.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::attempt::Journal;
use crate::clock::Timestamp;
use crate::git::repository_of;
use crate::ids::{AttemptNo, JobId};
use crate::janitor::Space;
use crate::job::Claim;
use crate::workspace::{SlotDir, StateDir};

/// The file in the state directory, for the next daemon.
const FILE: &str = "costs.json";
/// How many attempts of a repository are remembered: what they took grows and shrinks.
const ATTEMPTS: usize = 10;
/// How many repositories.
const REPOSITORIES: usize = 200;
/// How much of a slot is counted.
const ENTRIES_MAX: u64 = 200_000;
/// How often the slots are counted; and how much longer than counting took it rests, so that it takes a hundredth of a processor.
const INTERVAL: Duration = Duration::from_secs(2);
const REST: u32 = 100;

/// For how long what an attempt took is expected of further ones. A job that does not fit any more would else keep its worker from
/// ever learning better.
const HOLDS: Duration = Duration::from_secs(24 * 3600);

/// What an attempt took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// When it was over.
    pub at: Timestamp,
    /// The most that was seen of it.
    pub bytes: u64,
    /// The most files and directories that were seen of it; 0 where an earlier release did not count them.
    #[serde(default)]
    pub inodes: u64,
}

/// What attempts took. All clones are the same.
#[derive(Debug, Clone)]
pub struct Costs {
    path: PathBuf,
    /// What a job is expected to take at least; nothing is expected where this is nothing.
    floor: u64,
    known: Arc<Mutex<Known>>,
    /// What the attempts in the slots took when they were last counted.
    running: Arc<Mutex<Running>>,
}

/// The last attempts at each repository, by the names of mirrors; the latest last.
type Known = BTreeMap<String, VecDeque<Cost>>;

type Running = BTreeMap<(JobId, AttemptNo), Space>;

/// The most that was seen of an attempt.
struct Peak {
    repository: String,
    space: Space,
}

impl Costs {
    /// What an earlier daemon of this directory has seen. `floor` is expected of any job.
    #[must_use]
    pub fn open(state: &Path, floor: ByteSize) -> Self {
        let path = state.join(FILE);
        // What cannot be read is learnt again.
        let known = fs::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        Self { path, floor: floor.as_u64(), known: Arc::new(Mutex::new(known)), running: Arc::default() }
    }

    /// What is known, by the names of mirrors.
    #[must_use]
    pub fn known(&self) -> BTreeMap<String, VecDeque<Cost>> {
        self.lock().clone()
    }

    /// What a further job is expected to take: the most that one of the last attempts at any repository took within a day, and no fewer
    /// bytes than the floor. Which repository is next cannot be known before it is claimed.
    #[must_use]
    pub fn expected(&self, now: Timestamp) -> Space {
        if self.floor == 0 {
            return Space::default();
        }
        let known = self.lock();
        let late = known.values().flatten().filter(|cost| now.since(cost.at) < HOLDS);
        late.fold(Space::of_bytes(self.floor), |most, Cost { bytes, inodes, .. }| Space {
            bytes: most.bytes.max(*bytes),
            inodes: most.inodes.max(*inodes),
        })
    }

    /// What attempts that run are expected to take yet: each what a further one is, less what it had when it was last counted.
    pub(super) fn outstanding(&self, claims: &[Claim], expected: Space) -> Space {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let has = |claim: &Claim| running.get(&(claim.job, claim.attempt)).copied().unwrap_or_default();
        claims.iter().fold(Space::default(), |sum, claim| sum.and(expected.without(has(claim))))
    }

    /// Counts what is in the slots now and then, until the token is cancelled.
    pub(super) async fn sample_loop(self, state: StateDir, ended: CancellationToken) {
        if self.floor == 0 {
            return;
        }
        let mut peaks: BTreeMap<(JobId, AttemptNo), Peak> = BTreeMap::new();
        let mut rest = INTERVAL;
        while ended.run_until_cancelled(tokio::time::sleep(rest)).await.is_some() {
            let (begun, state) = (Instant::now(), state.clone());
            let counted =
                tokio::task::spawn_blocking(move || state.slots().map(|slots| slots.iter().filter_map(count).collect()));
            let counted: BTreeMap<_, _> = match counted.await {
                Ok(Ok(counted)) => counted,
                Ok(Err(error)) => {
                    warn!("cannot count what jobs take on the disk: {error}");
                    continue;
                }
                Err(_) => {
                    warn!("counting what jobs take on the disk panicked; please report it as a defect");
                    return;
                }
            };
            let over: Vec<_> = peaks.keys().filter(|attempt| !counted.contains_key(*attempt)).copied().collect();
            let over: Vec<Peak> = over.iter().filter_map(|attempt| peaks.remove(attempt)).collect();
            *self.running.lock().unwrap_or_else(PoisonError::into_inner) =
                counted.iter().map(|(attempt, now)| (*attempt, now.space)).collect();
            for (attempt, now) in counted {
                let before = peaks.get(&attempt).map_or(now.space, |before| before.space);
                let space = Space { bytes: before.bytes.max(now.space.bytes), inodes: before.inodes.max(now.space.inodes) };
                peaks.insert(attempt, Peak { space, ..now });
            }
            self.learn(over, Timestamp::now());
            rest = INTERVAL.max(begun.elapsed() * REST);
        }
    }

    fn learn(&self, over: Vec<Peak>, at: Timestamp) {
        if over.is_empty() {
            return;
        }
        let mut known = self.lock();
        for Peak { repository, space: Space { bytes, inodes } } in over {
            if known.len() >= REPOSITORIES && !known.contains_key(&repository) {
                known.pop_first();
            }
            let took = known.entry(repository).or_default();
            took.push_back(Cost { at, bytes, inodes });
            while took.len() > ATTEMPTS {
                took.pop_front();
            }
        }
        let draft = self.path.with_extension("new");
        let text = serde_json::to_vec(&*known).expect("names and numbers");
        if let Err(error) = fs::write(&draft, text).and_then(|()| fs::rename(&draft, &self.path)) {
            warn!("what jobs take on the disk cannot be kept for the next daemon: {error}");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The attempt in a slot, with what it takes now.
fn count(slot: &SlotDir) -> Option<((JobId, AttemptNo), Peak)> {
    let claim = Journal::read(&slot.journal()).ok()??.claim;
    let repository = repository_of(slot.root())?;
    let space = slot.measure(ENTRIES_MAX).space();
    Some(((claim.job, claim.attempt), Peak { repository, space }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{ClaimToken, WorkerId};

    #[test]
    fn the_most_that_a_late_attempt_took_is_expected_and_no_less_than_the_floor() {
        let dir = tempfile::tempdir().expect("a directory");
        let costs = Costs::open(dir.path(), ByteSize(100));
        let now = Timestamp(1_000_000_000);
        assert_eq!(costs.expected(now).bytes, 100);
        let peak =
            |repository: &str, bytes| Peak { repository: repository.to_owned(), space: Space { bytes, inodes: bytes / 10 } };
        costs.learn(vec![peak("small", 10), peak("large", 5000), peak("large", 700)], now);
        assert_eq!(costs.expected(now), Space { bytes: 5000, inodes: 500 });
        assert_eq!(Costs::open(dir.path(), ByteSize(100)).expected(now).bytes, 5000, "the next daemon knows");
        assert_eq!(costs.expected(now + HOLDS).bytes, 100, "nobody is kept from learning better for ever");
        costs.learn((0..ATTEMPTS).map(|_| peak("large", 300)).collect(), now);
        assert_eq!(costs.expected(now).bytes, 300, "what was many attempts ago is forgotten");
        assert_eq!(
            Costs::open(dir.path(), ByteSize(0)).expected(now),
            Space::default(),
            "nothing is expected where that is turned off"
        );
    }

    #[test]
    fn an_attempt_that_runs_is_expected_to_take_what_it_has_not_taken_yet() {
        let dir = tempfile::tempdir().expect("a directory");
        let costs = Costs::open(dir.path(), ByteSize(100));
        let claim =
            || Claim { job: JobId::generate(), attempt: AttemptNo(1), token: ClaimToken::generate(), worker: WorkerId::new("w") };
        let [begun, half, more] = [claim(), claim(), claim()];
        let expected = Space { bytes: 100, inodes: 10 };
        let mut running = costs.running.lock().expect("nobody panicked");
        running.insert((half.job, half.attempt), Space { bytes: 50, inodes: 8 });
        running.insert((more.job, more.attempt), Space { bytes: 400, inodes: 9 });
        drop(running);
        assert_eq!(costs.outstanding(&[begun, half, more], expected), Space { bytes: 150, inodes: 13 });
    }
}
