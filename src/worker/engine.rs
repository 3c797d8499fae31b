//! Whether an engine answers that makes containers, looked at on a clock of its own and never on a job's path.
//!
//! The one rule: a job that needs a container is left to others where there is none to be had, instead of being claimed and given back.
//! An engine that goes away between two looks is waited for by the attempt that meets that.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::board::Board;
use crate::sandbox::container::Containers;
use crate::store::{Rooms, Store};

/// How often it is asked: an engine that comes back tells nobody.
const EVERY: Duration = Duration::from_secs(3);

/// Looks for the engine, and notes on the board whether it is there.
#[derive(Debug, Clone)]
pub(super) struct EngineWatch {
    pub(super) containers: Containers,
    pub(super) store: Store,
    pub(super) board: Board,
}

impl EngineWatch {
    /// Runs [`EngineWatch::look_once`] until the token is cancelled.
    pub(super) async fn look_loop(self, ended: CancellationToken) {
        while ended.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_some() {
            if ended.run_until_cancelled(self.look_once()).await.is_none() {
                return;
            }
        }
    }

    /// One look.
    pub(super) async fn look_once(&self) {
        let failure = self.containers.reach().await.err().map(|error| error.to_string());
        match (&failure, self.board.rooms()) {
            (Some(why), Rooms::All) => warn!("jobs that need a container are left to other workers: {why}"),
            (None, Rooms::Host | Rooms::HostWhereAsked) => {
                info!("the engine of containers answers: jobs that need a container are claimed again");
            }
            _ => {}
        }
        self.board.engine(self.store.now(), failure, self.containers.mode());
    }
}
