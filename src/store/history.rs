//! What was started lately: how fast jobs leave the queue, and how long attempts take.
//!
//! The one rule: it is read from samples of a bounded size, however much was started, and good for [`FRESH`] to all that ask in
//! a process. The newest starts tell the pace; starts from further back tell durations, as those of the newest that have ended
//! already are the short ones.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Store;
use super::error::StoreError;
use super::statement::{Arg, args};
use crate::clock::Timestamp;

/// An arm: the last starts up to a moment. Joined by the primary key, so that its cost is that of its limit.
const STARTS: &str =
    "SELECT a.job, a.attempt, a.started_at, a.ended_at, j.share, j.route FROM attempts a JOIN jobs j ON j.id = a.job WHERE ";

/// How far back the newest starts are looked for.
pub(super) const LATELY: Duration = Duration::from_secs(600);
/// The most of them.
const NEWEST: u32 = 500;
/// How far back the samples for durations begin, in seconds.
const AGES_S: [u64; 6] = [20, 120, 600, 3_600, 14_400, 43_200];
/// How many starts each of these has at most.
const SAMPLE: u32 = 50;
/// How long what was read is good for.
const FRESH: Duration = Duration::from_secs(5);

/// What was started lately.
#[derive(Debug)]
pub(super) struct History {
    read_at: Timestamp,
    newest: Vec<Start>,
    samples: Vec<Start>,
}

#[derive(Debug, Clone, sqlx::FromRow)]
pub(super) struct Start {
    job: uuid::Uuid,
    attempt: i64,
    started_at: i64,
    ended_at: Option<i64>,
    share: String,
    route: i64,
}

/// What this process read last.
#[derive(Debug, Default)]
pub(super) struct Recent {
    read: Mutex<Option<(Instant, Arc<History>)>>,
}

/// How many jobs start in how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pace {
    pub(super) starts: u32,
    pub(super) within: Duration,
}

impl Pace {
    /// How long so many starts take.
    pub(super) fn time_for(self, starts: u32) -> Duration {
        self.within.mul_f64(f64::from(starts) / f64::from(self.starts.max(1)))
    }

    /// How many there are in a minute.
    pub(super) fn per_minute(self) -> f64 {
        f64::from(self.starts) * 60.0 / self.within.as_secs_f64()
    }
}

/// How long attempts take, as far as a sample tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Durations {
    pub(super) mean: Duration,
    pub(super) ended: u32,
}

impl History {
    /// How fast jobs of a project, or all, start. Absent where none did [`LATELY`].
    pub(super) fn pace(&self, project: Option<&str>) -> Option<Pace> {
        let of_it = |start: &&Start| project.is_none_or(|project| start.share == project);
        let starts = u32::try_from(self.newest.iter().filter(of_it).count()).unwrap_or(u32::MAX);
        // The first of all, whosever it is: as far back as was looked.
        let first = self.newest.iter().map(|start| start.started_at).min()?;
        // Less than a second says nothing about a minute.
        let within = self.read_at.since(Timestamp(first)).max(Duration::from_secs(1));
        (starts > 0).then_some(Pace { starts, within })
    }

    /// How long the attempts of these routes take. Absent where none of them has ended.
    ///
    /// The time spent in all of them over the number of those that ended: one that still runs counts with what it has taken so
    /// far, so that short ones are not all that is seen.
    pub(super) fn durations(&self, routes: &BTreeSet<i64>) -> Option<Durations> {
        let of_them = || self.samples.iter().filter(|start| routes.contains(&start.route));
        let spent = |start: &Start| Timestamp(start.ended_at.unwrap_or(self.read_at.0)).since(Timestamp(start.started_at));
        let ended = u32::try_from(of_them().filter(|start| start.ended_at.is_some()).count()).unwrap_or(u32::MAX);
        let total: Duration = of_them().map(spent).sum();
        (ended > 0).then(|| Durations { mean: total / ended, ended })
    }
}

impl Store {
    /// What was started lately, as of a few seconds ago at most.
    pub(super) async fn history(&self) -> Result<Arc<History>, StoreError> {
        let recent = &self.inner.recent;
        let known = recent.read.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((at, history)) = known
            && at.elapsed() < FRESH
        {
            return Ok(history);
        }
        self.history_afresh().await
    }

    /// What was started lately, as of now.
    pub(super) async fn history_afresh(&self) -> Result<Arc<History>, StoreError> {
        let recent = &self.inner.recent;
        let history = Arc::new(self.read_history().await?);
        *recent.read.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), history.clone()));
        Ok(history)
    }

    async fn read_history(&self) -> Result<History, StoreError> {
        let read_at = self.now();
        let newest = format!("{STARTS} a.started_at > $1 ORDER BY a.started_at DESC LIMIT {NEWEST}");
        let newest: Vec<Start> = self.db().all(&newest, args![read_at - LATELY]).await?;
        let arm = |number| {
            format!("SELECT * FROM ({STARTS} a.started_at <= ${number} ORDER BY a.started_at DESC LIMIT {SAMPLE}) AS s{number}")
        };
        let arms: Vec<String> = (1..=AGES_S.len()).map(arm).collect();
        let args = AGES_S.map(|age| Arg::from(read_at - Duration::from_secs(age))).to_vec();
        let mut samples: Vec<Start> = self.db().all(&arms.join(" UNION ALL "), args).await?;
        samples.extend(newest.iter().take(SAMPLE as usize).cloned());
        // Where little was started, samples share what they have.
        let mut seen = BTreeSet::new();
        samples.retain(|start| seen.insert((start.job, start.attempt)));
        Ok(History { read_at, newest, samples })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(route: i64, share: &str, started_at: i64, ended_at: Option<i64>) -> Start {
        Start { job: uuid::Uuid::nil(), attempt: 1, started_at, ended_at, share: share.to_owned(), route }
    }

    #[test]
    fn the_pace_is_what_started_over_how_far_back_was_looked() {
        let newest = vec![start(1, "app", 90_000, None), start(1, "", 70_000, None), start(1, "app", 40_000, None)];
        let history = History { read_at: Timestamp(100_000), newest, samples: Vec::new() };
        assert_eq!(history.pace(None), Some(Pace { starts: 3, within: Duration::from_secs(60) }));
        assert_eq!(history.pace(Some("app")), Some(Pace { starts: 2, within: Duration::from_secs(60) }));
        assert_eq!(history.pace(Some("site")), None);
        assert_eq!(history.pace(None).map(|pace| pace.time_for(6)), Some(Duration::from_secs(120)));
        let none = History { newest: Vec::new(), ..history };
        assert_eq!(none.pace(None), None);
    }

    #[test]
    fn attempts_that_still_run_count_with_what_they_have_taken() {
        let samples = vec![start(1, "", 0, Some(10_000)), start(1, "", 70_000, None), start(2, "", 0, Some(99_000))];
        let history = History { read_at: Timestamp(100_000), newest: Vec::new(), samples };
        let of = |routes: &[i64]| history.durations(&routes.iter().copied().collect());
        assert_eq!(of(&[1]), Some(Durations { mean: Duration::from_secs(40), ended: 1 }));
        assert_eq!(of(&[2]), Some(Durations { mean: Duration::from_secs(99), ended: 1 }));
        assert_eq!(of(&[3]), None);
    }
}
