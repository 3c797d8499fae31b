//! Bases go when they take more room than they may, or than the disk has: the one that was not used for longest first, never one that
//! is leased.

use std::path::{Path, PathBuf};

use bytesize::ByteSize;

use super::{Base, BaseUse, Bases};
use crate::clock::Timestamp;
use crate::git::error::GitError;
use crate::git::worktree::trash_place;
use crate::janitor::{Lease, Space};

impl Bases {
    /// All bases that are whole, each with what explains that it stays, or why it goes: it is of an earlier boot; all of them take
    /// more than they may; `wanted` is lacking on the disk. Blocks.
    ///
    /// # Errors
    /// A directory cannot be read.
    pub fn judged(&self, wanted: Space) -> Result<Vec<(BaseUse, Lease)>, GitError> {
        self.judged_but(None, wanted)
    }

    /// Moves to the trash what goes (see [`Bases::judged`]); answers which. Those on which a worktree stands stay, and so may take
    /// more than the budget. Blocks.
    ///
    /// # Errors
    /// A directory cannot be read, or a base cannot be moved.
    pub fn shrink_once(&self, wanted: Space) -> Result<Vec<PathBuf>, GitError> {
        self.shrink_but(None, wanted)
    }

    /// Moves a base to the trash unless it is used. Says whether.
    ///
    /// # Errors
    /// It cannot be moved.
    pub fn evict(&self, base: &Path) -> Result<bool, GitError> {
        Base::at(base).move_unleased(&trash_place(base, &self.trash)?)
    }

    /// As [`Bases::shrink_once`], but for one that was just made.
    pub(super) fn shrink_but(&self, fresh: Option<&Path>, wanted: Space) -> Result<Vec<PathBuf>, GitError> {
        let mut gone = Vec::new();
        for (base, lease) in self.judged_but(fresh, wanted)? {
            if let Lease::Over(why) = lease
                && self.evict(&base.path)?
            {
                tracing::debug!(path = %base.path.display(), bytes = base.bytes, %why, "base evicted");
                gone.push(base.path);
            }
        }
        Ok(gone)
    }

    fn judged_but(&self, fresh: Option<&Path>, wanted: Space) -> Result<Vec<(BaseUse, Lease)>, GitError> {
        let mut bases = self.list()?;
        let mut total: u64 = bases.iter().map(|base| base.bytes).sum();
        let mut freed = Space::default();
        bases.sort_by_key(|base| (base.usable, base.last_used));
        let judged = bases.into_iter().map(|base| {
            let lease = if let Some(place) = base.leases.first() {
                Lease::Held(format!("the worktree in {} stands on it", place.display()))
            } else if fresh == Some(&base.path) {
                Lease::Held("it was just made".to_owned())
            } else if !base.usable {
                Lease::Over("it is of an earlier boot of the host, whose crash may have damaged it".to_owned())
            } else if total > self.budget.as_u64() {
                let (takes, may) = (ByteSize(total), self.budget);
                Lease::Over(format!("bases take {takes}, and may take {may} (workspace.bases); {}", since(&base)))
            } else if !wanted.without(freed).is_none() {
                Lease::Over(format!("the disk lacks {}; {}", wanted.without(freed), since(&base)))
            } else {
                Lease::Held(format!("bases are within {} (workspace.bases), and the disk has room", self.budget))
            };
            if matches!(lease, Lease::Over(_)) {
                total = total.saturating_sub(base.bytes);
                freed = freed.and(base.space());
            }
            (base, lease)
        });
        Ok(judged.collect())
    }
}

fn since(base: &BaseUse) -> String {
    let since = base.last_used.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    format!("no other was unused for longer: since {}", Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX)))
}
