//! Where claims go on: behind the last job that was claimed, not over all that were claimed before it.
//!
//! The one rule: nothing that may have come in before that place is passed by for longer than [`LONGEST`], and nothing at all that
//! this process has heard of. What was claimed stays in the index until it is vacuumed, and for as long as anybody holds an old
//! snapshot open (a backup, a report): every claim that began at the front would walk over all of it.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;

/// After so long a claim begins at the front again.
const LONGEST: Duration = Duration::from_millis(20);

/// A place in the order of claims of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) priority: i64,
    pub(super) position: i64,
    pub(super) id: Uuid,
}

#[derive(Debug, Clone, Copy)]
struct Walk {
    began: Instant,
    /// How often something had come in, as far as this process had heard.
    arrivals: u64,
    last: Place,
}

/// How far this process has come, for each route.
#[derive(Debug, Default)]
pub(super) struct Walks {
    walks: Mutex<BTreeMap<i64, Walk>>,
}

impl Walks {
    /// The place behind which a claim of this route may begin.
    pub(super) fn place(&self, route: i64, arrivals: u64) -> Option<Place> {
        let walks = self.walks.lock().unwrap_or_else(PoisonError::into_inner);
        let walk = walks.get(&route)?;
        (walk.arrivals == arrivals && walk.began.elapsed() < LONGEST).then_some(walk.last)
    }

    /// Notes how far a claim came that began at `from`, and found as much as it wanted; `arrivals` are those before it.
    pub(super) fn came_to(&self, route: i64, from: Option<Place>, last: Place, arrivals: u64) {
        let mut walks = self.walks.lock().unwrap_or_else(PoisonError::into_inner);
        let began = walks.get(&route).filter(|_| from.is_some()).map_or_else(Instant::now, |walk| walk.began);
        walks.insert(route, Walk { began, arrivals, last });
    }

    /// Has the next claim of this route begin at the front.
    pub(super) fn end(&self, route: i64) {
        self.walks.lock().unwrap_or_else(PoisonError::into_inner).remove(&route);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_goes_on_until_something_comes_in_or_it_ends() {
        let place = |position| Place { priority: 1, position, id: Uuid::nil() };
        let walks = Walks::default();
        assert_eq!(walks.place(7, 0), None);
        walks.came_to(7, None, place(1), 0);
        assert_eq!((walks.place(7, 0), walks.place(8, 0)), (Some(place(1)), None));
        walks.came_to(7, Some(place(1)), place(2), 0);
        assert_eq!(walks.place(7, 0), Some(place(2)));
        assert_eq!(walks.place(7, 1), None, "something came in");
        walks.end(7);
        assert_eq!(walks.place(7, 0), None);
    }

    #[test]
    fn a_walk_is_over_after_a_while_however_far_it_came() {
        let walks = Walks::default();
        let began = Instant::now().checked_sub(LONGEST).expect("the clock has run for so long");
        let last = Place { priority: 1, position: 1, id: Uuid::nil() };
        walks.walks.lock().expect("no panic").insert(7, Walk { began, arrivals: 0, last });
        assert_eq!(walks.place(7, 0), None);
        walks.came_to(7, Some(last), last, 0);
        assert_eq!(walks.place(7, 0), None, "it began as long ago as before");
    }
}
