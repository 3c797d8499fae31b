//! `sawmill completions`: the integrator's side, by hand or from a script.

use std::time::{Duration, Instant};

use super::client::Client;
use super::completions_args::{CompletionsCommand, Held};
use super::error::{CliError, Exit};
use super::output::{Output, talk};
use super::table::{Cell, age};
use crate::api::WAIT_MAX;
use crate::api::wire::{AckCompletion, ClaimCompletions, HeldCompletion, NackCompletion, Page, RenewCompletion};
use crate::clock::Timestamp;
use crate::ids::{CompletionId, JobId};
use crate::job::{CompletionEntry, CompletionState};

/// Carries out a command about completions.
pub(super) async fn run(client: &Client, out: &Output, command: CompletionsCommand) -> Result<Exit, CliError> {
    match command {
        CompletionsCommand::List { state, job, limit } => list(client, out, state, job, limit).await,
        CompletionsCommand::Claim { consumer, limit, lease, project, repo, wait } => {
            let patience = wait.map(|wait| wait.unwrap_or(Duration::MAX)).unwrap_or_default();
            claim(client, out, ClaimCompletions { consumer, limit, lease, project, repo, wait: None }, patience).await
        }
        CompletionsCommand::Requeue { ids } => requeue(client, out, &ids).await,
        CompletionsCommand::Ack(Held { id, token }) => {
            let entry = client.post(&format!("/v1/completions/{id}/ack"), &AckCompletion { token }).await?;
            report(out, &entry)
        }
        CompletionsCommand::Nack { held: Held { id, token }, reason, retry_after, dead } => {
            let request = NackCompletion { token, reason, retry_after, dead };
            report(out, &client.post(&format!("/v1/completions/{id}/nack"), &request).await?)
        }
        CompletionsCommand::Renew { held: Held { id, token }, lease } => {
            let request = RenewCompletion { token, lease };
            report(out, &client.post(&format!("/v1/completions/{id}/renew"), &request).await?)
        }
    }
}

async fn list(
    client: &Client,
    out: &Output,
    state: Option<CompletionState>,
    job: Option<JobId>,
    limit: u32,
) -> Result<Exit, CliError> {
    let state = state.map(|state| format!("&state={state}")).unwrap_or_default();
    let job = job.map(|job| format!("&job={job}")).unwrap_or_default();
    let page: Page<CompletionEntry> = client.get(&format!("/v1/completions?limit={limit}{state}{job}")).await?;
    if out.is_json() {
        out.document(&page)?;
        return Ok(Exit::Done);
    }
    if page.items.is_empty() {
        talk("there is no such completion; a job that succeeds makes one");
        return Ok(Exit::Done);
    }
    let now = Timestamp::now();
    let rows: Vec<Vec<Cell>> = page.items.iter().map(|entry| row(entry, now)).collect();
    out.rows(&["ID", "STATE", "AGE", "JOB", "COMMIT", "BRANCH", "CONSUMER", "DELIVERIES", "ERROR"], &rows)?;
    Ok(Exit::Done)
}

fn row(entry: &CompletionEntry, now: Timestamp) -> Vec<Cell> {
    let completion = &entry.completion;
    vec![
        Cell::new(completion.id),
        Cell::state(entry.state),
        Cell::new(age(completion.created_at, now)),
        Cell::new(completion.job),
        Cell::maybe(completion.commit.as_ref().map(|commit| commit.short())),
        Cell::maybe(completion.branch.as_ref()),
        Cell::maybe(entry.consumer.as_ref()),
        Cell::new(entry.deliveries),
        Cell::maybe(entry.last_error.as_ref()),
    ]
}

async fn claim(client: &Client, out: &Output, mut request: ClaimCompletions, patience: Duration) -> Result<Exit, CliError> {
    let began = Instant::now();
    let page: Page<HeldCompletion> = loop {
        let left = patience.saturating_sub(began.elapsed());
        request.wait = (!left.is_zero()).then(|| left.min(WAIT_MAX));
        let page: Page<HeldCompletion> = client.post("/v1/completions/claim", &request).await?;
        if !page.items.is_empty() || began.elapsed() >= patience {
            break page;
        }
    };
    if out.is_json() {
        out.document(&page)?;
        return Ok(Exit::Done);
    }
    if page.items.is_empty() {
        talk("no completion is pending");
        return Ok(Exit::Done);
    }
    let rows: Vec<Vec<Cell>> = page
        .items
        .iter()
        .map(|held| {
            let completion = &held.entry.completion;
            vec![
                Cell::new(completion.id),
                Cell::new(held.token),
                Cell::maybe(completion.commit.as_ref().map(|commit| commit.short())),
                Cell::maybe(completion.branch.as_ref()),
                Cell::new(&completion.repo),
            ]
        })
        .collect();
    out.rows(&["ID", "TOKEN", "COMMIT", "BRANCH", "REPO"], &rows)?;
    if let Some(until) = page.items.first().and_then(|held| held.entry.lease_until) {
        talk(&format!("held until {until}; then: sawmill completions ack ID --token TOKEN"));
    }
    Ok(Exit::Done)
}

async fn requeue(client: &Client, out: &Output, ids: &[CompletionId]) -> Result<Exit, CliError> {
    for id in ids {
        let entry: CompletionEntry = client.post_bytes(&format!("/v1/completions/{id}/requeue"), Vec::new()).await?;
        report(out, &entry)?;
    }
    Ok(Exit::Done)
}

fn report(out: &Output, entry: &CompletionEntry) -> Result<Exit, CliError> {
    if out.is_json() {
        out.document(entry)?;
    } else {
        let until = entry.lease_until.map(|until| format!(" until {until}")).unwrap_or_default();
        out.line(&format!("{} is {}{until}", entry.completion.id, entry.state))?;
    }
    Ok(Exit::Done)
}
