//! The program's own log, on standard error. A job's output never goes there.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Who reads the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// A daemon's operators: every stage of every job.
    Daemon,
    /// Somebody at a command: warnings only, unless more is asked for.
    Command,
}

/// Starts logging. `verbose` says how often `-v` was given; `filter`, from `RUST_LOG`, outranks it.
pub fn init(audience: Audience, verbose: u8, filter: Option<&str>) {
    let level = match (audience, verbose) {
        (Audience::Command, 0) => "error",
        (Audience::Command, 1) | (Audience::Daemon, 0) => "sawmill=info,warn",
        (Audience::Command, 2) | (Audience::Daemon, 1) => "sawmill=debug,info",
        _ => "trace",
    };
    let filter = filter.and_then(|text| EnvFilter::try_new(text).ok()).unwrap_or_else(|| EnvFilter::new(level));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .finish();
    // A subscriber is there already only where somebody else embeds us: theirs stands.
    if tracing::subscriber::set_global_default(subscriber).is_err() {
        tracing::debug!("a subscriber is set already");
    }
}
