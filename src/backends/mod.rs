//! The registry of executors: what starts for a job, and what its result says.
//!
//! The rest of the code never names a backend: it asks the registry for one, gets a command to start, and later a verdict
//! on what came back. Running the command is the sandbox's affair.

mod config;
mod executor;
mod protocol;

pub use config::{BackendConfig, Kind, ResultFrom};
pub use executor::{Backend, BackendError, Registry, Verdict};
pub use protocol::{RESULT_MAX, ResultError, SpecDocument, read_result};
