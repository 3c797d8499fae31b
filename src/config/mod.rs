//! The configuration: the only room that reads configuration files and environment variables.
//!
//! Each lower room owns its own section; they are composed here. The shipped `workers.toml`, embedded in the binary, is the
//! only place of defaults.

mod environment;
mod error;
mod layers;
mod origin;
mod patterns;
mod place;
mod references;
mod sections;

pub use environment::Environment;
pub use error::ConfigError;
pub use layers::{Loaded, SHIPPED, load, shipped};
pub use origin::settings;
pub use sections::{Config, ProjectConfig};
