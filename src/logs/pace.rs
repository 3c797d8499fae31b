//! When the shipper looks at the spool: often while something is going on, rarely otherwise. It reads no clock.

use std::time::Duration;

use tokio::time::Instant;

/// How often the files are looked at while something is going on, and at the least.
const LOOK: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(50)];
/// For how long after the last output something is going on.
const ACTIVE: Duration = Duration::from_secs(1);

/// When to look next, and what has waited for how long.
pub(super) struct Pace {
    unread: u64,
    unread_since: Option<Instant>,
    last_growth: Instant,
    interval: Duration,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self { unread: 0, unread_since: None, last_growth: now, interval: LOOK[0] }
    }

    pub(super) fn saw(&mut self, unread: u64, now: Instant) {
        if unread != self.unread {
            (self.last_growth, self.interval) = (now, LOOK[0]);
        }
        self.unread = unread;
        self.unread_since = if unread == 0 { None } else { self.unread_since.or(Some(now)) };
    }

    /// All whole lines were taken; what is left of them waits from now on.
    pub(super) fn took(&mut self, now: Instant) {
        (self.unread, self.unread_since) = (0, None);
        (self.last_growth, self.interval) = (now, LOOK[0]);
    }

    /// How long the oldest output has waited.
    pub(super) fn waited(&self, now: Instant) -> Duration {
        self.unread_since.map_or(Duration::ZERO, |since| now - since)
    }

    /// How long nothing was written.
    pub(super) fn quiet(&self, now: Instant) -> Duration {
        now - self.last_growth
    }

    pub(super) fn next_look(&mut self, now: Instant) -> Duration {
        if self.unread == 0 && self.quiet(now) > ACTIVE {
            self.interval = (self.interval * 2).min(LOOK[1]);
        }
        self.interval
    }
}
