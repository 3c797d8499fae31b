//! Keeping the mirrors quick, in the background and rarely. How, and what is never done, is the git room's affair.

use std::time::Duration;

use bytesize::ByteSize;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::git::{Git, Maintained};

/// How often it looks whether a mirror is due.
const INTERVAL: Duration = Duration::from_secs(600);

/// Maintains every mirror that something came to, at most once within `every`, until the token is cancelled; never where that is zero.
/// git is ended then, and what it did is good.
pub(super) async fn maintain_loop(git: Git, every: Duration, ended: CancellationToken) {
    if every.is_zero() {
        return;
    }
    // Not as the daemon starts: jobs come first.
    while ended.run_until_cancelled(tokio::time::sleep(INTERVAL.min(every))).await.is_some() {
        if ended.run_until_cancelled(maintain_once(&git, every)).await.is_none() {
            return;
        }
    }
}

/// Maintains what is due now.
pub(super) async fn maintain_once(git: &Git, every: Duration) {
    for mirror in git.unmaintained(every) {
        match git.maintain(&mirror).await {
            Ok(Maintained { mirror, before_bytes, after_bytes }) => {
                let (before, after) = (ByteSize(before_bytes), ByteSize(after_bytes));
                info!("maintained {}: its objects took {before} and take {after}", mirror.display());
            }
            Err(error) => warn!("{error}; it is tried again"),
        }
    }
}
