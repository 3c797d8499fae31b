//! Sawmill turns queued tasks into commits.
//!
//! The library is a house of rooms on floors: a module names only strictly lower floors, and rooms of one floor
//! never name each other. `docs/ARCHITECTURE.md` has the map, and `tests/tidy.rs` enforces it.

pub mod clock;
pub mod ids;
pub mod job;
pub mod logs;
pub mod redact;
pub mod store;
