//! Whose turn it is: where a job comes in among those of the same route and priority.
//!
//! The one rule: shares take turns. A share's next job comes in one stride behind its last one that waits, and where none of its
//! jobs waits, level with the job that is next; so a share that comes late waits for one round and not for a backlog. (Start-time
//! fair queueing, Goyal, Vin and Cheng 1996, with the head of the queue for its virtual time.) Everything that is needed is
//! read from the ends of two indexes (of one for each route, where none of the job's own waits), so it costs the same whatever
//! waits, and nobody waits for a counter.
//!
//! What comes back into the queue (a backoff that is over, a limit that has room) comes in level with the job that is next; the
//! older of two is first.

/// The stride of a share of weight 1.
const STRIDE: i64 = 1_000_000;

/// The highest weight.
pub(super) const WEIGHT_MAX: u32 = 1_000;

/// How far apart the jobs of a share of `weight` are: the higher its weight, the more often it is its turn.
pub(super) fn stride(weight: u32) -> i64 {
    STRIDE / i64::from(weight.clamp(1, WEIGHT_MAX))
}

/// Where the queue of a route and a priority has come to: the position of the job that is next, and where none waits that of the
/// job that is next of all routes, so that they keep pace. Each is the end of an index.
macro_rules! level {
    ($route:literal, $priority:literal) => {
        concat!(
            "(SELECT h.position FROM jobs h WHERE h.state = 'queued' AND h.held IS NULL AND h.route = ",
            $route,
            " AND h.priority = ",
            $priority,
            " ORDER BY h.position, h.id LIMIT 1), \
             (SELECT min((SELECT h.position FROM jobs h WHERE h.state = 'queued' AND h.held IS NULL AND h.route = r.id \
             AND h.priority = ",
            $priority,
            " ORDER BY h.position, h.id LIMIT 1)) FROM routes r)"
        )
    };
}
pub(super) use level;

/// The position of a new job: `$1` is its route, `$2` its priority, `$3` its share, `$4` the stride.
pub(super) const NEW: &str = concat!(
    "coalesce((SELECT t.position + $4 FROM jobs t WHERE t.state = 'queued' AND t.held IS NULL AND t.route = $1 \
     AND t.priority = $2 AND t.share = $3 ORDER BY t.position DESC LIMIT 1), ",
    level!("$1", "$2"),
    ", 0)"
);

/// The position with which a row of `jobs` comes back into the queue. Never its old one, which may be far before the others:
/// whoever comes in level with it would pass them.
macro_rules! back {
    () => {
        concat!("coalesce(", $crate::store::turn::level!("jobs.route", "jobs.priority"), ", jobs.position)")
    };
}
pub(super) use back;
