//! Signals: the first asks a daemon for draining, the second for stopping; a command is asked for its end.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::worker::Shutdown;

/// Cancels the tokens of `shutdown` as SIGTERM and SIGINT come: the first one drains, the second one stops what runs.
///
/// # Errors
/// The handlers cannot be installed.
pub fn stop_on_signals(shutdown: &Shutdown) -> std::io::Result<()> {
    let mut term = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let shutdown = shutdown.clone();
    tokio::spawn(async move {
        next(&mut term, &mut interrupt).await;
        info!("draining: no more jobs are claimed; a second signal stops those that run");
        shutdown.drain.cancel();
        next(&mut term, &mut interrupt).await;
        info!("stopping");
        shutdown.abort.cancel();
    });
    Ok(())
}

/// Cancels the token with the first SIGTERM or SIGINT.
///
/// # Errors
/// The handlers cannot be installed.
pub fn end_on_signals(token: &CancellationToken) -> std::io::Result<()> {
    let mut term = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let token = token.clone();
    tokio::spawn(async move {
        next(&mut term, &mut interrupt).await;
        token.cancel();
    });
    Ok(())
}

async fn next(term: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = term.recv() => {}
        _ = interrupt.recv() => {}
    }
}
