//! One deadline for an attempt, handed down from claim to publish.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// When an attempt must be over, and how much of its end is kept for committing and publishing.
///
/// Nothing mints itself a new budget: every stage asks this for what is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deadline {
    at: Timestamp,
    reserve_ms: i64,
}

impl Deadline {
    /// The deadline of an attempt that was claimed at `start` and may run for `timeout`; its backend and gates must end
    /// before a reserve of `reserve`, or a tenth of the timeout where that is less.
    #[must_use]
    pub fn new(start: Timestamp, timeout: Duration, reserve: Duration) -> Self {
        Self::until(start, start + timeout, reserve)
    }

    /// The deadline of an attempt that was claimed at `start` and must be over at `at`, with the same reserve.
    #[must_use]
    pub fn until(start: Timestamp, at: Timestamp, reserve: Duration) -> Self {
        Self { at, reserve_ms: crate::clock::millis(reserve.min(at.since(start) / 10)) }
    }

    /// When everything must be over.
    #[must_use]
    pub const fn at(self) -> Timestamp {
        self.at
    }

    /// When the backend and the gates must be over.
    #[must_use]
    pub const fn work_until(self) -> Timestamp {
        Timestamp(self.at.0 - self.reserve_ms)
    }

    /// What is left for the backend and the gates.
    #[must_use]
    pub fn work_left(self, now: Timestamp) -> Duration {
        self.work_until().since(now)
    }

    /// What is left for everything.
    #[must_use]
    pub fn left(self, now: Timestamp) -> Duration {
        self.at.since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_is_kept_for_publishing_and_never_more_than_a_tenth() {
        let secs = Duration::from_secs;
        let long = Deadline::new(Timestamp(0), secs(1_000), secs(60));
        assert_eq!(long.work_left(Timestamp(0)), secs(940));
        assert_eq!(long.left(Timestamp(990_000)), secs(10));
        assert_eq!(long.work_left(Timestamp(990_000)), Duration::ZERO);
        assert_eq!(Deadline::new(Timestamp(0), secs(10), secs(60)).work_left(Timestamp(0)), secs(9));
        // One that was moved to before its own beginning keeps nothing, and is over.
        let over = Deadline::until(Timestamp(5_000), Timestamp(0), secs(60));
        assert_eq!((over.work_until(), over.left(Timestamp(5_000))), (Timestamp(0), Duration::ZERO));
    }
}
