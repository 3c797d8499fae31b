//! Who borrows objects of a mirror: worktrees in slots, on the ground of gates, and kept for people; and bases with submodules.
//!
//! The one rule: what cannot be told borrows everything. A journal that cannot be read, or one where a job could have written it, counts
//! for all mirrors.

use std::path::Path;

use super::Git;
use super::bases::{Base, directories};
use super::error::GitError;
use super::journal::{Journal, Submodule};
use super::mirror::name_of;
use super::place::HOST;

impl Git {
    /// What stands on the objects of a mirror that nobody holds, in words; nothing where there is nothing. Blocks.
    pub(super) fn borrower_of(&self, mirror: &Path) -> Option<String> {
        let name = mirror.file_stem()?.to_string_lossy().into_owned();
        self.found_borrower(&name).unwrap_or_else(|error| Some(format!("it cannot be told who borrows its objects: {error}")))
    }

    fn found_borrower(&self, name: &str) -> Result<Option<String>, GitError> {
        let Some(state) = self.host.mirrors.parent() else { return Ok(None) };
        // In this order: a worktree that is moved out of its slot meanwhile is met in one of them.
        let slots = directories(&state.join("slots"))?;
        let places = slots.iter().flat_map(|slot| [slot.clone(), slot.join("gates")]);
        if let Some(place) = places.chain(directories(&state.join("kept"))?).find(|place| borrows(place, name)) {
            return Ok(Some(format!("the worktree in {} borrows its objects", place.display())));
        }
        // The ground of gates that a job sees.
        if let Some(slot) = slots.iter().find(|slot| slot.join("job/gates").symlink_metadata().is_ok()) {
            return Ok(Some(format!("gates run in {}", slot.display())));
        }
        for of in directories(&self.bases())? {
            for dir in directories(&of)? {
                let base = Base::at(&dir);
                // One that is not whole, or was evicted meanwhile, stands on nothing.
                if base.has_record() && base.record().map_or(true, |record| are_of(&record.submodules, name)) {
                    return Ok(Some(format!("a submodule of the base {} is of it, or may be", dir.display())));
                }
            }
        }
        Ok(None)
    }
}

fn borrows(place: &Path, name: &str) -> bool {
    if !Journal::exists(&place.join(HOST)) {
        return false;
    }
    Journal::read(&place.join(HOST)).map_or(true, |journal| name_of(&journal.remote) == name || are_of(&journal.submodules, name))
}

/// Whether one of these, or of those within them, is of the mirror.
fn are_of(submodules: &[Submodule], name: &str) -> bool {
    let sources = submodules.iter().filter_map(|submodule| submodule.source.as_ref());
    sources.into_iter().any(|source| name_of(&source.remote) == name || are_of(&source.submodules, name))
}
