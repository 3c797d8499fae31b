//! What happens to the workers and the database, and when: drawn from a seed, the same for the same seed.
//!
//! The decisions do not depend on what the processes do. Whether one can be carried out (a worker that is down cannot be
//! stopped) is found out when its time comes.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::server::Stop;

/// One thing that happens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Event {
    /// The daemon is killed, and started again after a while.
    Kill { worker: usize, back: Duration },
    /// Its whole host goes: daemon, supervisors, jobs and git are killed, and it is started again after a while.
    Crash { worker: usize, back: Duration },
    /// The daemon is asked to stop twice, and started again after a while.
    Terminate { worker: usize, back: Duration },
    /// The daemon is stopped for a while.
    Suspend { worker: usize, span: Duration },
    /// Its whole host is stopped for a while.
    Freeze { worker: usize, span: Duration },
    /// Its connections are reset, and for a while every new one.
    Cut { worker: usize, span: Duration },
    /// Nothing passes between it and the database for a while.
    Silence { worker: usize, span: Duration },
    /// Everything between it and the database takes longer for a while.
    Slow { worker: usize, delay: Duration, span: Duration },
    /// The database is stopped, and started again after a while.
    Restart { how: Stop, down: Duration },
}

/// What there is to be tortured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Victims {
    pub(super) workers: usize,
    pub(super) lease: Duration,
    /// Whether there is a server that can be restarted, and links that can be cut.
    pub(super) server: bool,
}

/// An endless list of events, each with the wait before it.
pub(super) struct Schedule {
    rng: StdRng,
    victims: Victims,
}

impl Schedule {
    pub(super) fn new(seed: u64, victims: Victims) -> Self {
        Self { rng: StdRng::seed_from_u64(seed), victims }
    }

    /// A while that is shorter than the lease as often as it is longer.
    fn span(&mut self) -> Duration {
        let lease = self.victims.lease;
        let share = if self.rng.random_bool(0.5) { self.rng.random_range(0.05..0.85) } else { self.rng.random_range(1.1..2.5) };
        lease.mul_f64(share)
    }

    fn back(&mut self) -> Duration {
        if self.rng.random_bool(0.4) { Duration::from_millis(self.rng.random_range(0..300)) } else { self.span() }
    }
}

impl Iterator for Schedule {
    type Item = (Duration, Event);

    fn next(&mut self) -> Option<Self::Item> {
        let wait = Duration::from_millis(self.rng.random_range(100..1_100));
        let worker = self.rng.random_range(0..self.victims.workers);
        let most = if self.victims.server { 100 } else { 68 };
        let event = match self.rng.random_range(0..most) {
            0..24 => Event::Kill { worker, back: self.back() },
            24..34 => Event::Crash { worker, back: self.back() },
            34..40 => Event::Terminate { worker, back: self.back() },
            40..58 => Event::Suspend { worker, span: self.span() },
            58..68 => Event::Freeze { worker, span: self.span() },
            68..80 => Event::Cut { worker, span: self.span().mul_f64(0.5) },
            80..89 => Event::Silence { worker, span: self.span() },
            89..94 => {
                let delay = Duration::from_millis(self.rng.random_range(10..150));
                Event::Slow { worker, delay, span: self.span() }
            }
            _ => {
                let how = if self.rng.random_bool(0.6) { Stop::Immediate } else { Stop::Fast };
                Event::Restart { how, down: self.span().mul_f64(0.5) }
            }
        };
        Some((wait, event))
    }
}

#[test]
fn the_same_seed_makes_the_same_decisions() {
    let victims = Victims { workers: 8, lease: Duration::from_secs(3), server: true };
    let drawn = |seed| Schedule::new(seed, victims).take(200).collect::<Vec<_>>();
    assert_eq!(drawn(7), drawn(7));
    assert_ne!(drawn(7), drawn(8));
}
