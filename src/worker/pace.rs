//! How soon a hint is followed: at once, unless many of them have led to nothing lately.
//!
//! The one rule: whoever finds nothing waits longer before it follows the next hint, and who has heard no hint for a while
//! follows the next one at once. So a lone worker starts a job as soon as it is there, and a thousand that wait for the same jobs do
//! not all ask for each of them.

use std::time::{Duration, Instant};

/// The wait after the first hint that led to nothing. It doubles with each further one.
const FIRST: Duration = Duration::from_millis(4);

/// The pace of one who follows hints.
#[derive(Debug)]
pub(super) struct Pace {
    longest: Duration,
    pause: Duration,
    looked: Instant,
    due: Instant,
}

impl Pace {
    /// One that waits for `longest` at most.
    pub(super) fn new(longest: Duration) -> Self {
        let now = Instant::now();
        Self { longest, pause: Duration::ZERO, looked: now, due: now }
    }

    /// The moment before which no hint is followed.
    pub(super) const fn due(&self) -> Instant {
        self.due
    }

    /// Notes a look that led to something.
    pub(super) fn found(&mut self, now: Instant) {
        *self = Self { pause: Duration::ZERO, looked: now, due: now, ..*self };
    }

    /// Notes a look that led to nothing.
    pub(super) fn found_nothing(&mut self, now: Instant) {
        let quiet = now.saturating_duration_since(self.looked) > self.longest * 2;
        self.pause = if quiet { FIRST } else { (self.pause * 2).max(FIRST) }.min(self.longest);
        self.looked = now;
        // Anywhere within the pause, so that those who heard the same hint do not look together.
        self.due = now + self.pause.mul_f64(rand::random_range(0.0..=1.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_millis(250);

    /// The pause after so many looks without a find, `gap` apart.
    fn pause_after(looks: u32, gap: Duration) -> Duration {
        let mut pace = Pace::new(LONGEST);
        let mut now = pace.looked;
        for _ in 0..looks {
            now += gap;
            pace.found_nothing(now);
            assert!(pace.due() >= now && pace.due() <= now + pace.pause);
        }
        pace.pause
    }

    #[test]
    fn looks_that_lead_to_nothing_become_rare() {
        let soon = Duration::from_millis(1);
        assert_eq!(pause_after(1, soon), FIRST);
        assert_eq!(pause_after(4, soon), FIRST * 8);
        assert_eq!(pause_after(100, soon), LONGEST);
    }

    #[test]
    fn a_find_or_a_quiet_time_makes_the_next_look_immediate() {
        assert_eq!(pause_after(100, LONGEST * 3), FIRST);
        let mut pace = Pace::new(LONGEST);
        let now = pace.looked;
        (0..9).for_each(|_| pace.found_nothing(now));
        pace.found(now);
        assert_eq!(pace.due(), now);
        pace.found_nothing(now);
        assert_eq!(pace.pause, FIRST);
    }
}
