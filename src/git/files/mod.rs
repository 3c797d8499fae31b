//! A checkout written in process, by all processors at once, for commits whose files are what they are in the repository.
//!
//! The one rule: what comes out is what git itself would have made, files, times and index. So nothing is written here that
//! attributes may change on its way out, that is a submodule, or whose name may be more than a name to git: the reason is said,
//! and git does it. Directories are made first and links last, each file only where nothing is, so nothing is written through a
//! link, whatever a tree contains.
//!
//! [`list`] reads the trees, [`mod@write`] writes the files, [`mod@index`] the index. [`inventory`] and [`sift`] are for a tree that begins
//! with what a job left of another.

mod index;
pub(super) mod inventory;
mod list;
pub(super) mod sift;
mod write;

use std::path::Path;

use super::checkout::Checkout;
use super::index::{Survey, blocks};
use inventory::Inventory;
use list::Listing;
use write::Stat;

/// Why files were not written here.
#[derive(Debug)]
pub(super) enum Obstacle {
    /// Nothing was written.
    Declined(String),
    /// Something was, and then this happened.
    Failed(std::io::Error),
}

/// Writes the files of a checkout's base into its tree, which is an empty directory, and its index; answers what is in it.
/// Blocks.
pub(super) fn check_out(checkout: &Checkout, mirror: &Path) -> Result<Survey, Obstacle> {
    let listing = Listing::of(mirror, checkout.base.as_str()).map_err(Obstacle::Declined)?;
    write::make_directories(&listing, &checkout.tree).map_err(Obstacle::Failed)?;
    finish(checkout, mirror, listing, Vec::new())
}

/// As [`check_out`], but what `old` has of the files, and a job did not touch, is moved into the tree, which is not there yet. `old` has a
/// `tree`, and its `host.git` with index and inventory; what is not wanted stays there. Blocks.
pub(super) fn check_out_from(old: &Path, checkout: &Checkout, mirror: &Path) -> Result<Survey, Obstacle> {
    let width = checkout.base.as_str().len() / 2;
    let inventory = Inventory::read(&old.join("host.git"), width).map_err(Obstacle::Declined)?;
    let listing = Listing::of(mirror, checkout.base.as_str()).map_err(Obstacle::Declined)?;
    let kept = sift::sift(&inventory, &listing, old, &checkout.tree)?;
    finish(checkout, mirror, listing, kept)
}

/// Writes what is missing, and the index.
fn finish(checkout: &Checkout, mirror: &Path, listing: Listing, kept: Vec<Option<Stat>>) -> Result<Survey, Obstacle> {
    let stats = write::write(&listing, kept, mirror, &checkout.tree).map_err(Obstacle::Failed)?;
    let bytes = index::format(&listing, &stats);
    std::fs::write(&checkout.index, &bytes).map_err(Obstacle::Failed)?;
    let taken: u64 = stats.iter().map(|stat| blocks(u64::from(stat.size))).sum();
    Ok(Survey {
        gitlinks: Vec::new(),
        bytes: taken + 2 * bytes.len() as u64,
        entries: (listing.files.len() + listing.directories.len()) as u64,
        attributes: listing.attributes,
        ignores: listing.ignores,
    })
}
