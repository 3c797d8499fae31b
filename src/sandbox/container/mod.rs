//! Containers for jobs: made ahead, used for one job, and replaced.
//!
//! A container differs from the host only in who starts the supervisor: in it that is the first process, and the same executable
//! with the same protocol. The daemon asks it over a socket in a directory on the host that the job's user cannot enter from
//! within; the engine has no part in a job until its container is removed.
//!
//! The one rule: what a container has of the host is listed in `engine.rs`, and every container carries labels by which it is found
//! again when nobody remembers it.

mod config;
mod engine;
mod error;
mod freshness;
mod guard;
mod images;
pub(super) mod inside;
mod kinds;
mod labels;
mod leftovers;
mod lodging;
mod mounts;
mod pool;
mod program;
mod recipe;
mod recipes;
mod shelf;
mod stock;
mod superseded;
mod tending;
mod visit;
mod workshop;

pub use config::{Config, DiskShare, Network};
pub use error::ContainerError;
pub use freshness::{BASE_OF_PACKAGES, BASE_OF_REGISTRY, Freshness, KNOWN_BASES};
pub use images::{AGENT_IMAGE, Built, Images, Listed, Plan};
pub use inside::WORKSPACE;
pub use lodging::{Lodging, Start, Use, Wish};
pub use mounts::propagates;
pub use pool::{Containers, ContainersSetup};
pub use visit::Visit;
pub use workshop::Container;
