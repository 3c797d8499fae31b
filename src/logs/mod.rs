//! The log of an attempt on its way from the job's descriptors to whoever reads it: spool, ship, cap, tail, verdict.
//!
//! The one rule: a line is on disk before anything else. The job writes straight into the [`Spool`]; the [`Shipper`]
//! follows the files, takes secrets out, and appends chunks to the store behind the attempt's claim. The spool is the only
//! buffer: a database that is away costs disk, never memory, never a line, and never the job's time. Whatever is
//! decided depends on the spool, on what the store has, and on a small journal beside the spool, so that a daemon that was
//! killed goes on at the very byte.
//!
//! Which values are secret, and when an attempt is over, is decided elsewhere. Chunks are stored and sealed by the store.

mod config;
mod error;
mod feed;
mod journal;
mod pace;
mod reclaim;
mod shipper;
mod source;
mod spool;
mod system;
mod tail;

pub use config::Config;
pub use error::LogsError;
pub use shipper::{Answers, Shipment, Shipper};
pub use spool::Spool;
pub use tail::{Follow, Start, Tail, TailEvent, TailRequest};
