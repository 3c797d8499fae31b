//! What an attempt has used of models so far, against the budgets that concern its job.
//!
//! The one rule: what runs is ended once it says that it has used more than any budget had left, and does not come to its end with that.
//! It is held by what it says while it runs; who says that at the end only is not. What else was used of a budget is what is on record,
//! looked at again now and then: others that run at the same time are on record when they have ended.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tracing::debug;

use super::halt::{Halt, chain};
use super::open::Attempt;
use crate::job::budget::{Budget, BudgetUse};
use crate::job::completion::Usage;

/// How often it is looked what the backend says: a small file is read.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How long one that has used too much may take to come to its end by itself: what it said may have been its last word, and its work done.
const LAST_WORD: Duration = Duration::from_millis(300);

/// How long one may take to exit that has said its last word: longer than an agent is waited for. Who says so and works on is at work still.
const LEAVES_WITHIN: Duration = Duration::from_secs(15);

/// How often the database is asked what is on record, of backends that say anything.
const ASK_EVERY: Duration = Duration::from_secs(15);

/// What the attempt has used so far: its rounds before this one, and what the backend says of this one.
fn so_far(attempt: &Attempt) -> Option<Usage> {
    let said = attempt.backend.usage_so_far(&attempt.slot.usage())?;
    Usage::sum(attempt.journal.before.usage.clone(), Some(said))
}

/// Waits until the attempt has used more than a budget allows, and says which: for ever where nothing is limited, or the backend does
/// not say what it uses.
pub(super) async fn exceeded(attempt: &Attempt) -> String {
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut budgets, mut asked) = (Vec::<BudgetUse>::new(), None::<Instant>);
    let mut leaving = None::<Instant>;
    loop {
        ticks.tick().await;
        let Some(used) = so_far(attempt) else { continue };
        if asked.is_none_or(|at| at.elapsed() >= ASK_EVERY) {
            match attempt.tools.store.budget_of_job(attempt.claimed.claim.job).await {
                Ok(found) => (budgets, asked) = (found, Some(Instant::now())),
                // It is held by what was known before.
                Err(error) => debug!("cannot look at the budgets of job {}: {}", attempt.claimed.claim.job, chain(&error)),
            }
        }
        if let Some(over) = budgets.iter().map(|budget| budget.clone().with(&used)).find(BudgetUse::is_exceeded) {
            sleep(LAST_WORD).await;
            let has_ended = attempt.backend.has_ended(&attempt.slot.result());
            if !has_ended || leaving.get_or_insert_with(Instant::now).elapsed() > LEAVES_WITHIN {
                return over.to_string();
            }
        }
    }
}

/// A budget that is used up by what the attempt has used in all, where its backend says that it used anything.
pub(super) async fn met(attempt: &Attempt) -> Result<Option<BudgetUse>, Halt> {
    let Some(used) = attempt.journal.usage.as_ref() else { return Ok(None) };
    attempt.insist(|| attempt.tools.store.budget_met(attempt.claimed.claim.job, Some(used))).await
}

/// What may be used in the round that begins; nothing where nothing is limited, or the backend knows no model.
pub(super) async fn left(attempt: &Attempt) -> Result<Option<Budget>, Halt> {
    let spec = &attempt.claimed.job.spec;
    let limited = spec.budget.is_some() || spec.execution.budget.is_some() || spec.project.is_some();
    if !limited || !attempt.backend.abilities().reports_usage {
        return Ok(None);
    }
    let job = attempt.claimed.claim.job;
    let budgets = attempt.insist(|| attempt.tools.store.budget_of_job(job)).await?;
    let used = attempt.journal.usage.clone().unwrap_or_default();
    let left = budgets.into_iter().map(|budget| budget.with(&used).left());
    Ok(left.reduce(|one, other| one.or_less(&other)).filter(|left| !left.is_unlimited()))
}
