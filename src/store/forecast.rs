//! Where a waiting job stands, and when it may start.
//!
//! The one rule: nobody waits for a forecast but who has it. It is read outside of any transaction, each count ends at [`AHEAD_MAX`], and
//! what it says holds for the moment at which it was read.

use std::collections::BTreeSet;

use super::Store;
use super::error::StoreError;
use super::limits::{RUNNING_IN_PROJECT, RUNNING_UNDER_KEY};
use super::rows::number;
use super::statement::{Arg, args};
use super::types::ClaimRequest;

use crate::clock::Timestamp;
use crate::ids::JobId;
use crate::job::Hold;
use crate::job::forecast::{Forecast, Line};
use crate::job::worker_record::{SlotContent, WorkerRecord, WorkerState};

const PLACE: &str = "SELECT j.id, j.route, j.priority, j.position, j.share, j.held, j.ready_at, j.concurrency_key, j.concurrency_limit, \
    l.running AS project_limit FROM jobs j LEFT JOIN project_limits l ON l.project = j.share WHERE j.id = $1 AND j.state = 'queued'";
/// Each of these counts along an index, whose order is named so that it is that one, and no further than it must.
const AHEAD_OF_ROUTE: &str = "SELECT 1 AS one FROM jobs WHERE state = 'queued' AND held IS NULL AND \
    (priority, position, id) < ($1, $2, $3) AND route = $n ORDER BY priority, position, id";
const AHEAD_OF_SHARE: &str = "SELECT 1 AS one FROM jobs WHERE state = 'queued' AND held IS NULL AND route = $1 AND priority = $2 \
    AND share = $3 AND position < $4 ORDER BY position";
/// Those that name the same limit, as all of a key usually do.
const AHEAD_HELD_BY_KEY: &str = "SELECT 1 AS one FROM jobs WHERE held = 'key' AND (priority, position, id) < ($1, $2, $3) \
    AND concurrency_key = $4 AND concurrency_limit = $5 ORDER BY priority, position, id";
const AHEAD_HELD_BY_PROJECT: &str = "SELECT 1 AS one FROM jobs WHERE held = 'project' AND (priority, position, id) < ($1, $2, $3) \
    AND share = $4 ORDER BY priority, position, id";

/// How many are counted at most, of a route or under a limit.
const AHEAD_MAX: u64 = 10_000;
/// How many routes are counted in one statement.
const ARMS_MAX: usize = 50;

#[derive(sqlx::FromRow)]
struct Place {
    id: uuid::Uuid,
    route: i64,
    priority: i64,
    position: i64,
    share: String,
    held: Option<String>,
    ready_at: i64,
    concurrency_key: Option<String>,
    concurrency_limit: Option<i64>,
    project_limit: Option<i64>,
}

#[derive(sqlx::FromRow)]
struct Count {
    running: i64,
}

/// The workers that can take a job.
struct Takers {
    /// All routes that they take between them.
    routes: BTreeSet<i64>,
    slots: u32,
    free: u32,
    /// How many more could, if they took jobs at all now.
    idle: usize,
}

impl Place {
    fn is_held(&self, hold: Hold) -> bool {
        self.held.as_deref() == Some(hold.as_str())
    }

    fn order(&self) -> Vec<Arg> {
        args![self.priority, self.position, self.id]
    }
}

impl Store {
    /// What is to be expected of a job; nothing where it does not wait, or is not there.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn forecast(&self, job: JobId) -> Result<Option<Forecast>, StoreError> {
        let Some(place) = self.db().first::<Place>(PLACE, args![job]).await? else { return Ok(None) };
        if place.is_held(Hold::Dependency) {
            return Ok(Some(Forecast::unknown("it waits for the end of other jobs")));
        }
        if place.is_held(Hold::Scheduled) || place.is_held(Hold::Backoff) {
            return Ok(Some(Forecast::unknown(format!("it has no place in the queue before {}", Timestamp(place.ready_at)))));
        }
        let takers = self.takers(place.route).await?;
        let mut lines = self.limits_over(&place).await?;
        if place.held.is_none() {
            let routes = if takers.routes.is_empty() { BTreeSet::from([place.route]) } else { takers.routes.clone() };
            lines.insert(0, self.line_of(&place, &routes, &takers).await?);
        } else {
            // The limit that holds it is its place; where there is room, workers are not what it waits for.
            lines.push(Line { ahead: 0, or_more: false, slots: takers.slots, free: takers.slots });
        }
        let durations = self.history().await?.durations(&takers.routes);
        let forecast = Forecast::of(&lines, durations.map(|durations| durations.mean), self.now());
        Ok(Some(match (takers.slots, takers.idle) {
            (0, 0) => forecast.because("no live worker has its backend and all that it requires"),
            (0, 1) => forecast.because("the one worker that could take it takes no jobs now"),
            (0, idle) => forecast.because(format!("of the {idle} workers that could take it none takes jobs now")),
            _ => forecast,
        }))
    }

    /// Those who can take jobs of a route.
    async fn takers(&self, route: i64) -> Result<Takers, StoreError> {
        let mut routes = self.inner.routes.known();
        if !routes.contains_key(&route) {
            routes = self.read_routes().await?;
        }
        let mut takers = Takers { routes: BTreeSet::new(), slots: 0, free: 0, idle: 0 };
        for worker in self.workers().await? {
            let ask = ask_of(&worker);
            if !routes.get(&route).is_some_and(|route| route.suits(&ask)) {
                continue;
            }
            if worker.state != WorkerState::Running {
                takers.idle += usize::from(matches!(worker.state, WorkerState::Paused | WorkerState::Draining));
                continue;
            }
            let usable = worker.report.slots.iter().filter(|slot| !matches!(slot.content, SlotContent::Broken { .. })).count();
            let usable = u32::try_from(usable).unwrap_or(u32::MAX);
            takers.slots += usable;
            takers.free += usable.saturating_sub(worker.jobs);
            takers.routes.extend(routes.iter().filter(|(_, route)| route.suits(&ask)).map(|(id, _)| *id));
        }
        Ok(takers)
    }

    /// Its place among all that the same workers take.
    async fn line_of(&self, place: &Place, routes: &BTreeSet<i64>, takers: &Takers) -> Result<Line, StoreError> {
        let mut line = Line { ahead: 0, or_more: false, slots: takers.slots, free: takers.free };
        let routes: Vec<i64> = routes.iter().copied().collect();
        for routes in routes.chunks(ARMS_MAX) {
            let arms: Vec<String> =
                (4..4 + routes.len()).map(|number| bounded(&AHEAD_OF_ROUTE.replace("$n", &format!("${number}")))).collect();
            let mut args = place.order();
            args.extend(routes.iter().copied().map(Arg::from));
            for Count { running: ahead } in self.db().all::<Count>(&arms.join(" UNION ALL "), args).await? {
                count(&mut line, ahead)?;
            }
        }
        Ok(line)
    }

    /// Its place under the limits that it is under.
    async fn limits_over(&self, place: &Place) -> Result<Vec<Line>, StoreError> {
        let mut lines = Vec::new();
        if let Some((key, most)) = place.concurrency_key.as_ref().zip(place.concurrency_limit) {
            let mut line = self.room(RUNNING_UNDER_KEY, key, most).await?;
            let mut before = ordered(place, key);
            before.push(most.into());
            self.add_ahead(&mut line, AHEAD_HELD_BY_KEY, before).await?;
            lines.push(line);
        }
        if let Some(most) = place.project_limit {
            let mut line = self.room(RUNNING_IN_PROJECT, &place.share, most).await?;
            self.add_ahead(&mut line, AHEAD_HELD_BY_PROJECT, ordered(place, &place.share)).await?;
            if place.held.is_none() {
                let before = args![place.route, place.priority, &place.share, place.position];
                self.add_ahead(&mut line, AHEAD_OF_SHARE, before).await?;
            }
            lines.push(line);
        }
        if place.is_held(Hold::Project) {
            lines.reverse();
        }
        Ok(lines)
    }

    async fn room(&self, running: &str, name: &str, most: i64) -> Result<Line, StoreError> {
        let running = self.db().first::<Count>(running, args![name]).await?.map_or(0, |row| row.running);
        let what = || format!("the limit of {name}");
        Ok(Line { ahead: 0, or_more: false, slots: number(most, what)?, free: number((most - running).max(0), what)? })
    }

    async fn add_ahead(&self, line: &mut Line, sql: &str, args: Vec<Arg>) -> Result<(), StoreError> {
        let ahead = self.db().first::<Count>(&bounded(sql), args).await?.map_or(0, |row| row.running);
        count(line, ahead)
    }
}

fn ordered(place: &Place, name: &str) -> Vec<Arg> {
    let mut args = place.order();
    args.push(Arg::from(name));
    args
}

/// Counts what `sql` yields, but for more than one beyond [`AHEAD_MAX`].
fn bounded(sql: &str) -> String {
    format!("SELECT count(*) AS running FROM ({sql} LIMIT {}) AS a", AHEAD_MAX + 1)
}

fn count(line: &mut Line, ahead: i64) -> Result<(), StoreError> {
    let ahead: u64 = number(ahead, || "a number of jobs".to_owned())?;
    line.or_more |= ahead > AHEAD_MAX;
    line.ahead += ahead.min(AHEAD_MAX);
    Ok(())
}

/// What a worker would ask for.
fn ask_of(worker: &WorkerRecord) -> ClaimRequest {
    let words = |labels: &[crate::job::Label]| labels.iter().map(ToString::to_string).collect();
    let report = &worker.report;
    ClaimRequest {
        worker: report.id.clone(),
        backends: report
            .backends
            .iter()
            .filter(|backend| worker.pause_of(backend).is_none())
            .map(|backend| (backend.name.clone(), words(&backend.capabilities)))
            .collect(),
        labels: words(&report.labels),
        rooms: super::types::Rooms::without(report.claiming.no_engine.as_ref()),
        limit: 1,
        lease: std::time::Duration::ZERO,
    }
}
