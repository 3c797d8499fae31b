//! The supervisor: a single-threaded process around one `poll`, small enough to be forgotten.
//!
//! Whatever it started, it ends; and whatever it learnt, it writes down before anybody is told. It reads no
//! configuration, keeps no log of the job, and does not know what a job is.

mod connections;
pub(super) mod descendants;
mod desk;
mod detach;
mod engine;
mod held;
mod inside;
mod program;
mod run;
mod usage;

use std::ffi::OsString;
use std::process::ExitCode;

use super::note::note;
pub(in crate::sandbox) use desk::COMMAND;
pub(super) use detach::{LOCK, User};

/// The hidden subcommand by which the executable becomes a supervisor.
pub const SUBCOMMAND: &str = "__supervise";

/// The hidden subcommand by which the executable becomes the supervisor of a container, as its first process.
pub const INSIDE_SUBCOMMAND: &str = "__supervise-inside";

/// The exit status that says: the directory has a supervisor already.
pub(super) const EXIT_TAKEN: u8 = 75;

/// Becomes a supervisor. `args` is what follows [`SUBCOMMAND`].
///
/// It returns twice: at once in the process that was started, when the supervisor listens or could not be set up, and
/// at the very end in the supervisor itself, which is detached from its starter by then. Call it first thing in `main`:
/// it closes descriptors that it does not know, and forks, which a second thread would not survive.
pub fn supervise(args: impl Iterator<Item = OsString>) -> ExitCode {
    match detach::detach(args) {
        Ok(detach::Side::Starter) => ExitCode::SUCCESS,
        Ok(detach::Side::Supervisor(post)) => serve(post),
        Err(detach::DetachError::Taken) => ExitCode::from(EXIT_TAKEN),
        Err(error) => {
            note(error);
            ExitCode::FAILURE
        }
    }
}

/// Becomes the supervisor of the container whose first process this is. `args` is what follows [`INSIDE_SUBCOMMAND`]. The container
/// ends when this returns. Call it first thing in `main`, as [`supervise`].
pub fn supervise_inside(args: impl Iterator<Item = OsString>) -> ExitCode {
    match inside::settle(args) {
        Ok(post) => serve(post),
        Err(error) => {
            note(error);
            ExitCode::FAILURE
        }
    }
}

fn serve(post: detach::Post) -> ExitCode {
    match engine::Engine::open(post).and_then(engine::Engine::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            note(format_args!("cannot go on: {error}"));
            ExitCode::FAILURE
        }
    }
}
