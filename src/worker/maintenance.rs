//! Keeping the mirrors quick and small, in the background and rarely. How, and what is never done, is the git room's affair.

use std::time::Duration;

use bytesize::ByteSize;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::git::{Git, Maintained};
use crate::janitor::Space;

/// How often it looks whether a mirror is due.
const INTERVAL: Duration = Duration::from_secs(600);

/// Maintains every mirror that something came to, at most once within `every`, and never where that is zero; removes what nobody needs of
/// mirrors, and those that no job has used for long. Until the token is cancelled: git is ended then, and what it did is good.
pub(super) async fn maintain_loop(git: Git, every: Duration, ended: CancellationToken) {
    let interval = if every.is_zero() { INTERVAL } else { INTERVAL.min(every) };
    // Not as the daemon starts: jobs come first.
    while ended.run_until_cancelled(tokio::time::sleep(interval)).await.is_some() {
        let once = async {
            if !every.is_zero() {
                maintain_once(&git, every).await;
            }
            prune_once(&git).await;
        };
        if ended.run_until_cancelled(once).await.is_none() {
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

/// Removes what nobody needs now.
async fn prune_once(git: &Git) {
    let unused = git.clone();
    match tokio::task::spawn_blocking(move || unused.shrink_mirrors_once(Space::default())).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => warn!("cannot remove mirrors that no job has used for long: {error}"),
        Err(_) => warn!("removing mirrors panicked; please report it as a defect"),
    }
    for mirror in git.unpruned() {
        match git.prune(&mirror).await {
            Ok(true) => info!("pruned {}", mirror.display()),
            Ok(false) => debug!("{} is in use, and not pruned", mirror.display()),
            Err(error) => warn!("{error}; it is tried again"),
        }
    }
}
