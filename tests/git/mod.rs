//! The git room against real git and local bare remotes.

mod bases;
mod commit;
mod concurrency;
mod equality;
mod files;
pub(crate) mod fixture;
mod kill;
mod lfs;
mod maintain;
mod marks;
mod prune;
mod push;
mod recycled;
mod resolve;
mod salvage;
pub(crate) mod seed;
pub(crate) mod snapshots;
mod submodules;
mod view;
