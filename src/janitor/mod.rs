//! What a worker owns on its host, and whether it may go: a container, a mount, a slot, a process, a ref that nobody needs any more.
//!
//! The one rule: a thing goes only where no live lease explains it *and* its owner is proven dead. Each room below the worker lists its
//! own things as [`Owned`], with what explains them, and removes its own; [`judge()`] decides. What cannot be proven stays, and is
//! listed with the reason. Nothing here knows what a container or a worktree is.

mod judge;
mod measure;
mod owned;
mod process;
mod space;
mod walk;

pub use judge::{Fate, Finding, Master, Mode, judge};
pub use measure::{Counter, Measured, measure};
pub use owned::{Explained, Kind, Lease, Owned, Owner};
pub use process::{Life, Process, boot_id, has_ended, host_name};
pub use space::Space;
pub use walk::{SUBVOLUME, Way, is_dir, walk};
