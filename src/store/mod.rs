//! The database: the only room that holds SQL.
mod config;
mod error;
mod surface;
mod types;

pub use config::Config;
pub use error::StoreError;
pub use surface::{Hints, Migrated, Store};
pub use types::*;
