//! The janitor: empties the trash and ends the time of kept workspaces, off every job's path.

use std::time::{Duration, SystemTime};

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::workspace::{Kept, StateDir};

/// How often it looks.
const INTERVAL: Duration = Duration::from_secs(2);

/// Runs [`sweep_once`] until the token is cancelled, and once more then.
pub(super) async fn sweep_loop(state: StateDir, ttl: Duration, ended: CancellationToken) {
    loop {
        let last = ended.run_until_cancelled(tokio::time::sleep(INTERVAL)).await.is_none();
        let state = state.clone();
        if tokio::task::spawn_blocking(move || sweep_once(&state, ttl)).await.is_err() {
            warn!("sweeping panicked; please report it as a defect");
        }
        if last {
            return;
        }
    }
}

/// One pass. Blocks.
fn sweep_once(state: &StateDir, ttl: Duration) {
    let trash = state.trash();
    match Kept::new(state.kept()).expire_once(&trash, ttl, SystemTime::now()) {
        Ok(0) => {}
        Ok(count) => info!("the time of {count} kept workspaces is over"),
        Err(error) => warn!("cannot look after kept workspaces: {error}"),
    }
    if let Err(error) = trash.empty_once() {
        warn!("cannot empty the trash: {error}");
    }
}
