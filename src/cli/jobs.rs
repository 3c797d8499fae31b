//! `sawmill jobs` and `sawmill job`: lists, details, and changes of fate.

use std::time::Duration;

use super::args::{JobCommand, JobsArgs};
use super::client::{Client, escape};
use super::error::{CliError, Exit};
use super::events::Events;
use super::explain;
use super::fates::{self, Asked, Verb};
use super::output::{Output, talk};
use super::table::{Cell, age, plain, span};
use super::{artifacts, forecast, workers};
use crate::api::LIST_MAX;
use crate::api::wire::{AnswerRequest, DeadlineRequest, JobAnswer, JobDiff, Page};
use crate::clock::{Timestamp, human};
use crate::ids::JobId;
use crate::job::{AttemptRecord, Hold, Job, JobState};
use crate::store::MovedDeadline;

/// Lists jobs.
pub(super) async fn list(client: &Client, out: &Output, args: JobsArgs) -> Result<Exit, CliError> {
    let mut query = String::new();
    let (state, held) = (args.state.map(|state| state.to_string()), args.held.map(|held| held.to_string()));
    for (name, value) in [("state", state), ("held", held), ("project", args.project), ("execution", args.execution)] {
        if let Some(value) = value {
            query.push_str(&format!("&{name}={}", escape(&value)));
        }
    }
    let mut page: Page<Job> = Page { items: Vec::new(), next: None };
    loop {
        let missing = args.limit.saturating_sub(u32::try_from(page.items.len()).unwrap_or(u32::MAX));
        let before = page.next.as_deref().map(|next| format!("&before={next}")).unwrap_or_default();
        let more: Page<Job> = client.get(&format!("/v1/jobs?limit={}{query}{before}", missing.min(LIST_MAX))).await?;
        page.items.extend(more.items);
        page.next = more.next;
        if page.next.is_none() || missing <= LIST_MAX {
            break;
        }
    }
    if out.is_json() {
        out.document(&page)?;
        return Ok(Exit::Done);
    }
    if page.items.is_empty() {
        talk("there is no such job; ask for one with: sawmill enqueue");
        return Ok(Exit::Done);
    }
    let now = Timestamp::now();
    let rows: Vec<Vec<Cell>> = page.items.iter().map(|job| row(job, now)).collect();
    out.rows(&["ID", "STATE", "AGE", "TIME", "ATTEMPT", "FOR", "TITLE"], &rows)?;
    if page.next.is_some() {
        talk(&format!("there are more than these {}; see them with --limit N", page.items.len()));
    }
    Ok(Exit::Done)
}

fn row(job: &Job, now: Timestamp) -> Vec<Cell> {
    vec![
        Cell::new(job.id),
        // Somebody has to do something about it.
        if job.held == Some(Hold::Answer) { Cell::state("asks") } else { Cell::state(job.state) },
        Cell::new(age(job.created_at, now)),
        Cell::maybe(job.started_at.map(|start| span(start, job.finished_at.unwrap_or(now)))),
        Cell::maybe(job.attempt),
        Cell::new(job.spec.project.as_deref().unwrap_or(&job.repo)),
        Cell::new(job.spec.title()),
    ]
}

/// Carries out a command about one job.
pub(super) async fn run(client: &Client, out: &Output, command: JobCommand) -> Result<Exit, CliError> {
    match command {
        JobCommand::Show { id } => show(client, out, id).await,
        JobCommand::Explain { id } => explain::run(client, out, id).await,
        JobCommand::Cancel { jobs, dry_run, reason } => {
            fates::run(client, out, Asked { verb: Verb::Cancel, jobs, dry_run, reason }).await
        }
        JobCommand::Retry { jobs, dry_run } => {
            fates::run(client, out, Asked { verb: Verb::Retry, jobs, dry_run, reason: None }).await
        }
        JobCommand::Requeue { jobs, dry_run, reason } => {
            fates::run(client, out, Asked { verb: Verb::Requeue, jobs, dry_run, reason }).await
        }
        JobCommand::Answer { id, text } => answer(client, out, id, text).await,
        JobCommand::Deadline { id, within } => deadline(client, out, id, within).await,
        JobCommand::Wait { id, timeout } => wait(client, out, id, timeout).await,
        JobCommand::Diff { id } => diff(client, out, id).await,
        JobCommand::Artifacts(args) => artifacts::run(client, out, args).await,
        JobCommand::Attempts { id } => attempts(client, out, id).await,
    }
}

fn report(out: &Output, job: &Job, line: &str) -> Result<Exit, CliError> {
    if out.is_json() {
        out.document(job)?
    } else {
        out.line(line)?
    }
    Ok(Exit::Done)
}

async fn show(client: &Client, out: &Output, id: JobId) -> Result<Exit, CliError> {
    let answer: JobAnswer = client.get(&format!("/v1/jobs/{id}?forecast=true")).await?;
    if out.is_json() {
        out.document(&answer)?;
        return Ok(Exit::Done);
    }
    let JobAnswer { job, forecast, runs_on, time_limit, coverage } = answer;
    let coverage: Vec<String> = coverage.iter().map(|(gate, coverage)| format!("{gate}: {coverage}")).collect();
    let time = |moment: Option<Timestamp>| Cell::maybe(moment);
    let limit = job.spec.timeout.map(human::format).or_else(|| time_limit.map(|limit| limit.to_string()));
    let fields = [
        ("id", Cell::new(job.id)),
        ("state", Cell::state(job.state)),
        ("held", Cell::maybe(job.held)),
        ("outcome", Cell::maybe(job.outcome.as_ref())),
        ("title", Cell::new(job.spec.title())),
        ("project", Cell::maybe(job.spec.project.as_ref())),
        ("repo", Cell::new(&job.repo)),
        ("base", Cell::new(&job.base)),
        ("branch", Cell::new(&job.branch)),
        ("commit", Cell::maybe(job.commit.as_ref())),
        ("coverage", Cell::maybe(Some(coverage.join("; ")).filter(|told| !told.is_empty()))),
        ("backend", Cell::maybe(job.spec.backend.as_ref())),
        ("command", Cell::maybe(job.spec.task.command.as_ref())),
        ("priority", Cell::new(job.spec.priority.as_str())),
        ("execution", Cell::maybe(job.spec.execution.id.as_ref())),
        ("timeout", Cell::maybe(limit)),
        ("attempt", Cell::maybe(job.attempt)),
        ("attempts used", Cell::new(format!("{} of {}", job.attempts_used, job.attempts_max))),
        ("resets", Cell::new(job.resets)),
        ("worker", Cell::maybe(job.worker.as_ref())),
        ("runs on", Cell::maybe(runs_on.as_ref())),
        ("created", Cell::new(job.created_at)),
        ("ready", Cell::new(job.ready_at)),
        ("forecast", Cell::maybe(forecast.map(|forecast| forecast::sentence(&forecast, Timestamp::now())))),
        ("started", time(job.started_at)),
        ("cancel asked", time(job.cancel_requested_at)),
        ("requeue asked", time(job.requeue_requested_at)),
        ("finished", time(job.finished_at)),
    ];
    out.fields(&fields)?;
    Ok(Exit::Done)
}

async fn answer(client: &Client, out: &Output, id: JobId, text: String) -> Result<Exit, CliError> {
    let request = AnswerRequest { text, by: Some(workers::own_name()) };
    let job: Job = client.post(&format!("/v1/jobs/{id}/answer"), &request).await?;
    report(out, &job, &format!("{id} is {} again, with the answer; watch it with: sawmill logs -f {id}", job.state))
}

async fn deadline(client: &Client, out: &Output, id: JobId, within: Duration) -> Result<Exit, CliError> {
    let request = DeadlineRequest { within: Some(within), at: None };
    let moved: MovedDeadline = client.post(&format!("/v1/jobs/{id}/deadline"), &request).await?;
    if out.is_json() {
        out.document(&moved)?;
    } else {
        out.line(&format!("attempt {} at {id} must be over at {}", moved.attempt, moved.deadline_at))?;
    }
    Ok(Exit::Done)
}

/// Waits for the end of a job.
pub(super) async fn wait(client: &Client, out: &Output, id: JobId, patience: Option<Duration>) -> Result<Exit, CliError> {
    let ended = ended(client, id);
    let job = match patience {
        None => ended.await?,
        Some(patience) => tokio::time::timeout(patience, ended).await.map_err(|_| {
            let waited = human::format(patience);
            CliError::TimedOut(format!("job {id} has not ended after {waited}; it goes on, see: sawmill job explain {id}"))
        })??,
    };
    let message = job.outcome.as_ref().map(|outcome| plain(&outcome.message)).unwrap_or_default();
    // A cancelled job's message says so itself.
    let outcome = match message.strip_prefix(&format!("{} ", job.state)).unwrap_or(&message) {
        "" => String::new(),
        message => format!(": {message}"),
    };
    let commit = job.commit.as_ref().map(|commit| format!("\ncommit {commit} on branch {}", job.branch)).unwrap_or_default();
    report(out, &job, &format!("{id} {}{outcome}{commit}", job.state))?;
    Ok(if job.state == JobState::Succeeded { Exit::Done } else { Exit::Failed })
}

async fn ended(client: &Client, id: JobId) -> Result<Job, CliError> {
    let mut events = Events::open(client, format!("/v1/events?job={id}")).await?;
    let mut told = None;
    loop {
        let event = events.next().await?;
        if event.event.as_deref() != Some("job") {
            continue;
        }
        let job: Job = serde_json::from_str(event.data.as_deref().unwrap_or_default())
            .map_err(|error| client.unreadable(error.to_string()))?;
        if job.state.is_final() {
            return Ok(job);
        }
        if told != Some((job.state, job.attempt)) {
            let first = told.replace((job.state, job.attempt)).is_none();
            talk(&progress(&job));
            if first && job.state == JobState::Queued {
                workers::hint_at_none(client).await;
            }
        }
    }
}

fn progress(job: &Job) -> String {
    match (job.state, job.attempt, &job.worker, &job.outcome) {
        (JobState::Queued, Some(_), _, Some(outcome)) if job.held == Some(Hold::Answer) => {
            format!("{} waits for an answer (sawmill job answer {} TEXT): {}", job.id, job.id, outcome.message)
        }
        (JobState::Running, Some(attempt), Some(worker), _) => format!("{} running: attempt {attempt} on {worker}", job.id),
        (JobState::Queued, Some(attempt), _, Some(outcome)) => {
            format!("{} queued again after attempt {attempt}: {}", job.id, plain(outcome))
        }
        _ => format!("{} {}", job.id, job.state),
    }
}

async fn diff(client: &Client, out: &Output, id: JobId) -> Result<Exit, CliError> {
    let diff: JobDiff = client.get(&format!("/v1/jobs/{id}/diff")).await?;
    if out.is_json() {
        out.document(&diff)?;
        return Ok(Exit::Done);
    }
    let rows: Vec<Vec<Cell>> = diff
        .diff
        .per_file
        .iter()
        .map(|file| {
            let lines = if file.binary { "binary".to_owned() } else { format!("+{} -{}", file.insertions, file.deletions) };
            vec![Cell::new(&file.path), Cell::new(lines)]
        })
        .collect();
    if !rows.is_empty() {
        out.rows(&["FILE", "LINES"], &rows)?;
    }
    let all = &diff.diff;
    let count = |number: u64, what: &str| if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") };
    let (insertions, deletions) = (count(all.insertions, "insertion"), count(all.deletions, "deletion"));
    out.line(&format!("{} changed, {insertions}, {deletions}", count(all.files, "file")))?;
    if let (Some(commit), Some(branch)) = (&diff.commit, &diff.branch) {
        talk(&format!("see the lines with: git fetch REMOTE {branch} && git diff {} {}", diff.base.short(), commit.short()));
    }
    Ok(Exit::Done)
}

async fn attempts(client: &Client, out: &Output, id: JobId) -> Result<Exit, CliError> {
    let page: Page<AttemptRecord> = client.get(&format!("/v1/jobs/{id}/attempts")).await?;
    if out.is_json() {
        out.document(&page)?;
        return Ok(Exit::Done);
    }
    let now = Timestamp::now();
    let mut rows = Vec::new();
    for record in &page.items {
        let outcome = record.outcome.as_ref();
        rows.push(vec![
            Cell::new(record.attempt),
            outcome.map_or_else(|| Cell::state("running"), |outcome| Cell::state(outcome.class)),
            Cell::new(span(record.started_at, record.ended_at.unwrap_or(now))),
            Cell::new(&record.worker),
            Cell::maybe(record.runs_on.as_ref()),
            Cell::maybe(record.log_verdict),
            Cell::maybe(outcome.map(|outcome| &outcome.message)),
        ]);
        for stage in &record.stages {
            rows.push(vec![
                Cell::new(format!("  {}", stage.stage.as_str())),
                stage.outcome.map_or_else(|| Cell::state("running"), Cell::state),
                Cell::new(span(stage.started_at, stage.ended_at.unwrap_or(now))),
                Cell::new(""),
                Cell::new(""),
                Cell::new(""),
                Cell::maybe(stage.detail.as_ref()),
            ]);
        }
    }
    out.rows(&["ATTEMPT", "OUTCOME", "TIME", "WORKER", "RUNS ON", "LOG", "MESSAGE"], &rows)?;
    Ok(Exit::Done)
}
