//! How long attempts like a given one took, for limits that are learnt.
//!
//! The one rule: nobody waits for it who has set a limit. It is read after a claim, from the newest jobs of one project before the job in
//! hand and never more than [`LOOK`] of them, and where it is enough it is good for [`FRESH`] to all of the same project and backend in a
//! process.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::Store;
use super::error::StoreError;
use super::fence::hold;
use super::rows::json;
use super::statement::args;
use super::tx::Lock;
use crate::clock::Timestamp;
use crate::ids::JobId;
use crate::job::spec::Task;
use crate::job::time_limit::{LimitRule, TaskSize, TimeLimit};
use crate::job::{Claim, Job};

/// How many jobs of the project are looked at, and how many attempts are taken of these.
const LOOK: u32 = 2_000;
const SAMPLE: u32 = 300;
/// How long what was read is good for.
const FRESH: Duration = Duration::from_secs(30);

/// Attempts whose work was done to its end, or took all the time that there was. Those before the job are the older ones, which
/// have mostly ended: of those behind it none has.
const TOOK: &str = "SELECT a.started_at, a.ended_at, s.document FROM \
    (SELECT j.id, j.route FROM jobs j WHERE j.project = $1 AND j.id < $2 ORDER BY j.id DESC LIMIT $4) AS n \
    JOIN routes r ON r.id = n.route JOIN attempts a ON a.job = n.id JOIN job_specs s ON s.job = n.id \
    WHERE r.backend = $3 AND a.outcome_class IN ('succeeded', 'no_change', 'gate', 'timeout') AND a.ended_at IS NOT NULL ORDER BY n.id DESC LIMIT $5";
const TIMED_OUT: &str =
    "SELECT max(a.ended_at - a.started_at) AS took FROM attempts a WHERE a.job = $1 AND a.outcome_class = 'timeout'";
const SET: &str = "UPDATE attempts SET time_limit = $3 WHERE job = $1 AND attempt = $2";

#[derive(sqlx::FromRow)]
struct Row {
    started_at: i64,
    ended_at: i64,
    document: String,
}

#[derive(sqlx::FromRow)]
struct Longest {
    took: Option<i64>,
}

/// What of a job's document tells its size.
#[derive(Deserialize)]
struct OfTask {
    task: Task,
}

/// How long an attempt took, and at a task of which size.
#[derive(Debug, Clone, Copy)]
struct Sample {
    size: TaskSize,
    took: Duration,
}

/// A project and a backend.
type Like = (String, String);

/// What was read of attempts, and when.
type Known = (Instant, Arc<Vec<Sample>>);

/// What this process read last.
#[derive(Debug, Default)]
pub(super) struct Learnt {
    read: Mutex<BTreeMap<Like, Known>>,
}

impl Store {
    /// How long an attempt at the job may take, by how long those like it took: at jobs of the same project, on the same backend, with a
    /// task of about the same size. Nothing where the job has no project, or these are too few.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn learn_limit(&self, job: &Job, rule: &LimitRule) -> Result<Option<TimeLimit>, StoreError> {
        let (Some(project), Some(backend)) = (&job.spec.project, &job.spec.backend) else { return Ok(None) };
        let size = TaskSize::of(&job.spec.task);
        let samples = self.samples((project.clone(), backend.clone()), job.id, rule).await?;
        let took = samples.iter().filter(|sample| sample.size == size).map(|sample| sample.took).collect();
        let timed_out: Option<Longest> = self.db().first(TIMED_OUT, args![job.id]).await?;
        let timed_out = timed_out.and_then(|longest| longest.took).map(|ms| Timestamp(ms).since(Timestamp(0)));
        Ok(TimeLimit::learn(rule, size, took, timed_out))
    }

    /// Records what was learnt for an attempt.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`].
    pub async fn record_time_limit(&self, claim: &Claim, limit: &TimeLimit) -> Result<(), StoreError> {
        let text = serde_json::to_string(limit).expect("it is made of numbers and words");
        let mut tx = self.db().begin().await?;
        hold(&mut tx, claim, Lock::Keep).await?;
        tx.run(SET, args![claim.job, claim.attempt, text.as_str()]).await?;
        tx.commit().await
    }

    async fn samples(&self, like: Like, before: JobId, rule: &LimitRule) -> Result<Arc<Vec<Sample>>, StoreError> {
        let learnt = &self.inner.learnt;
        let known = learnt.read.lock().unwrap_or_else(PoisonError::into_inner).get(&like).cloned();
        if let Some((at, samples)) = known
            && at.elapsed() < FRESH
        {
            return Ok(samples);
        }
        let rows: Vec<Row> = self.db().all(TOOK, args![like.0.as_str(), before, like.1.as_str(), LOOK, SAMPLE]).await?;
        let sample = |row: Row| {
            let OfTask { task } = json(&row.document, || format!("a job of project {}", like.0))?;
            Ok(Sample { size: TaskSize::of(&task), took: Timestamp(row.ended_at).since(Timestamp(row.started_at)) })
        };
        let samples: Arc<Vec<Sample>> = Arc::new(rows.into_iter().map(sample).collect::<Result<_, StoreError>>()?);
        // Where there is little, the next one that ends may make the difference.
        if samples.len() >= rule.samples as usize {
            let mut read = learnt.read.lock().unwrap_or_else(PoisonError::into_inner);
            read.retain(|_, (at, _)| at.elapsed() < FRESH);
            read.insert(like, (Instant::now(), samples.clone()));
        }
        Ok(samples)
    }
}
