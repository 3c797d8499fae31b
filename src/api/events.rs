//! `/v1/events`: jobs whenever they change.
//!
//! The one rule: it is level-triggered. Each look compares what is true now with what was last told, so a missed hint or a new
//! connection costs a look and never a state: only states that came and went between two looks are not told of.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use axum::extract;
use axum::response::Response;
use axum::response::sse::Event;
use futures_util::stream;
use serde::Deserialize;
use tokio::time::{Instant, sleep_until, timeout};
use utoipa::IntoParams;

use super::State;
use super::input::{LIST_MAX, Params};
use super::problem::Problem;
use super::sse;
use crate::ids::JobId;
use crate::job::{Job, JobState};
use crate::store::{Hints, JobFilter, Store, StoreError};

/// How soon after a look the next one comes, however many hints there are.
const PAUSE: Duration = Duration::from_millis(100);
/// How long at most until the next look, without any hint: processes that share a SQLite file give each other none.
const POLL: Duration = Duration::from_secs(1);
/// The same where a single job is watched: somebody waits for it, and a look is cheap.
const POLL_ONE: Duration = Duration::from_millis(250);

/// Which jobs to tell of.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct EventsQuery {
    /// Only this one: it is told of at once, and whenever it changes.
    job: Option<JobId>,
    /// Only those of this project.
    project: Option<String>,
    /// Only those of this execution.
    execution: Option<String>,
}

/// Tells of jobs whenever they change: events named `job` with the whole record.
///
/// A new connection is told of those that have not ended, then of every change. Watched are the newest 500 that the query
/// selects, those that run, and those told of before.
#[utoipa::path(
    get, path = "/v1/events", tag = "events", operation_id = "watch_jobs", params(EventsQuery),
    responses(
        (status = 200, description = "Events named `job`", body = Job, content_type = "text/event-stream"),
        (status = 404, description = "There is no such job", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn stream(
    extract::State(state): extract::State<State>,
    Params(query): Params<EventsQuery>,
) -> Result<Response, Problem> {
    let hints = state.store.hints();
    if let Some(id) = query.job {
        state.store.job(id).await?;
    }
    let watch = Watch { store: state.store, hints, query, told: HashMap::new(), ready: VecDeque::new(), look: Look::First };
    let events = stream::unfold(watch, |mut watch| async move { watch.next().await.map(|event| (event, watch)) });
    Ok(sse::respond(events, state.shutdown))
}

struct Watch {
    store: Store,
    hints: Hints,
    query: EventsQuery,
    /// What was last told of each job that is watched: a fingerprint of the record, and whether the job had ended.
    told: HashMap<JobId, (u64, JobState)>,
    ready: VecDeque<Event>,
    look: Look,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    First,
    Further,
    Last,
}

impl Watch {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            match self.look {
                Look::First => {}
                Look::Further => self.pause().await,
                Look::Last => return None,
            }
            match self.watched().await {
                Ok(jobs) => self.compare(jobs),
                Err(error) if error.is_transient() => self.look = Look::Further,
                Err(error) => {
                    self.ready.push_back(sse::problem(&Problem::from(error)));
                    self.look = Look::Last;
                }
            }
        }
    }

    async fn pause(&mut self) {
        let earliest = Instant::now() + PAUSE;
        let poll = if self.query.job.is_some() { POLL_ONE } else { POLL };
        // Without a hint in time the poll takes its place.
        drop(timeout(poll, self.hints.next_change()).await);
        sleep_until(earliest).await;
    }

    async fn watched(&self) -> Result<Vec<Job>, StoreError> {
        if let Some(id) = self.query.job {
            return Ok(vec![self.store.job(id).await?]);
        }
        let EventsQuery { project, execution, .. } = self.query.clone();
        let newest = JobFilter { project, execution, limit: LIST_MAX, ..JobFilter::default() };
        let running = JobFilter { state: Some(JobState::Running), ..newest.clone() };
        let mut jobs: HashMap<JobId, Job> = HashMap::new();
        for filter in [newest, running] {
            jobs.extend(self.store.jobs(&filter).await?.items.into_iter().map(|job| (job.id, job)));
        }
        for (id, (_, state)) in &self.told {
            if !state.is_final() && !jobs.contains_key(id) {
                jobs.insert(*id, self.store.job(*id).await?);
            }
        }
        let mut jobs: Vec<Job> = jobs.into_values().collect();
        jobs.sort_by_key(|job| job.id);
        Ok(jobs)
    }

    fn compare(&mut self, jobs: Vec<Job>) {
        let before = std::mem::take(&mut self.told);
        for job in jobs {
            let mark = (fingerprint(&job), job.state);
            let news = match before.get(&job.id) {
                Some(told) => *told != mark,
                // On the first look, those that had ended before it are no news, unless one was asked for by name.
                None => self.look == Look::Further || !job.state.is_final() || self.query.job.is_some(),
            };
            if news {
                self.ready.push_back(sse::event("job", &job));
            }
            self.told.insert(job.id, mark);
        }
        self.look = Look::Further;
    }
}

/// Tells a record from its earlier self, within one process.
fn fingerprint(job: &Job) -> u64 {
    let mut hasher = DefaultHasher::new();
    let text = serde_json::to_string(job).expect("a job is made of strings, numbers and maps with string keys");
    text.hash(&mut hasher);
    hasher.finish()
}
