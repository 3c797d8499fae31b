//! Enqueuing the jobs, and watching them to their ends.

use std::time::Duration;

use anyhow::Context;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::fates::Fate;
use super::scene::Scene;
use crate::api::wire::{Page, ReasonRequest};
use crate::cli::{Cell, Output, span};
use crate::ids::JobId;
use crate::job::{AttemptRecord, Job, JobState, LogVerdict};

/// How often the jobs are looked at.
const LOOK: Duration = Duration::from_millis(50);

/// The longest that the demonstration waits for its jobs.
const PATIENCE: Duration = Duration::from_secs(120);

/// A job that has ended, with the fate that was meant for it.
pub(super) struct Ended {
    pub(super) fate: Fate,
    pub(super) job: Job,
    pub(super) attempts: Vec<AttemptRecord>,
}

impl Ended {
    /// Whether it met its fate.
    fn is_as_meant(&self) -> bool {
        let class = self.job.outcome.as_ref().map(|outcome| outcome.class);
        let attempts = u32::try_from(self.attempts.len()).unwrap_or(u32::MAX);
        let verdict = self.attempts.last().and_then(|attempt| attempt.log_verdict);
        let log = if self.fate.floods {
            matches!(verdict, Some(LogVerdict::Truncated { .. }))
        } else {
            verdict == Some(LogVerdict::Complete)
        };
        class == Some(self.fate.expected) && attempts == self.fate.attempts && log
    }
}

/// Enqueues a job for every fate, cancels those that are to be cancelled once they run, and waits for all ends.
pub(super) async fn run(scene: &Scene, fates: Vec<Fate>) -> anyhow::Result<Vec<Ended>> {
    let bars = MultiProgress::new();
    let mut watched = Vec::new();
    for fate in fates {
        let mut spec = fate.spec.clone();
        spec.repo = Some(scene.remote().to_string_lossy().into_owned());
        let job: Job = scene.client().post("/v1/jobs", &spec).await?;
        watched.push((fate, job.id, bars.add(bar())));
    }
    let mut ended = Vec::new();
    for watching in watched.into_iter().map(|(fate, id, bar)| watch(scene, fate, id, bar)) {
        ended.push(watching);
    }
    tokio::time::timeout(PATIENCE, futures_util::future::try_join_all(ended)).await.context("the jobs take too long")?
}

async fn watch(scene: &Scene, fate: Fate, id: JobId, bar: ProgressBar) -> anyhow::Result<Ended> {
    let mut asked = false;
    loop {
        let job: Job = scene.client().get(&format!("/v1/jobs/{id}")).await?;
        let attempts: Page<AttemptRecord> = scene.client().get(&format!("/v1/jobs/{id}/attempts")).await?;
        let attempts = attempts.items;
        bar.set_message(line(&fate, &job, &attempts));
        if job.state.is_final() {
            bar.finish();
            return Ok(Ended { fate, job, attempts });
        }
        if fate.cancel && !asked && is_executing(&job, &attempts) {
            let reason = ReasonRequest { reason: Some("nobody wants it any more".to_owned()) };
            let _: Job = scene.client().post(&format!("/v1/jobs/{id}/cancel"), &reason).await?;
            asked = true;
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn is_executing(job: &Job, attempts: &[AttemptRecord]) -> bool {
    let stage = attempts.last().and_then(|attempt| attempt.stages.last());
    job.state == JobState::Running && stage.is_some_and(|stage| stage.stage == crate::job::Stage::Execute)
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

fn line(fate: &Fate, job: &Job, attempts: &[AttemptRecord]) -> String {
    let what = match (&job.outcome, job.state) {
        (Some(outcome), state) if state.is_final() => outcome.to_string(),
        (_, JobState::Running) => {
            let stage = attempts.last().and_then(|attempt| attempt.stages.last());
            stage.map_or_else(|| "claimed".to_owned(), |stage| stage.stage.to_string())
        }
        (_, state) => state.to_string(),
    };
    format!("{:<24} {what}", fate.name)
}

/// Writes the results, and says how many jobs met the fate that was meant for them.
pub(super) fn report(out: &Output, ended: &[Ended]) -> anyhow::Result<usize> {
    let rows: Vec<Vec<Cell>> = ended.iter().map(row).collect();
    out.line("")?;
    out.rows(&["WHAT WAS MEANT", "JOB", "STATE", "OUTCOME", "ATTEMPTS", "TOOK", "LOG", "AS MEANT"], &rows)?;
    Ok(ended.iter().filter(|ended| ended.is_as_meant()).count())
}

fn row(ended: &Ended) -> Vec<Cell> {
    let job = &ended.job;
    let took = job.finished_at.zip(job.started_at).map(|(finished, started)| span(started, finished));
    vec![
        Cell::new(ended.fate.name),
        Cell::new(job.id.short()),
        Cell::state(job.state),
        Cell::maybe(job.outcome.as_ref().map(|outcome| outcome.message.clone())),
        Cell::new(ended.attempts.len()),
        Cell::maybe(took),
        Cell::maybe(ended.attempts.last().and_then(|attempt| attempt.log_verdict)),
        Cell::new(if ended.is_as_meant() { "yes" } else { "NO" }),
    ]
}
