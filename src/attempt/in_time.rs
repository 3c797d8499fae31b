//! Waiting for a step as long as the attempt may: until it is to stop, or its deadline is met, which somebody may move meanwhile.

use std::pin::pin;
use std::time::Duration;

use super::halt::Halt;
use super::open::Attempt;
use super::stop::StopReason;
use crate::clock::Timestamp;
use crate::job::Deadline;

/// Why a step is waited for no longer.
#[derive(Debug)]
pub(super) enum Cut {
    /// The attempt is to stop.
    Stopped(StopReason),
    /// It has no time left.
    Late,
}

impl Cut {
    /// What that is to the pipeline, where `late` is what it is to have no time left.
    pub(super) fn or(self, late: impl FnOnce() -> Halt) -> Halt {
        match self {
            Self::Stopped(reason) => Halt::Stopped(reason),
            Self::Late => late(),
        }
    }
}

/// Waits for a step; `left` is the part of the deadline that it has. A step that is lent goes on afterwards.
///
/// # Errors
/// It is cut short.
pub(super) async fn in_time<T>(
    attempt: &Attempt,
    left: fn(Deadline, Timestamp) -> Duration,
    step: impl Future<Output = T>,
) -> Result<T, Cut> {
    let mut step = pin!(step);
    loop {
        let known = attempt.moved.at();
        tokio::select! {
            biased;
            reason = attempt.stop.stopped() => return Err(Cut::Stopped(reason)),
            done = &mut step => return Ok(done),
            _ = attempt.moved.moved_from(known) => {}
            // The deadline itself, anew each time it is moved.
            () = tokio::time::sleep(left(attempt.deadline(), attempt.now())) => return Err(Cut::Late),
        }
    }
}
