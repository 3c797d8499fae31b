//! What an integrator does with what was delivered: take completions, fetch their branches, look, acknowledge.

use super::scene::Scene;
use super::watch::Ended;
use crate::api::wire::{AckCompletion, ClaimCompletions, HeldCompletion, Page};
use crate::cli::{Cell, Output};
use crate::job::{CompletionEntry, JobState};

/// Takes every completion, checks that its commit is on the remote under its branch, and acknowledges it. Says whether there
/// was exactly one for every job that succeeded, and every one was as it said.
pub(super) async fn run(scene: &Scene, out: &Output, ended: &[Ended]) -> anyhow::Result<bool> {
    let limit = u32::try_from(ended.len()).unwrap_or(u32::MAX);
    let ask = ClaimCompletions { consumer: "integrator".to_owned(), limit, ..ClaimCompletions::default() };
    let held: Page<HeldCompletion> = scene.client().post("/v1/completions/claim", &ask).await?;
    let held = held.items;
    let clone = scene.clone_remote().await?;
    let mut rows = Vec::new();
    let mut good = held.len() == ended.iter().filter(|ended| ended.job.state == JobState::Succeeded).count();
    for held in &held {
        let completion = &held.entry.completion;
        let branch = completion.branch.clone().unwrap_or_default();
        let found = clone.branch_tip(&branch).await?;
        let is_there = found == completion.commit;
        good &= is_there;
        let path = format!("/v1/completions/{}/ack", completion.id);
        let _: CompletionEntry = scene.client().post(&path, &AckCompletion { token: held.token }).await?;
        rows.push(vec![
            Cell::new(completion.job.short()),
            Cell::new(&branch),
            Cell::maybe(completion.commit.as_ref().map(|commit| commit.short().to_owned())),
            Cell::new(&completion.diff),
            Cell::new(completion.gates.iter().map(|gate| format!("{} passed", gate.name)).collect::<Vec<_>>().join(", ")),
            Cell::new(if is_there { "fetched, acknowledged" } else { "NOT THERE" }),
        ]);
    }
    out.line("\nwhat an integrator takes from the queue of completions:\n")?;
    out.rows(&["JOB", "BRANCH", "COMMIT", "CHANGE", "GATES", "FOUND"], &rows)?;
    out.line("\n$ git log --graph --oneline --all\n")?;
    out.line(clone.graph().await?.trim_end())?;
    Ok(good)
}
