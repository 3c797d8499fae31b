//! Caches from job to job: directories such as `target` that a project's jobs find as an earlier one of them left them.
//!
//! The rules: what is saved never changes, and goes as a whole; a job writes to something of its own over it. So no job sees
//! another at work, and one that is killed, or fails, leaves nothing to the next. A cache is of one project. What of a commit decides
//! which saved cache suits is read from the base commit, never from a job's files.
//!
//! [`Shelf`] is where saved caches are, [`Carried`] what one attempt has of them in its slot. Whose jobs save is decided above; so is when
//! caches are put into a tree and taken out of it.

mod carried;
mod config;
mod copy;
mod error;
mod evict;
mod harvest;
mod key;
mod leftovers;
mod path;
mod saved;
mod shelf;

pub use carried::{Carried, Entry, Origin, Way};
pub use config::{CacheConfig, Config, ProjectCaches, entries};
pub use error::CacheError;
pub use key::{Facts, Key, key_files};
pub use path::CachePath;
pub use saved::{Saved, SavedRecord};
pub use shelf::{SavedUse, Saving, Shelf};
