//! The `sawmill` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    // A supervisor is this executable again. It must stay small: nothing of the daemon may be set up before this line.
    if args.next().is_some_and(|first| first == sawmill::sandbox::SUBCOMMAND) {
        return sawmill::sandbox::supervise(args);
    }
    ExitCode::SUCCESS
}
