//! Files that are kept beyond the workspace, in a directory or in a bucket.
//!
//! The one rule: what a job wrote is not trusted. It is opened without following a link, read no further than its limit, and copied out
//! of the job's reach, with its secrets taken out, before anything else is done with it. Which files are kept, and what it means
//! when one cannot be, is decided elsewhere; what is on record of them is in the database.

mod config;
mod draft;
mod place;
mod tree;

pub use config::{Config, StoreAddress};
pub use draft::{Draft, draft};
pub use place::{Artifacts, ArtifactsError, Pieces, Place};
pub use tree::{Found, Refusal, WalkEnd, find, open, walk};
