//! Sawmill turns queued tasks into commits.
//!
//! The library is a house of rooms on floors: a module names only strictly lower floors, and rooms of one floor
//! never name each other. `docs/ARCHITECTURE.md` has the map, and `tests/tidy.rs` enforces it.

pub mod api;
pub mod artifacts;
pub mod attempt;
pub mod backends;
pub mod caches;
pub mod cli;
pub mod clock;
pub mod config;
mod control_group;
pub mod critic;
pub mod daemon;
pub mod demo;
pub mod doctor;
mod fingerprint;
pub mod gates;
pub mod git;
pub mod ids;
pub mod images;
pub mod janitor;
pub mod job;
pub mod logs;
pub mod namespace;
mod plain_file;
mod process_stat;
pub mod redact;
pub mod sandbox;
pub mod store;
pub mod upkeep;
pub mod worker;
pub mod workspace;
