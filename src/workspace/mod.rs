//! Slots on disk: where an attempt's files are, and what becomes of them afterwards.
//!
//! A slot's directory is used by one attempt at a time. Nothing is deleted on a job's path: what is to go is renamed into
//! the trash, which a background duty empties. What git does in a workspace is the git room's affair.

mod config;
mod kept;
mod removal;
mod slot;
mod trash;

pub use config::{Config, Salvage};
pub use kept::Kept;
pub use slot::{SlotDir, StateDir};
pub use trash::Trash;
