//! A checkout written in process, by all processors at once, for commits whose files are what they are in the repository.
//!
//! The one rule: what comes out is what git itself would have made, files, times and index. So nothing is written here that
//! attributes may change on its way out, that is a submodule, or whose name may be more than a name to git: the reason is said,
//! and git does it. Directories are made first and links last, each file only where nothing is, so nothing is written through a
//! link, whatever a tree contains.
//!
//! [`list`] reads the trees, [`mod@write`] writes the files, [`mod@index`] the index.

mod index;
mod list;
mod write;

use std::path::Path;

use super::checkout::Checkout;
use super::index::{Survey, blocks};
use list::Listing;

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
    let stats = write::write(&listing, mirror, &checkout.tree).map_err(Obstacle::Failed)?;
    let bytes = index::format(&listing, &stats);
    std::fs::write(&checkout.index, &bytes).map_err(Obstacle::Failed)?;
    let taken: u64 = stats.iter().map(|stat| blocks(u64::from(stat.size))).sum();
    Ok(Survey {
        gitlinks: Vec::new(),
        bytes: taken + 2 * bytes.len() as u64,
        attributes: listing.attributes,
        ignores: listing.ignores,
    })
}
