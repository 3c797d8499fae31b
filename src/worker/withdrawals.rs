//! Now and then, and first of all when it starts, a daemon takes back what attempts pushed that are over and did not deliver it: of a daemon
//! that was killed, or where the remote or the database was away.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::attempt::{Tools, Withdrawal};

/// How many are looked for at once.
const AT_ONCE: usize = 4;

/// Looks until the token is cancelled; what is under way then is left to the next daemon.
pub(super) async fn withdraw_loop(tools: Arc<Tools>, every: Duration, ended: CancellationToken) {
    let looking = async {
        loop {
            match Withdrawal::left(&tools.state, (&tools.store, &tools.git, tools.config.close_timeout)) {
                Ok(left) => stream::iter(&left).for_each_concurrent(AT_ONCE, Withdrawal::make).await,
                Err(error) => warn!("cannot look for what was pushed and not delivered: {error}"),
            }
            tokio::time::sleep(every).await;
        }
    };
    ended.run_until_cancelled(looking).await;
}
