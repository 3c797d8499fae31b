//! What follows the end of an attempt. This is the only file that decides whether a failure is retried.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::outcome::OutcomeClass;
use super::state::JobState;
use crate::clock::human;

/// How often and how soon jobs are tried again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetryPolicy {
    /// How many attempts a job may burn when it does not say.
    pub attempts: u32,
    /// How often infrastructure may fail a job before the job is failed as a poison pill.
    pub resets: u32,
    /// The wait before the second attempt; it doubles with each further one.
    #[serde(with = "human")]
    pub backoff: Duration,
    /// The longest wait.
    #[serde(with = "human")]
    pub backoff_max: Duration,
}

/// What a further attempt at a job begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RetryFrom {
    /// The base, and nothing else.
    Clean,
    /// The base with what the attempt before it left, where that is there and the base is still the same.
    Salvage,
}

impl std::str::FromStr for RetryFrom {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "clean" => Ok(Self::Clean),
            "salvage" => Ok(Self::Salvage),
            _ => Err("there are clean and salvage".to_owned()),
        }
    }
}

/// What a job has used up so far, the attempt that just ended not included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Used {
    /// Attempts burnt.
    pub attempts: u32,
    /// Attempts that infrastructure failed.
    pub resets: u32,
    /// Attempts that the job may burn.
    pub attempts_max: u32,
}

/// What becomes of a job when an attempt has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextStep {
    /// The job has ended.
    End(JobState),
    /// The job waits, then runs again.
    Retry {
        /// How long it waits.
        after: Duration,
        /// What the attempt that ended is charged to.
        charge: Charge,
    },
    /// The job waits until somebody answers, and then runs again.
    Ask,
}

/// What an ended attempt is charged to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Charge {
    /// The job's attempts: it was the job's own failure.
    Attempt,
    /// The job's resets: infrastructure failed it.
    Reset,
    /// Nothing: the worker gave the job back in good order, its backend's credential was used up, or it asked a question.
    Nothing,
}

/// What an attempt that ended with `class` is charged to.
#[must_use]
pub const fn charge(class: OutcomeClass) -> Charge {
    match class {
        OutcomeClass::Infrastructure | OutcomeClass::LeaseLost => Charge::Reset,
        OutcomeClass::Released | OutcomeClass::UsageLimit | OutcomeClass::Clarification => Charge::Nothing,
        _ => Charge::Attempt,
    }
}

impl RetryPolicy {
    /// Decides what follows an attempt that ended with `class`. `jitter`, in `0.0..1.0`, spreads the waits: the result is
    /// between half of the exponential wait and all of it.
    #[must_use]
    pub fn next_step(&self, class: OutcomeClass, used: Used, jitter: f64) -> NextStep {
        use OutcomeClass as C;
        match class {
            C::Succeeded => NextStep::End(JobState::Succeeded),
            C::Cancelled | C::Dependency => NextStep::End(JobState::Cancelled),
            C::Conflict | C::Invalid | C::Expired => NextStep::End(JobState::Failed),
            // When a limit is reset is the credential's affair, not the job's: see `pause`.
            C::Released | C::UsageLimit => NextStep::Retry { after: Duration::ZERO, charge: Charge::Nothing },
            C::Clarification => NextStep::Ask,
            // No attempt begins as long as the budget is used up: whether the job waits for another, or fails, is the ledger's affair.
            C::Budget if used.attempts + 1 < used.attempts_max => {
                NextStep::Retry { after: Duration::ZERO, charge: Charge::Attempt }
            }
            C::Infrastructure | C::LeaseLost if used.resets < self.resets => {
                NextStep::Retry { after: self.wait(used.resets, jitter), charge: Charge::Reset }
            }
            C::NoChange | C::Backend | C::Gate | C::Timeout | C::Stalled | C::OutOfMemory | C::OutOfDisk
                if used.attempts + 1 < used.attempts_max =>
            {
                NextStep::Retry { after: self.wait(used.attempts, jitter), charge: Charge::Attempt }
            }
            C::Infrastructure
            | C::LeaseLost
            | C::Budget
            | C::NoChange
            | C::Backend
            | C::Gate
            | C::Timeout
            | C::Stalled
            | C::OutOfMemory
            | C::OutOfDisk => NextStep::End(JobState::Failed),
        }
    }

    fn wait(&self, times_before: u32, jitter: f64) -> Duration {
        let full = self.backoff.saturating_mul(2_u32.saturating_pow(times_before.min(31))).min(self.backoff_max);
        full.mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: RetryPolicy =
        RetryPolicy { attempts: 1, resets: 3, backoff: Duration::from_secs(10), backoff_max: Duration::from_secs(60) };

    fn check(class: OutcomeClass, used: (u32, u32, u32), expected: NextStep) {
        let used = Used { attempts: used.0, resets: used.1, attempts_max: used.2 };
        assert_eq!(POLICY.next_step(class, used, 1.0), expected, "{class} after {used:?}");
    }

    const fn retry(secs: u64, charge: Charge) -> NextStep {
        NextStep::Retry { after: Duration::from_secs(secs), charge }
    }

    #[test]
    fn the_class_decides_what_follows() {
        let failed = NextStep::End(JobState::Failed);
        check(OutcomeClass::Succeeded, (0, 0, 3), NextStep::End(JobState::Succeeded));
        check(OutcomeClass::Cancelled, (0, 0, 3), NextStep::End(JobState::Cancelled));
        check(OutcomeClass::Backend, (0, 0, 1), failed);
        check(OutcomeClass::Backend, (0, 0, 3), retry(10, Charge::Attempt));
        check(OutcomeClass::Gate, (1, 0, 3), retry(20, Charge::Attempt));
        check(OutcomeClass::Timeout, (2, 0, 3), failed);
        check(OutcomeClass::Budget, (1, 0, 3), retry(0, Charge::Attempt));
        check(OutcomeClass::Budget, (2, 0, 3), failed);
        check(OutcomeClass::Stalled, (2, 0, 3), failed);
        check(OutcomeClass::Conflict, (0, 0, 3), failed);
        check(OutcomeClass::Invalid, (0, 0, 3), failed);
    }

    #[test]
    fn infrastructure_never_burns_an_attempt_but_is_not_tried_for_ever() {
        check(OutcomeClass::Infrastructure, (0, 0, 1), retry(10, Charge::Reset));
        check(OutcomeClass::LeaseLost, (0, 2, 1), retry(40, Charge::Reset));
        check(OutcomeClass::Infrastructure, (0, 3, 1), NextStep::End(JobState::Failed));
        check(OutcomeClass::Released, (0, 3, 1), retry(0, Charge::Nothing));
        check(OutcomeClass::UsageLimit, (0, 3, 1), retry(0, Charge::Nothing));
        check(OutcomeClass::Clarification, (0, 3, 1), NextStep::Ask);
    }

    #[test]
    fn waits_double_up_to_the_longest_and_are_spread() {
        let wait = |before, jitter| POLICY.wait(before, jitter);
        assert_eq!(wait(1, 1.0), Duration::from_secs(20));
        assert_eq!(wait(9, 1.0), Duration::from_secs(60));
        assert_eq!(wait(31, 0.0), Duration::from_secs(30));
        assert_eq!(wait(0, 0.0), Duration::from_secs(5));
    }
}
