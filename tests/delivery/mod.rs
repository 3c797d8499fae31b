//! Jobs by the dozen, on real repositories, over several workers; and the harness that other proofs with daemons use.

pub(crate) mod daemon;
mod fifty;
pub(crate) mod host;
pub(crate) mod leftovers;
mod mark;
pub(crate) mod processes;
mod real;
mod recycled;
pub(crate) mod remote;
