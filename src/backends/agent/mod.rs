//! The program that runs an agent within its slot: this executable again, started by the slot's supervisor in place of the agent.
//!
//! It starts the agent, gives it what it is told, keeps its raw events in a file, writes what they say to the log as a person would tell
//! it, ends the agent shortly after its last event, and leaves a result as any program of the executor protocol does. So all agents work
//! alike, on the host and in containers, and a daemon that is restarted meanwhile misses nothing.
//!
//! The one rule: it is trusted with nothing that its agent is not. It runs as the job does, and what it leaves is read as a job's.

mod events;
mod limit;
mod log;
mod order;
mod run;

pub(super) use limit::reset_after;
pub(super) use log::Log;
pub use order::Order;
pub use run::run;

#[cfg(test)]
pub(super) use run::tests::read_all;

/// The hidden subcommand by which the executable becomes this program. Its arguments are the order's path, and where the events go.
pub const SUBCOMMAND: &str = "__agent";

/// This executable, as a process of a host's supervisor finds it, also after an upgrade. A container says itself how it is started.
pub const EXECUTABLE: &str = "/proc/self/exe";
