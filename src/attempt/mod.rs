//! One attempt at a job: from a claim to a commit on the remote, or to a reason why not.
//!
//! The rule: whatever happens in the pipeline (failure, request to stop, panic), the closing always runs: processes are
//! ended, what is uncommitted is salvaged, the log is shipped to its end, and the end is written once, under the claim.
//! Claiming, leases and slots are the worker's affair.

mod backend;
mod carry;
mod close;
mod counted;
mod covered;
mod critics;
mod deliver;
mod disk;
mod egress;
mod environment;
mod execute;
mod ground;
mod halt;
mod in_time;
mod insist;
mod inspect;
mod journal;
mod judge;
mod keep;
mod liveness;
mod moved;
mod open;
mod orphan;
mod pauses;
mod pipeline;
mod place;
mod prepare;
mod printed;
mod push_note;
mod record;
mod revise;
mod spending;
mod stages;
mod stop;
mod tools;
mod transcript;
mod withdraw;
mod written;

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use tracing::{Instrument, info, info_span, warn};

pub use ground::Ground;
pub use journal::{Journal, JournalError};
pub use moved::{DeadlineMover, MovedDeadline};
pub use open::{Assignment, make_ready, refuse};
pub use orphan::{SALVAGE_SUBCOMMAND, salvage_orphan, vacate};
pub use pauses::KnownPauses;
pub use place::Place;
pub use stop::{Stop, StopHandle, StopReason};
pub use tools::{Config, Tools};
pub use withdraw::Withdrawal;

use crate::job::{Job, Outcome};
use halt::Halt;

/// How an attempt ended, for the worker.
#[derive(Debug)]
pub enum Ended {
    /// The end is on record; the job is now in this state.
    Recorded(Box<Job>),
    /// The claim was lost: nothing was written. What was uncommitted is salvaged, and no process is left.
    Lost,
    /// The worker is to be gone, and the database does not take the end: it is in the slot, where a later daemon finds it.
    Unrecorded,
}

/// Runs an attempt to its end, or takes up one that an earlier daemon began in the same slot.
///
/// Dropping the future leaves the job running under its supervisor, where a later daemon finds it; it is not the way to
/// stop it: [`StopHandle::stop`] is.
pub async fn run(assignment: Assignment) -> Ended {
    let claim = assignment.claimed.claim.clone();
    let span = info_span!("job", job.id = %claim.job, attempt = %claim.attempt, worker.id = %claim.worker);
    async move {
        let mut attempt = match assignment.open().await {
            Ok(attempt) => attempt,
            Err(unopened) => return unopened.give_back().await,
        };
        let ended = match attempt.journal.end.take() {
            Some(end) => attempt.conclude(*end).await,
            None => {
                let result = AssertUnwindSafe(pipeline::run(&mut attempt)).catch_unwind().await;
                attempt.close(result.unwrap_or_else(|panic| Err(Halt::panicked(&*panic)))).await
            }
        };
        match &ended {
            Ended::Recorded(job) => {
                let outcome = job.outcome.as_ref().map_or_else(String::new, Outcome::to_string);
                info!(state = %job.state, "attempt {} of job {} ended: {outcome}", claim.attempt, claim.job);
            }
            Ended::Lost => warn!("attempt {} of job {} lost its claim", claim.attempt, claim.job),
            Ended::Unrecorded => warn!("attempt {} of job {} has ended, which is not on record yet", claim.attempt, claim.job),
        }
        ended
    }
    .instrument(span)
    .await
}
