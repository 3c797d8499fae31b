//! Pauses of credentials: how long nothing that uses a credential is started after its provider said that it is used up. Pure.
//!
//! The one rule: what ran already when a pause began says nothing new about the credential. So many attempts that meet the same
//! limit at once count once, and only one that began after the pause was over counts as the next in a row.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::clock::{Timestamp, human};

/// `[queue.pause]`: how long credentials are paused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PausePolicy {
    /// The first pause where nobody says when the limit is reset; it doubles with each further one in a row.
    #[serde(with = "human")]
    pub backoff: Duration,
    /// The longest of these.
    #[serde(with = "human")]
    pub backoff_max: Duration,
    /// The longest pause where a reset is told: one that is further away is taken for this far.
    #[serde(with = "human")]
    pub reset_max: Duration,
}

/// A credential whose usage limit was met.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Pause {
    /// The credential, as backends name it.
    pub credential: String,
    /// Since when.
    pub since: Timestamp,
    /// Nothing that uses it is started before then.
    pub until: Timestamp,
    /// What was said of the limit.
    pub reason: String,
    /// How often in a row it was met again as soon as it was tried.
    pub times: u32,
    /// Whether the provider said when its limit is reset; else the end is a guess.
    pub reset_known: bool,
}

/// What an attempt says of a limit that it met.
#[derive(Debug, Clone, Copy)]
pub struct LimitMet<'a> {
    /// The credential.
    pub credential: &'a str,
    /// When the limit is reset, where that is known. A moment that is over is no answer.
    pub retry_at: Option<Timestamp>,
    /// In words.
    pub reason: &'a str,
    /// When the attempt began.
    pub began: Timestamp,
}

impl Pause {
    /// Whether it is in force.
    #[must_use]
    pub fn is_on(&self, now: Timestamp) -> bool {
        self.until > now
    }
}

impl PausePolicy {
    /// The pause that follows from a limit that was met, after the one `before` that is on record.
    #[must_use]
    pub fn after(&self, before: Option<&Pause>, met: &LimitMet<'_>, now: Timestamp) -> Pause {
        let told = met.retry_at.filter(|at| *at > now).map(|at| at.min(now + self.reset_max));
        let pause = |since, until, times| Pause {
            credential: met.credential.to_owned(),
            since,
            until,
            reason: met.reason.to_owned(),
            times,
            reset_known: told.is_some(),
        };
        match before {
            Some(before) if met.began < before.until && before.is_on(now) => match told.filter(|at| *at > before.until) {
                Some(at) => pause(before.since, at, before.times),
                None => before.clone(),
            },
            Some(before) if met.began < before.until => {
                pause(now, told.unwrap_or_else(|| now + self.wait(before.times)), before.times)
            }
            Some(before) => {
                let times = before.times.saturating_add(1);
                // A reset that turned out wrong is not believed at once again: nothing else bounds how often this goes on.
                let least = now + self.wait(before.times);
                pause(now, told.map_or_else(|| now + self.wait(times), |at| at.max(least)), times)
            }
            None => pause(now, told.unwrap_or_else(|| now + self.wait(1)), 1),
        }
    }

    fn wait(&self, times: u32) -> Duration {
        self.backoff.saturating_mul(2_u32.saturating_pow(times.saturating_sub(1).min(31))).min(self.backoff_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: PausePolicy = PausePolicy {
        backoff: Duration::from_secs(60),
        backoff_max: Duration::from_secs(300),
        reset_max: Duration::from_secs(10_000),
    };
    const NOW: Timestamp = Timestamp(1_000_000);

    fn before(until_s: i64, times: u32) -> Option<Pause> {
        let until = Timestamp(NOW.0 + until_s * 1_000);
        let reason = "before".to_owned();
        Some(Pause { credential: "c".to_owned(), since: Timestamp(1), until, reason, times, reset_known: false })
    }

    #[test]
    fn a_pause_lasts_until_the_reset_or_longer_each_time() {
        // Seconds from now: the end of the one before, the reset, the attempt's begin; then the end and the number in a row.
        let check = |before: Option<Pause>, retry: Option<i64>, began: i64, until: i64, times: u32| {
            let at = |s: i64| Timestamp(NOW.0 + s * 1_000);
            let met = LimitMet { credential: "c", retry_at: retry.map(at), reason: "now", began: at(began) };
            let found = POLICY.after(before.as_ref(), &met, NOW);
            assert_eq!((found.until, found.times), (at(until), times), "{before:?} {retry:?} {began}");
        };
        check(None, None, -9, 60, 1);
        check(None, Some(20), -9, 20, 1);
        check(None, Some(-20), -9, 60, 1);
        check(None, Some(1_000_000), -9, 10_000, 1);
        // In a row: it began after the one before was over.
        check(before(-10, 1), None, -9, 120, 2);
        check(before(-10, 2), None, -9, 240, 3);
        check(before(-10, 30), None, -9, 300, 31);
        check(before(-10, 1), Some(1), -9, 60, 2);
        check(before(-10, 1), Some(900), -9, 900, 2);
        // It ran when the one before began.
        check(before(30, 2), None, -9, 30, 2);
        check(before(30, 2), Some(20), -9, 30, 2);
        check(before(30, 2), Some(90), -9, 90, 2);
        check(before(-5, 2), None, -9, 120, 2);
        check(before(-5, 2), Some(7), -9, 7, 2);
    }
}
