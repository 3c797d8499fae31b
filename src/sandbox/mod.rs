//! Running a command in isolation, with certainty about its end.
//!
//! Each slot has a **supervisor**: this same executable, started again with a hidden subcommand and detached from the
//! daemon. It starts one command at a time on request, owns every descendant of it, ends them all, and remembers how
//! it went until the daemon has collected that. The daemon holds neither the job's process nor its pipes, so that it
//! can be killed, restarted or upgraded while jobs run.
//!
//! The one rule: a report exists only when no process of the command does.
//!
//! [`Supervisor`] is the daemon's end, [`supervise`] the other one; `protocol` is what they say to each other.
//! What the output means, how long a job may take and what happens to its worktree is decided elsewhere.

mod client;
mod command;
mod config;
pub mod container;
pub mod egress;
mod error;
mod host;
mod kernel;
mod ledger;
mod leftovers;
mod note;
mod protocol;
mod roster;
mod supervisor;

pub use client::Supervisor;
pub use command::{Activity, Cause, CommandSpec, End, ExitReport, Held, Started, Status, Will};
pub use config::Config;
pub use error::SandboxError;
pub use host::{Launch, Mark};
pub use ledger::recorded;
pub use leftovers::{SupervisorProcess, leftovers, remove_left, supervisors};
pub use protocol::Refusal;
pub use roster::Roster;
pub use supervisor::{INSIDE_SUBCOMMAND, SUBCOMMAND, supervise, supervise_inside};
