//! The registry of executors: what starts for a job, and what its result says.
//!
//! The rest of the code never names a backend: it asks the registry for one, gets a command to start, and later a verdict
//! on what came back. Running the command is the sandbox's affair.

mod adapter;
mod agent;
mod claude;
mod codex;
mod command;
mod config;
mod executor;
mod miniswe;
mod openhands;
mod prompt;
mod protocol;
mod shell;
mod verdict;

pub use adapter::Abilities;
pub use agent::{EXECUTABLE as AGENT_EXECUTABLE, Order, SUBCOMMAND as AGENT_SUBCOMMAND, run as run_agent};
pub use config::{BackendConfig, Kind, ResultFrom, Stall};
pub use executor::{Backend, BackendError, Registry, Started};
pub use prompt::PromptError;
pub use protocol::{RESULT_MAX, ResultError, Revision, SpecDocument, read_result};
pub use verdict::Verdict;
