//! `sawmill job cancel`, `retry` and `requeue`: one job, several, or all that a filter lets through.
//!
//! The one rule: jobs that are named each get an answer, and the exit status is that of the worst; a filter's jobs are counted,
//! and one that went its own way meanwhile is no failure.

use super::args::Selecting;
use super::client::Client;
use super::error::{CliError, Exit};
use super::output::{Output, talk};
use crate::api::wire::{Because, ChangeJobs, JobsChanged, ReasonRequest};
use crate::ids::JobId;
use crate::job::{Job, JobState};

/// What is asked for, and of which jobs.
pub(super) struct Asked {
    pub(super) verb: Verb,
    pub(super) jobs: Selecting,
    pub(super) dry_run: bool,
    pub(super) reason: Option<String>,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Cancel,
    Retry,
    Requeue,
}

impl Verb {
    const fn route(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::Retry => "retry",
            Self::Requeue => "requeue",
        }
    }

    /// What one job has come to.
    fn report(self, id: JobId, state: JobState) -> String {
        match (self, state) {
            (Self::Cancel, JobState::Running) => {
                format!("{id} is running; its worker will end it (wait for that with: sawmill job wait {id})")
            }
            (Self::Requeue, JobState::Running) => format!("{id} is running; its worker will give it back"),
            (Self::Retry, JobState::Queued) => format!("{id} is queued again; watch it with: sawmill logs -f {id}"),
            (Self::Requeue, JobState::Queued) => format!("{id} is queued, and ready"),
            (_, state) => format!("{id} is {state}"),
        }
    }

    /// What several jobs have come to.
    fn summary(self, count: usize, dry: bool) -> String {
        let jobs = if count == 1 { "1 job".to_owned() } else { format!("{count} jobs") };
        match (dry, self) {
            (true, Self::Cancel) => format!("{jobs} would be cancelled"),
            (true, Self::Retry) => format!("{jobs} would be retried"),
            (true, Self::Requeue) => format!("{jobs} would be put back into the queue"),
            (false, Self::Cancel) => format!("{jobs} cancelled, or told to end"),
            (false, Self::Retry) => format!("{jobs} queued again"),
            (false, Self::Requeue) => format!("{jobs} ready again, or told to be given back"),
        }
    }
}

/// Carries out a change of fate.
pub(super) async fn run(client: &Client, out: &Output, asked: Asked) -> Result<Exit, CliError> {
    let Asked { verb, jobs, dry_run: dry, reason } = asked;
    let named = !jobs.ids.is_empty();
    if let ([id], false) = (jobs.ids.as_slice(), dry) {
        return one(client, out, verb, *id, reason).await;
    }
    let mut request = ChangeJobs {
        ids: named.then_some(jobs.ids),
        project: jobs.project,
        execution: jobs.execution,
        state: jobs.state,
        all: jobs.all,
        dry_run: dry,
        reason,
        after: None,
    };
    let mut all = JobsChanged::default();
    loop {
        let part: JobsChanged = client.post(&format!("/v1/jobs/{}", verb.route()), &request).await?;
        all.changed.extend(part.changed);
        all.unchanged.extend(part.unchanged);
        request.after = part.next;
        if request.after.is_none() {
            break;
        }
        talk(&format!("{} so far", verb.summary(all.changed.len(), dry)));
    }
    tell(out, verb, &all, dry)?;
    let worst = |because| named && all.unchanged.iter().any(|job| job.because == because);
    Ok(match (worst(Because::NotFound), worst(Because::WrongState)) {
        (true, _) => Exit::NotFound,
        (false, true) => Exit::Conflict,
        (false, false) => Exit::Done,
    })
}

fn tell(out: &Output, verb: Verb, all: &JobsChanged, dry: bool) -> Result<(), CliError> {
    if out.is_json() {
        return out.document(all);
    }
    if dry {
        for id in &all.changed {
            out.line(&id.to_string())?;
        }
    }
    for job in &all.unchanged {
        let state = job.state.map(|state| format!(", which is {state},")).unwrap_or_default();
        talk(&format!("{}{state} is left as it is: {}", job.id, job.detail));
    }
    let line = verb.summary(all.changed.len(), dry);
    if dry {
        talk(&line);
        return Ok(());
    }
    out.line(&line)
}

async fn one(client: &Client, out: &Output, verb: Verb, id: JobId, reason: Option<String>) -> Result<Exit, CliError> {
    let path = format!("/v1/jobs/{id}/{}", verb.route());
    let job: Job = match verb {
        Verb::Retry => client.post_bytes(&path, Vec::new()).await?,
        Verb::Cancel | Verb::Requeue => client.post(&path, &ReasonRequest { reason }).await?,
    };
    if out.is_json() {
        out.document(&job)?;
    } else {
        out.line(&verb.report(id, job.state))?;
    }
    Ok(Exit::Done)
}
