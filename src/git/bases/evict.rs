//! Bases go when they take more room than they may: the one that was not used for longest first, never one that is leased.

use std::path::{Path, PathBuf};

use super::{Base, Bases};
use crate::git::error::GitError;
use crate::git::worktree::trash_place;

impl Bases {
    /// Moves bases to the trash until the rest is within the budget, and all that are of an earlier boot; answers which. Those
    /// on which a worktree stands stay, and so may take more than the budget. Blocks.
    ///
    /// # Errors
    /// A directory cannot be read, or a base cannot be moved.
    pub fn shrink_once(&self) -> Result<Vec<PathBuf>, GitError> {
        self.shrink_but(None)
    }

    /// As [`Bases::shrink_once`], but for one that was just made.
    pub(super) fn shrink_but(&self, fresh: Option<&Path>) -> Result<Vec<PathBuf>, GitError> {
        let mut bases = self.list()?;
        let mut total: u64 = bases.iter().map(|base| base.bytes).sum();
        bases.retain(|base| fresh != Some(&base.path) && base.leases.is_empty());
        bases.sort_by_key(|base| (base.usable, base.last_used));
        let mut gone = Vec::new();
        for base in bases {
            if base.usable && total <= self.budget.as_u64() {
                break;
            }
            if Base::at(&base.path).move_unleased(&trash_place(&base.path, &self.trash)?)? {
                tracing::debug!(path = %base.path.display(), bytes = base.bytes, "base evicted");
                total -= base.bytes;
                gone.push(base.path);
            }
        }
        Ok(gone)
    }
}
