//! How many jobs wait, and whether one more may.
//!
//! The one rule: nobody waits for a count of the queue, but for a process's first job and where the queue seems full. Each
//! process counts now and then, and in between adds what it has admitted itself; it counts again when an eighth of the room is
//! used up, when the count is old, and when the queue seems full; at most for a twentieth of the time. So one process alone
//! never goes beyond a limit, and may for [`FULL_MAX`] take a queue for full that has room again. Several go beyond it together
//! by what the others admit between two counts: at most an eighth of the room that there was, or what they admit while twenty
//! times as long passes as counting takes.
//!
//! What waits is what is queued, also where it is held. What comes back into the queue by itself is never refused.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Store;
use super::error::StoreError;
use super::history::LATELY;
use super::rows::number;
use super::statement::args;
use super::types::NewJob;
use crate::clock::human;

const IN_QUEUE: &str = "SELECT count(*) AS waiting FROM (SELECT 1 AS one FROM jobs WHERE state = 'queued' LIMIT $1) AS w";
/// In the words of the index, which has no other rows.
const IN_PROJECT: &str = "SELECT count(*) AS waiting FROM (SELECT 1 AS one FROM jobs WHERE share = $2 AND share <> '' \
    AND worker IS NULL AND finished_at IS NULL LIMIT $1) AS w";

/// Of the room that a count found, what is used up before the next one.
const SHARE_OF_ROOM: u64 = 8;
/// Counting takes at most one part in so many of the time.
const REST: u32 = 20;
/// But nobody is refused for a count that is older, however long it took: the database may only have been busy then.
const FULL_MAX: Duration = Duration::from_secs(2);
/// A count is not relied on for longer.
const STALE: Duration = Duration::from_secs(5);
/// Who was refused is never told to come back sooner,
const RETRY_MIN: Duration = Duration::from_secs(1);
/// nor later than this,
const RETRY_MAX: Duration = Duration::from_secs(300);
/// and, where nothing tells when there will be room, after this long.
const UNKNOWN: Duration = Duration::from_secs(60);

/// Whose jobs are counted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Scope {
    Queue,
    Project(String),
}

/// The gauges of this process.
#[derive(Debug, Default)]
pub(super) struct Depth {
    gauges: Mutex<BTreeMap<Scope, Arc<Gauge>>>,
}

/// How many jobs of a scope wait, as far as this process knows.
#[derive(Debug, Default)]
struct Gauge {
    level: Mutex<Level>,
    /// Held by who counts.
    counting: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Level {
    counted: Option<Counted>,
    /// Admitted, and perhaps not committed yet.
    pending: u64,
    /// Admitted and committed, and perhaps not in the count.
    admitted: u64,
}

#[derive(Debug, Clone, Copy)]
struct Counted {
    waiting: u64,
    at: Instant,
    took: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Room,
    /// There is room, and it is time to count again.
    RoomAndDue,
    Full,
    /// Only a count can tell.
    Unknown,
}

#[derive(sqlx::FromRow)]
struct Waiting {
    waiting: i64,
}

/// A scope in which as many jobs wait as may.
#[derive(Debug)]
pub(super) struct Full {
    pub(super) scope: Scope,
    pub(super) most: u32,
}

/// Room for one job, which is given back unless it is kept.
#[derive(Debug)]
pub(super) struct Admission {
    gauges: Vec<Arc<Gauge>>,
}

impl Admission {
    /// The job waits: its transaction is committed.
    pub(super) fn keep(mut self) {
        for gauge in self.gauges.drain(..) {
            let mut level = gauge.level();
            level.pending = level.pending.saturating_sub(1);
            level.admitted += 1;
        }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        for gauge in &self.gauges {
            let mut level = gauge.level();
            level.pending = level.pending.saturating_sub(1);
        }
    }
}

impl Level {
    fn judge(&self, most: u64, now: Instant) -> Verdict {
        let Some(Counted { waiting, at, took }) = self.counted else { return Verdict::Unknown };
        let used = self.pending + self.admitted;
        let full = waiting + used >= most;
        let age = now.saturating_duration_since(at);
        let rest = if full { (took * REST).min(FULL_MAX) } else { took * REST };
        match (full, age > rest) {
            (true, true) => Verdict::Unknown,
            (true, false) => Verdict::Full,
            (false, true) if age > STALE || used * SHARE_OF_ROOM >= most - waiting => Verdict::RoomAndDue,
            (false, _) => Verdict::Room,
        }
    }
}

impl Gauge {
    fn level(&self) -> MutexGuard<'_, Level> {
        self.level.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes up room, where there is some by what is known.
    fn take(&self, most: u64, now: Instant) -> Verdict {
        let mut level = self.level();
        let verdict = level.judge(most, now);
        if matches!(verdict, Verdict::Room | Verdict::RoomAndDue) {
            level.pending += 1;
        }
        verdict
    }

    /// Counts, while nobody else in this process does. What is committed before is in the count; what is committed meanwhile may
    /// be, and is added all the same until the next one. Says when that was.
    async fn count(&self, store: &Store, scope: &Scope, most: u32) -> Result<Instant, StoreError> {
        let before = self.level().admitted;
        let start = Instant::now();
        let row: Option<Waiting> = match scope {
            Scope::Queue => store.db().first(IN_QUEUE, args![most]).await?,
            Scope::Project(project) => store.db().first(IN_PROJECT, args![most, project]).await?,
        };
        let waiting = number(row.map_or(0, |row| row.waiting), || "the number of waiting jobs".to_owned())?;
        let mut level = self.level();
        level.admitted = level.admitted.saturating_sub(before);
        let at = Instant::now();
        level.counted = Some(Counted { waiting, at, took: at - start });
        Ok(at)
    }
}

impl Depth {
    fn gauge(&self, scope: &Scope) -> Arc<Gauge> {
        let mut gauges = self.gauges.lock().unwrap_or_else(PoisonError::into_inner);
        match gauges.get(scope) {
            Some(gauge) => gauge.clone(),
            None => gauges.entry(scope.clone()).or_default().clone(),
        }
    }
}

impl Store {
    /// Takes up room for a job in the queue and in its project, or says what is full.
    pub(super) async fn admit(&self, new: &NewJob) -> Result<Result<Admission, Full>, StoreError> {
        let mut admission = Admission { gauges: Vec::new() };
        let of_project = new.spec.project.clone().map(Scope::Project).zip(new.waiting_max);
        let of_queue = (self.config().waiting_max > 0).then_some((Scope::Queue, self.config().waiting_max));
        for (scope, most) in of_project.into_iter().chain(of_queue) {
            let gauge = self.inner.depth.gauge(&scope);
            if !self.take(&gauge, &scope, most).await? {
                return Ok(Err(Full { scope, most }));
            }
            admission.gauges.push(gauge);
        }
        Ok(Ok(admission))
    }

    /// Whether there was room to take up.
    async fn take(&self, gauge: &Arc<Gauge>, scope: &Scope, most: u32) -> Result<bool, StoreError> {
        let mut verdict = gauge.take(most.into(), Instant::now());
        if verdict == Verdict::Unknown {
            let _counting = gauge.counting.lock().await;
            // Whoever counted while we waited may have found out.
            verdict = gauge.take(most.into(), Instant::now());
            if verdict == Verdict::Unknown {
                let counted_at = gauge.count(self, scope, most).await?;
                verdict = gauge.take(most.into(), counted_at);
            }
        }
        if verdict == Verdict::RoomAndDue {
            self.count_aside(gauge, scope, most);
        }
        Ok(matches!(verdict, Verdict::Room | Verdict::RoomAndDue))
    }

    /// Why there is no room, and when there may be: when a hundredth of the limit, at least one job, has left, at the pace of late.
    pub(super) async fn refusal(&self, full: Full) -> Result<StoreError, StoreError> {
        let (what, project) = match &full.scope {
            Scope::Queue => ("the queue".to_owned(), None),
            Scope::Project(project) => (format!("project {project}"), Some(project.as_str())),
        };
        let known = self.history().await?.pace(project);
        // A minute is long for who is told so because the first start was a moment ago.
        let known = if known.is_none() { self.history_afresh().await?.pace(project) } else { known };
        let (pace, retry_after) = match known {
            Some(pace) => {
                (format!("about {:.0} start in a minute", pace.per_minute().ceil()), pace.time_for((full.most / 100).max(1)))
            }
            None => (format!("none has started in the last {}", human::format(LATELY)), UNKNOWN),
        };
        let retry_after = retry_after.clamp(RETRY_MIN, RETRY_MAX);
        let whole = Duration::from_secs(retry_after.as_secs() + u64::from(retry_after.subsec_nanos() > 0));
        Ok(StoreError::QueueFull { what, waiting: full.most, pace, retry_after: whole })
    }

    /// Counts without letting anybody wait for it. A process that ends meanwhile has no use for the count.
    fn count_aside(&self, gauge: &Arc<Gauge>, scope: &Scope, most: u32) {
        let (store, gauge, scope) = (self.clone(), gauge.clone(), scope.clone());
        tokio::spawn(async move {
            let Ok(_counting) = gauge.counting.try_lock() else { return };
            if let Err(error) = gauge.count(&store, &scope, most).await {
                tracing::debug!(%error, "cannot count what waits; it is tried again with the next job");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_relied_on_until_an_eighth_of_the_room_is_used_or_it_is_old() {
        let start = Instant::now();
        let check = |waiting: u64, used: u64, age_ms: u64, expected: Verdict| {
            let counted = Some(Counted { waiting, at: start, took: Duration::from_millis(10) });
            let level = Level { counted, pending: used / 2, admitted: used - used / 2 };
            let now = start + Duration::from_millis(age_ms);
            assert_eq!(level.judge(1_000, now), expected, "{waiting} + {used} after {age_ms} ms");
        };
        check(200, 0, 4_000, Verdict::Room);
        check(200, 99, 4_000, Verdict::Room);
        check(200, 100, 4_000, Verdict::RoomAndDue);
        check(200, 100, 200, Verdict::Room);
        check(200, 0, 5_001, Verdict::RoomAndDue);
        check(999, 0, 0, Verdict::Room);
        check(999, 1, 0, Verdict::Full);
        check(999, 1, 200, Verdict::Full);
        check(999, 1, 201, Verdict::Unknown);
        check(1_000, 0, 5_000, Verdict::Unknown);
        let slow =
            Level { counted: Some(Counted { waiting: 9, at: start, took: Duration::from_secs(1) }), pending: 0, admitted: 0 };
        assert_eq!(slow.judge(9, start + Duration::from_millis(2_001)), Verdict::Unknown);
        assert_eq!(slow.judge(99, start + Duration::from_secs(20)), Verdict::Room);
        assert_eq!(Level::default().judge(1_000, start), Verdict::Unknown, "nothing was counted yet");
    }
}
