//! Saved caches go when they take more room than they may, or than the disk has: the one that was not used for longest first, never one on
//! which an attempt stands.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bytesize::ByteSize;

use super::error::CacheError;
use super::saved::Saved;
use super::shelf::{SavedUse, Shelf};
use crate::clock::Timestamp;
use crate::janitor::{Counter, Lease, Space};

impl Shelf {
    /// All that are whole, each with what explains that it stays, or why it goes: it is of an earlier boot; all of them take more than
    /// they may; `wanted` is lacking on the disk. Blocks.
    ///
    /// # Errors
    /// A directory cannot be read.
    pub fn judged(&self, wanted: Space) -> Result<Vec<(SavedUse, Lease)>, CacheError> {
        self.judged_but(None, wanted)
    }

    /// Moves to the trash what goes (see [`Shelf::judged`]); answers which. Blocks.
    ///
    /// # Errors
    /// A directory cannot be read, or a cache cannot be moved.
    pub fn shrink_once(&self, wanted: Space) -> Result<Vec<PathBuf>, CacheError> {
        self.shrink_but(None, wanted)
    }

    /// Moves a saved cache to the trash unless it is used. Says whether.
    ///
    /// # Errors
    /// It cannot be moved.
    pub fn evict(&self, dir: &Path) -> Result<bool, CacheError> {
        Saved::at(dir).move_unused(&self.trash_place()?, || !self.standing_on(dir).is_empty())
    }

    /// As [`Shelf::evict`], whether or not something in the slot `own` stands on it.
    pub(super) fn evict_but(&self, dir: &Path, own: &Path) -> Result<bool, CacheError> {
        let is_named = || self.standing_on(dir).iter().any(|slot| slot != own);
        Saved::at(dir).move_unused(&self.trash_place()?, is_named)
    }

    pub(super) fn shrink_but(&self, fresh: Option<&Path>, wanted: Space) -> Result<Vec<PathBuf>, CacheError> {
        let mut gone = Vec::new();
        for (saved, lease) in self.judged_but(fresh, wanted)? {
            if let Lease::Over(why) = lease
                && self.evict(&saved.dir)?
            {
                tracing::debug!(path = %saved.dir.display(), bytes = saved.record.bytes, %why, "saved cache evicted");
                gone.push(saved.dir);
            }
        }
        Ok(gone)
    }

    fn judged_but(&self, fresh: Option<&Path>, wanted: Space) -> Result<Vec<(SavedUse, Lease)>, CacheError> {
        let mut all = self.list()?;
        let (budget, mut freed) = (self.config.size, Space::default());
        all.sort_by_key(|saved| (saved.usable, saved.last_used));
        let stays = |saved: &SavedUse| !saved.slots.is_empty() || fresh == Some(&saved.dir);
        let mut sizes: Vec<Space> = all.iter().map(SavedUse::space).collect();
        // Each with what it shares with others: as long as that is little enough, it need not be looked at what they share.
        let bytes = |sizes: &[Space]| sizes.iter().map(|takes| takes.bytes).sum::<u64>();
        if !wanted.is_none() || bytes(&sizes) > budget.as_u64() {
            sizes = freeable(&all, stays);
        }
        let mut total = bytes(&sizes);
        let judged = all.into_iter().zip(sizes).map(|(saved, takes)| {
            let lease = if let Some(slot) = saved.slots.first() {
                Lease::Held(format!("the attempt in {} stands on it", slot.display()))
            } else if fresh == Some(&saved.dir) {
                Lease::Held("it was just saved".to_owned())
            } else if !saved.usable {
                Lease::Over("it is of an earlier boot of the host, whose crash may have damaged it".to_owned())
            } else if total > budget.as_u64() {
                let all = ByteSize(total);
                Lease::Over(format!("saved caches take {all}, and may take {budget} (caches.size); {}", since(&saved)))
            } else if !wanted.without(freed).is_none() {
                Lease::Over(format!("the disk lacks {}; {}", wanted.without(freed), since(&saved)))
            } else {
                Lease::Held(format!("saved caches are within {budget} (caches.size), and the disk has room"))
            };
            if matches!(lease, Lease::Over(_)) {
                total = total.saturating_sub(takes.bytes);
                freed = freed.and(takes);
            }
            (saved, lease)
        });
        Ok(judged.collect())
    }
}

/// What comes free when each goes after those before it: a file of which several have a name is the last one's, of all that could go; or
/// that of one that `stays`.
fn freeable(all: &[SavedUse], stays: impl Fn(&SavedUse) -> bool) -> Vec<Space> {
    let mut last_first: Vec<usize> = (0..all.len()).rev().collect();
    last_first.sort_by_key(|&at| !stays(&all[at]));
    let (mut counter, mut sizes) = (Counter::default(), vec![Space::default(); all.len()]);
    for at in last_first {
        sizes[at] = counter.measure(&all[at].dir, u64::MAX).space();
    }
    sizes
}

fn since(saved: &SavedUse) -> String {
    let since = saved.last_used.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    format!("no other was unused for longer: since {}", Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX)))
}
