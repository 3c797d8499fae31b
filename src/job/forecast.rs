//! When a job that waits may be expected to start, and how many are before it.
//!
//! The one rule: what is not known is said to be unknown, with the reason, and is never an error. It is the arithmetic of a queue
//! with several servers: whoever is behind n others waits until n + 1 of the slots that it shares with them have become free.
//! Turns of jobs that have waited too long, jobs that are still to come and the limits that hold others are left out.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::clock::{Timestamp, millis};

/// What is to be expected of a job that waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Forecast {
    /// How many jobs are before it: of those that its workers can take, or, where a limit holds it, of those that the limit holds.
    /// Absent for a job that has no place yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ahead: Option<u64>,
    /// Whether there are more than that; they were not counted to the end.
    #[serde(default)]
    pub or_more: bool,
    /// When it may be expected to start; where `or_more`, not before. Absent where that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_start: Option<Timestamp>,
    /// Why there is no `expected_start`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown: Option<String>,
    /// The slots of the live workers that can take it, or as many of these as a limit leaves.
    #[serde(default)]
    pub slots: u32,
    /// How long attempts at jobs that these workers take last on average, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean_ms: Option<i64>,
}

/// Servers of a queue, and how many are in it: the slots of workers, or the room of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line {
    /// How many are before the job.
    pub ahead: u64,
    /// Whether there are more than that.
    pub or_more: bool,
    /// How many can run at once.
    pub slots: u32,
    /// How many of these are free.
    pub free: u32,
}

impl Line {
    /// How long the job waits in it, when each takes `mean`. Absent where that matters and is not known.
    fn wait(&self, mean: Option<Duration>) -> Option<Duration> {
        if self.ahead < u64::from(self.free) && !self.or_more {
            return Some(Duration::ZERO);
        }
        let ends = (self.ahead + 1).saturating_sub(self.free.into());
        mean.map(|mean| Duration::from_secs_f64(mean.as_secs_f64() * ends as f64 / f64::from(self.slots.max(1))))
    }
}

impl Forecast {
    /// A job that has no place yet, and why.
    #[must_use]
    pub fn unknown(why: impl Into<String>) -> Self {
        Self { ahead: None, or_more: false, expected_start: None, unknown: Some(why.into()), slots: 0, mean_ms: None }
    }

    /// The same with a reason in place of an expected start.
    #[must_use]
    pub fn because(self, why: impl Into<String>) -> Self {
        Self { expected_start: None, unknown: Some(why.into()), ..self }
    }

    /// A job in several lines at once: that of the workers first, then those of the limits that it is under. It starts when it
    /// has come through all of them. `mean` is how long attempts take.
    #[must_use]
    pub fn of(lines: &[Line], mean: Option<Duration>, now: Timestamp) -> Self {
        let Some(first) = lines.first() else { return Self::unknown("it stands in no line") };
        let wait = lines.iter().map(|line| line.wait(mean)).try_fold(Duration::ZERO, |longest, wait| Some(longest.max(wait?)));
        Self {
            ahead: Some(first.ahead),
            or_more: lines.iter().any(|line| line.or_more),
            expected_start: wait.map(|wait| now + wait),
            unknown: wait.is_none().then(|| "no attempt at a job like those before it is known to have ended lately".to_owned()),
            slots: lines.iter().map(|line| line.slots).min().unwrap_or(0),
            mean_ms: mean.map(millis),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_000);

    fn line(ahead: u64, slots: u32, free: u32) -> Line {
        Line { ahead, or_more: false, slots, free }
    }

    #[test]
    fn who_is_behind_others_waits_until_enough_slots_have_become_free() {
        let check = |lines: &[Line], mean_s: Option<u64>, wait_s: Option<u64>| {
            let forecast = Forecast::of(lines, mean_s.map(Duration::from_secs), NOW);
            let expected = wait_s.map(|wait| NOW + Duration::from_secs(wait));
            assert_eq!(forecast.expected_start, expected, "{lines:?}");
            assert_eq!(forecast.unknown.is_some(), expected.is_none());
        };
        check(&[line(0, 4, 1)], None, Some(0));
        check(&[line(1, 4, 1)], None, None);
        check(&[line(1, 4, 1)], Some(60), Some(15));
        check(&[line(0, 4, 0)], Some(60), Some(15));
        check(&[line(99, 4, 0)], Some(60), Some(1_500));
        check(&[line(0, 4, 2), line(3, 1, 0)], Some(60), Some(240));
        check(&[line(99, 4, 0), line(0, 1, 1)], Some(60), Some(1_500));
    }

    #[test]
    fn the_first_line_tells_the_place_and_the_narrowest_how_many_run() {
        let far = Line { ahead: 10_000, or_more: true, slots: 8, free: 8 };
        let forecast = Forecast::of(&[far, line(0, 2, 2)], Some(Duration::from_secs(1)), NOW);
        assert_eq!((forecast.ahead, forecast.or_more, forecast.slots), (Some(10_000), true, 2));
        assert_eq!(forecast.mean_ms, Some(1_000));
        assert!(forecast.expected_start > Some(NOW), "free slots say nothing where it is not known who takes them");
    }
}
