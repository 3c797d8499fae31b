//! The processes that stay: the API, the worker, or both, composed from the configuration, with their signals and logs.
//!
//! Here the rooms below are put together; what each of them does is theirs.

mod composition;
mod mounting;
mod signals;
mod telemetry;

pub use composition::{Composition, VERSION, executable};
pub use mounting::{TRY_SUBCOMMAND, make_ready, try_mounting};
pub use signals::{end_on_signals, stop_on_signals};
pub use telemetry::{Audience, init};
