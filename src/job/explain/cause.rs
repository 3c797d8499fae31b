//! What about a job itself keeps it from running, or where it is: each with its sentence and with what would change it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::facts::{Count, Runner};
use super::words::{ago, jobs, later, list, long, many};
use crate::clock::Timestamp;
use crate::ids::{AttemptNo, JobId, WorkerId};
use crate::job::budget::{BudgetScope, BudgetUse};
use crate::job::outcome::{Outcome, OutcomeClass};
use crate::job::{CompletionState, JobState, Stage};

/// What about a job itself keeps it from running, or where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Cause {
    /// A worker runs it.
    Running {
        /// The attempt.
        attempt: AttemptNo,
        /// Who runs it.
        worker: WorkerId,
        /// When it was claimed.
        since: Timestamp,
        /// The stage that it is in, once it is in one.
        stage: Option<Stage>,
        /// Since when.
        stage_since: Option<Timestamp>,
        /// Until when the claim holds without being renewed.
        lease_until: Timestamp,
        /// The length of the attempt's log so far, in bytes.
        log_bytes: u64,
        /// When the log last grew.
        logged_at: Option<Timestamp>,
    },
    /// Its end was asked for, and its worker has not ended it yet.
    Cancelling {
        /// When it was asked for.
        asked_at: Timestamp,
        /// Why; it may be empty.
        reason: String,
    },
    /// Its return to the queue was asked for, and its worker has not given it back yet.
    Requeueing {
        /// When it was asked for.
        asked_at: Timestamp,
        /// Why; it may be empty.
        reason: String,
    },
    /// The claim on it has run out, and nobody has taken note of that yet.
    LeaseOver {
        /// When it ran out.
        lease_until: Timestamp,
    },
    /// The worker that runs it has missed its reports.
    SilentWorker {
        /// Who.
        worker: WorkerId,
        /// When it last reported; absent where it never did.
        seen_at: Option<Timestamp>,
    },
    /// It has ended.
    Ended {
        /// How.
        state: JobState,
        /// When.
        at: Timestamp,
        /// The class of its end.
        class: OutcomeClass,
        /// The sentence of its end.
        message: String,
        /// Attempts burnt.
        attempts_used: u32,
        /// Attempts that it could burn.
        attempts_max: u32,
    },
    /// What it delivered is in the queue of completions.
    Completion {
        /// Where it is there.
        state: CompletionState,
        /// Who holds it, or took it.
        consumer: Option<String>,
        /// Until when that one holds it.
        lease_until: Option<Timestamp>,
        /// From when on it is handed out, while nobody has it and it is the first of its line.
        visible_at: Option<Timestamp>,
        /// The job whose completion is the first of its line, where that is another.
        behind: Option<JobId>,
        /// Since when it is there.
        since: Timestamp,
        /// Why it was last given back.
        last_error: Option<String>,
    },
    /// Its time to start has passed, and nobody has taken note of that yet.
    Expired {
        /// When that was.
        start_by: Timestamp,
    },
    /// Another job has to end first.
    Dependency {
        /// Which.
        job: JobId,
        /// Whether that one waits itself, or runs.
        state: JobState,
        /// Who runs it.
        worker: Option<WorkerId>,
        /// Since when it runs, or when it was enqueued.
        since: Timestamp,
    },
    /// Its `run_at` is still to come.
    Scheduled {
        /// When it comes.
        until: Timestamp,
    },
    /// It failed, and is tried again after a while.
    Backoff {
        /// When that is over.
        until: Timestamp,
        /// The attempt that failed.
        attempt: Option<AttemptNo>,
        /// How it failed.
        class: OutcomeClass,
        /// The sentence about it.
        message: String,
    },
    /// It asked a question, and waits for the answer.
    Question {
        /// What it asked.
        question: String,
        /// The attempt that asked.
        attempt: Option<AttemptNo>,
        /// When it fails for want of an answer.
        until: Timestamp,
    },
    /// Its time has come, and nobody has let it in yet.
    Due {
        /// When it came.
        since: Timestamp,
    },
    /// As many jobs as may run under its concurrency key do.
    Key {
        /// The key.
        key: String,
        /// So many may run.
        limit: u64,
        /// So many run.
        running: u64,
        /// Some of these.
        runners: Vec<Runner>,
        /// How many others the key holds that come before it.
        before: Count,
    },
    /// As many jobs of its project as may run do.
    ProjectLimit {
        /// The project.
        project: String,
        /// So many may run.
        limit: u64,
        /// So many run.
        running: u64,
        /// Some of these.
        runners: Vec<Runner>,
        /// How many others the limit holds that come before it.
        before: Count,
    },
    /// A budget is used up.
    Budget {
        /// Which, and by how much.
        budget: BudgetUse,
    },
    /// A limit that held it has room again, and nobody has let it in yet.
    Room {
        /// The concurrency key or the project.
        limit: String,
    },
    /// No worker is there at all.
    NoWorker {
        /// The one that was seen last.
        last: Option<WorkerId>,
        /// When that one last reported.
        seen_at: Option<Timestamp>,
    },
    /// No worker that is there has its backend.
    NoBackend {
        /// The backend.
        backend: String,
        /// A worker that has it and is away.
        away: Option<WorkerId>,
    },
    /// No worker that is there offers all that it requires.
    NoLabel {
        /// What the nearest one does not offer.
        missing: Vec<String>,
        /// The one that offers most of it.
        nearest: WorkerId,
        /// A worker that offers all of it and is away.
        away: Option<WorkerId>,
    },
    /// There are workers that suit it, and none of them can take a job now.
    NobodyFree {
        /// Some of these, each with what keeps it.
        kept: Vec<Kept>,
        /// How many there are.
        workers: u64,
    },
    /// Others come first.
    Turn {
        /// How many, of those that ask the same of a worker.
        ahead: Count,
    },
    /// Nothing keeps it: it is about to be claimed.
    Next {
        /// A worker with a free slot that suits it.
        worker: WorkerId,
        /// When that one last looked at the queue, as of its last report.
        asked_at: Option<Timestamp>,
    },
}

/// A worker that suits a job, with what keeps it from taking one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Kept {
    /// Which.
    pub worker: WorkerId,
    /// What it is or has, in words.
    pub why: String,
}

impl Cause {
    /// The word that tells sorts of causes apart: the same as on the wire.
    pub(super) fn sort(&self) -> std::mem::Discriminant<Self> {
        std::mem::discriminant(self)
    }

    /// The sentence, without the subject where that is the job.
    pub(super) fn text(&self, now: Timestamp) -> String {
        match self {
            Self::Running { attempt, worker, since, stage, stage_since, lease_until, log_bytes, logged_at } => {
                let stage = stage.zip(*stage_since).map(|(stage, since)| format!(", in {stage} for {}", long(now.since(since))));
                let log = logged_at.map_or_else(
                    || "nothing in its log yet".to_owned(),
                    |at| format!("its log has {} and last grew {}", bytesize::ByteSize(*log_bytes), ago(at, now)),
                );
                let left = lease_until.since(now);
                let lease = if left.is_zero() { String::new() } else { format!("; its lease holds for {}", long(left)) };
                let (since, stage) = (long(now.since(*since)), stage.unwrap_or_default());
                format!("attempt {attempt} on {worker} for {since}{stage}; {log}{lease}")
            }
            Self::Cancelling { asked_at, reason } => {
                format!("its end was asked for {}{}, and its worker has not ended it yet", ago(*asked_at, now), bracketed(reason))
            }
            Self::Requeueing { asked_at, reason } => {
                let (ago, why) = (ago(*asked_at, now), bracketed(reason));
                format!("its return to the queue was asked for {ago}{why}, and its worker has not given it back yet")
            }
            Self::LeaseOver { lease_until } => {
                format!("its lease ran out {}, and a worker that looks puts it back into the queue", ago(*lease_until, now))
            }
            Self::SilentWorker { worker, seen_at: Some(seen_at) } => {
                format!("{worker}, which runs it, last reported {}", ago(*seen_at, now))
            }
            Self::SilentWorker { worker, seen_at: None } => format!("{worker}, which runs it, has never reported"),
            Self::Ended { state, at, class, message, attempts_used, attempts_max } => {
                ended(*state, &Outcome::new(*class, message), &ago(*at, now), *attempts_used, *attempts_max)
            }
            Self::Completion { state, consumer, lease_until, visible_at, behind, since, last_error } => {
                let consumer = consumer.as_deref().unwrap_or("somebody");
                let back = last_error.as_ref().map(|why| format!(" (last given back: {why})")).unwrap_or_default();
                match (state, behind) {
                    (CompletionState::Pending, Some(job)) => {
                        format!("its completion has waited for {} behind that of job {job}{back}", long(now.since(*since)))
                    }
                    (CompletionState::Pending, None) => match visible_at.filter(|at| *at > now) {
                        Some(at) => format!("its completion is handed out again {}{back}", later(at, now)),
                        None => format!("its completion has waited for an integrator for {}{back}", long(now.since(*since))),
                    },
                    (CompletionState::Claimed, _) => {
                        let until = lease_until.map(|at| format!(" for {} more", long(at.since(now)))).unwrap_or_default();
                        format!("{consumer} holds its completion{until}")
                    }
                    (CompletionState::Acked, _) => format!("{consumer} took its completion"),
                    (CompletionState::Dead, _) => format!("its completion was set aside{back}"),
                }
            }
            Self::Expired { start_by } => {
                format!("it had to start by {start_by}, which was {}, and fails once a worker looks", ago(*start_by, now))
            }
            Self::Dependency { job, state: JobState::Running, worker: Some(worker), since } => {
                format!("job {job}, which it waits for, has run on {worker} for {}", long(now.since(*since)))
            }
            Self::Dependency { job, since, .. } => {
                format!("job {job}, which it waits for, waits itself, enqueued {}", ago(*since, now))
            }
            Self::Scheduled { until } => format!("its time comes {}", later(*until, now)),
            Self::Backoff { until, attempt, class, message } => {
                let which = attempt.map_or_else(|| "it".to_owned(), |attempt| format!("attempt {attempt}"));
                format!("it is tried again {}; {which} ended as {class}: {message}", later(*until, now))
            }
            Self::Question { question, attempt, until } => {
                let which = attempt.map_or_else(|| "it".to_owned(), |attempt| format!("attempt {attempt}"));
                format!("{which} asked a question, and the job fails {} unless it is answered: {question}", later(*until, now))
            }
            Self::Due { since } => format!("its time came {}, and a worker lets it in when it next looks", ago(*since, now)),
            Self::Key { key, limit, running, runners, before } => {
                full(&format!("key {key:?}"), *limit, *running, runners, *before, now)
            }
            Self::ProjectLimit { project, limit, running, runners, before } => {
                full(&format!("project {project:?}"), *limit, *running, runners, *before, now)
            }
            Self::Budget { budget } => match budget.again_at {
                _ if budget.scope != BudgetScope::Project => {
                    format!("{budget}, and the job fails for it when a worker next looks")
                }
                Some(at) => format!("{budget}, and the next one begins {}", later(at, now)),
                None => budget.to_string(),
            },
            Self::Room { limit } => format!("{limit} has room again, and a worker lets it in when it next looks"),
            Self::NoWorker { last: Some(worker), seen_at: Some(seen_at) } => {
                format!("no worker is there; the last one, {worker}, reported {}", ago(*seen_at, now))
            }
            Self::NoWorker { .. } => "no worker has ever reported".to_owned(),
            Self::NoBackend { backend, away } => format!("no worker that is there has the backend {backend:?}{}", but(away)),
            Self::NoLabel { missing, nearest, away } => {
                let missing = list(missing);
                format!(
                    "no worker that is there offers all that it requires; {nearest} comes nearest, and lacks {missing}{}",
                    but(away)
                )
            }
            Self::NobodyFree { kept, workers } => nobody_free(kept, *workers),
            Self::Turn { ahead } if *ahead == (Count { jobs: 1, more: false }) => "one job comes before it".to_owned(),
            Self::Turn { ahead } => format!("{} come before it", jobs(*ahead)),
            Self::Next { worker, asked_at } => {
                let asked = asked_at.map(|at| format!("; it last looked at the queue {}", ago(at, now))).unwrap_or_default();
                format!("nothing keeps it, and {worker} has a free slot for it{asked}")
            }
        }
    }

    /// The heart of the sentence, for who has the whole of it elsewhere.
    pub(super) fn brief(&self, now: Timestamp) -> String {
        match self {
            Self::Dependency { job, .. } => format!("it waits for job {job}"),
            Self::Backoff { until, .. } => format!("it is tried again in {}", long(until.since(now))),
            Self::Scheduled { until } => format!("its time comes in {}", long(until.since(now))),
            Self::Key { key, limit, .. } => format!("key {key:?} is at its limit of {limit}"),
            Self::ProjectLimit { project, limit, .. } => format!("project {project:?} is at its limit of {limit}"),
            Self::Budget { budget } => budget.to_string(),
            Self::Question { .. } => "it waits for the answer to a question".to_owned(),
            cause => cause.text(now),
        }
    }

    /// What would change it, where that is not a matter of the workers alone.
    pub(super) fn change(&self, job: JobId) -> Option<String> {
        Some(match self {
            Self::Cancelling { .. } | Self::Requeueing { .. } => {
                "its worker, once it hears of it: within a second or with the next renewal".to_owned()
            }
            Self::LeaseOver { .. } => "any worker that runs; start one with: sawmill worker".to_owned(),
            Self::SilentWorker { worker, .. } => {
                format!(
                    "{worker}, once it reaches the database again; else the end of its lease, after which another takes the job"
                )
            }
            Self::Ended { state: JobState::Failed, .. } => {
                format!("sawmill job retry {job} gives it another round of attempts; sawmill logs {job} has what it said")
            }
            Self::Ended { state: JobState::Cancelled, .. } => {
                format!("sawmill job retry {job} gives it another round of attempts")
            }
            Self::Completion { state: CompletionState::Pending, behind: Some(job), .. } => {
                format!("an integrator that is done with that of job {job}; see: sawmill job explain {job}")
            }
            Self::Completion { state: CompletionState::Dead, .. } => {
                "sawmill completions requeue, with its id from: sawmill completions list --state dead".to_owned()
            }
            Self::Completion { state: CompletionState::Pending, .. } => {
                "an integrator that takes it: sawmill completions claim --consumer NAME".to_owned()
            }
            Self::Dependency { job, .. } => format!("the end of job {job}; see: sawmill job explain {job}"),
            Self::Scheduled { until } => format!("time, until {until}"),
            Self::Backoff { until, class: OutcomeClass::UsageLimit, .. } => format!("time, until {until}"),
            Self::Backoff { until, .. } => format!("time, until {until}; sawmill job requeue {job} tries it at once"),
            Self::Question { .. } => format!("sawmill job answer {job} TEXT"),
            Self::Key { key, runners, .. } => first_end(runners, &format!("any job under the key {key:?}")),
            Self::ProjectLimit { project, runners, .. } => {
                format!("{}, or a higher limit of the project", first_end(runners, &format!("any job of project {project:?}")))
            }
            Self::Budget { budget } => match (budget.scope, budget.again_at) {
                (BudgetScope::Project, Some(at)) => format!("time, until {at}, or a higher budget in [projects.{}]", budget.name),
                (BudgetScope::Project, None) => format!("a higher budget in [projects.{}]", budget.name),
                _ => "nothing; a job like it with a higher budget would start".to_owned(),
            },
            Self::NoWorker { .. } => "a worker: sawmill worker, or sawmill up for API and worker in one".to_owned(),
            Self::NoBackend { backend, .. } => {
                format!("[backends.{backend}] in the configuration of a worker that is there, or another worker")
            }
            Self::NoLabel { missing, nearest, .. } => {
                let missing = list(missing);
                format!(
                    "{missing} among worker.labels of {nearest} or its backend's capabilities, where that is true, or another worker"
                )
            }
            Self::Running { .. }
            | Self::Ended { .. }
            | Self::Completion { .. }
            | Self::Expired { .. }
            | Self::Due { .. }
            | Self::Room { .. }
            | Self::NobodyFree { .. }
            | Self::Turn { .. }
            | Self::Next { .. } => return None,
        })
    }
}

fn bracketed(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(" ({reason})") }
}

fn ended(state: JobState, outcome: &Outcome, ago: &str, used: u32, max: u32) -> String {
    match state {
        JobState::Failed if used > 0 => {
            format!("{ago}, after {used} of {}: {outcome}", many(u64::from(max), "attempt", "attempts"))
        }
        JobState::Failed => format!("{ago}: {outcome}"),
        _ => format!("{ago}: {}", outcome.message),
    }
}

fn full(what: &str, limit: u64, running: u64, runners: &[Runner], before: Count, now: Timestamp) -> String {
    let shown = runners.iter().take(3).map(|runner| {
        let Runner { job, worker, since } = runner;
        format!("job {job} has run on {worker} for {}", long(now.since(*since)))
    });
    let hidden = running.saturating_sub(runners.len().min(3) as u64);
    let others = (hidden > 0).then(|| many(hidden, "other", "others"));
    let waiting = if before == Count::NONE { String::new() } else { format!("; {} it holds come first", jobs(before)) };
    format!("{what} is at its limit of {limit}: {}{waiting}", list(shown.chain(others)))
}

fn first_end(runners: &[Runner], any: &str) -> String {
    match runners.first() {
        Some(Runner { job, .. }) => format!("the end of job {job}, which has run longest, or of {any}"),
        None => format!("the end of {any}"),
    }
}

fn but(away: &Option<WorkerId>) -> String {
    away.as_ref().map(|worker| format!("; {worker}, which would suit it, is away")).unwrap_or_default()
}

fn nobody_free(kept: &[Kept], workers: u64) -> String {
    if let ([Kept { worker, why }], 1) = (kept, workers) {
        return format!("{worker}, the only worker there that suits it, {why}");
    }
    let shown = kept.iter().map(|Kept { worker, why }| format!("{worker} {why}"));
    let hidden = workers.saturating_sub(kept.len() as u64);
    let others = (hidden > 0).then(|| many(hidden, "other cannot either", "others cannot either"));
    format!("none of the {workers} workers that suit it can take a job now: {}", list(shown.chain(others)))
}
