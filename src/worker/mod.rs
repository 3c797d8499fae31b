//! The worker daemon: it claims jobs for its free slots and runs them until it is told to stop.
//!
//! The rule: no claim without a free slot, and no job that runs without its lease being kept from a thread that jobs cannot
//! starve. What an attempt does is the attempt room's affair; the API is met in the database only.

mod admission;
mod adopt;
mod board;
mod claims;
mod config;
mod costs;
mod daemon;
mod engine;
mod gate;
mod identity;
mod images;
mod janitor;
mod keeper;
mod leases;
mod maintenance;
mod namesake;
mod pace;
mod pressure;
mod queue;
mod reaper;
mod reclaim;
mod reconcile;
mod registry;
mod retention;
mod run;
mod slots;
mod warm_up;
mod withdrawals;

pub use admission::{pressure_now, space_lacking};
pub use config::{AdmissionConfig, Config};
pub use costs::{Cost, Costs};
pub use daemon::{Daemon, Setup, Shutdown, WorkerError};
pub use identity::{IdentityError, name_of};
pub use reaper::reap_loop;
pub use reclaim::Reclaim;
pub use reconcile::{Reconciled, Visitor, reconcile};
