//! The database: the only room that holds SQL.
mod config;
mod counts;
mod error;
mod surface;
mod types;

pub use config::Config;
pub use counts::Counts;
pub use error::StoreError;
pub use surface::{Hints, Migrated, Store};
pub use types::*;
