//! The worker daemon: it claims jobs for its free slots and runs them until it is told to stop.
//!
//! The rule: no claim without a free slot, and no job that runs without its lease being kept from a thread that jobs cannot
//! starve. What an attempt does is the attempt room's affair; the API is met in the database only.

mod admission;
mod adopt;
mod board;
mod claims;
mod config;
mod daemon;
mod gate;
mod identity;
mod janitor;
mod keeper;
mod leases;
mod maintenance;
mod pace;
mod pressure;
mod queue;
mod reaper;
mod reconcile;
mod registry;
mod retention;
mod run;
mod slots;

pub use admission::pressure_now;
pub use config::{AdmissionConfig, Config};
pub use daemon::{Daemon, Setup, Shutdown, WorkerError};
pub use identity::IdentityError;
pub use reconcile::{Reconciled, Visitor, reconcile};
