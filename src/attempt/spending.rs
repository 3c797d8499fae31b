//! What an attempt has used of models so far, against the budgets that concern its job.
//!
//! The one rule: what runs is ended once more was used of a budget than may be, by what it says itself and what is on record of all others,
//! and does not come to its end with that. It puts on record what it says, and looks at what others have put there, every [`ASK_EVERY`]: so
//! what runs at the same time sees each other. It is held by what it says while it runs; who says that at the end only is not.

use std::convert::Infallible;
use std::future::pending;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tracing::debug;

use super::halt::{Halt, chain};
use super::open::Attempt;
use crate::job::budget::{Account, Budget, BudgetUse, Spent};
use crate::job::completion::Usage;
use crate::store::StoreError;

/// How often it is looked what the backend says: a small file is read.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How long one that has used too much may take to come to its end by itself: what it said may have been its last word, and its work done.
const LAST_WORD: Duration = Duration::from_millis(300);

/// How long one may take to exit that has said its last word: longer than an agent is waited for. Who says so and works on is at work still.
const LEAVES_WITHIN: Duration = Duration::from_secs(15);

/// How often the database is told what was used, of backends that say anything, and asked what all have used.
const ASK_EVERY: Duration = Duration::from_secs(5);

/// How often it is asked whether the project has been given a budget, where none concerns the job.
const ASK_SELDOM: Duration = Duration::from_secs(60);

/// What the attempt has used so far: its rounds before this one, and what the backend says of this one.
fn so_far(attempt: &Attempt) -> Option<Usage> {
    let said = attempt.backend.usage_so_far(&attempt.slot.usage())?;
    Usage::sum(attempt.journal.before.usage.clone(), Some(said))
}

/// Whether a budget may concern the job: its project may have one.
fn may_be_limited(attempt: &Attempt) -> bool {
    let spec = &attempt.claimed.job.spec;
    spec.budget.is_some() || spec.execution.budget.is_some() || spec.project.is_some()
}

async fn account(attempt: &Attempt) -> Result<Account, StoreError> {
    attempt.tools.store.account(&attempt.claimed.claim, &attempt.claimed.job.spec).await
}

/// Waits until more was used of a budget than may be, and says of which: for ever where nothing is limited, or the backend does not say what
/// it uses.
pub(super) async fn exceeded(attempt: &Attempt) -> String {
    let (told, known) = watch::channel(Account::default());
    tokio::select! {
        never = keep_account(attempt, &told) => match never {},
        why = beyond(attempt, &known) => why,
    }
}

/// Puts what the attempt uses on record, and tells what all have used. Where the database cannot be asked, what was known before holds.
async fn keep_account(attempt: &Attempt, told: &watch::Sender<Account>) -> Infallible {
    if !may_be_limited(attempt) {
        return pending().await;
    }
    loop {
        let again = match so_far(attempt) {
            None => LOOK_EVERY,
            Some(used) => match settle(attempt, &used, told).await {
                Ok(again) => again,
                // Where the lease is lost, whoever renews it hears so too, and ends the attempt.
                Err(error) => {
                    debug!("cannot look at the budgets of job {}: {}", attempt.claimed.claim.job, chain(&error));
                    LOOK_EVERY
                }
            },
        };
        sleep(again).await;
    }
}

/// Does so once, and says when to do so again.
async fn settle(attempt: &Attempt, used: &Usage, told: &watch::Sender<Account>) -> Result<Duration, StoreError> {
    let found = account(attempt).await?;
    let (limited, is_new) = (!found.budgets.is_empty(), found.on_record != Spent::of(used));
    told.send_replace(found);
    if !limited {
        return Ok(ASK_SELDOM);
    }
    if is_new {
        attempt.tools.store.record_usage(&attempt.claimed.claim, used).await?;
    }
    Ok(ASK_EVERY)
}

/// Waits until what the backend says goes beyond a budget, and it does not come to its end with that.
async fn beyond(attempt: &Attempt, known: &watch::Receiver<Account>) -> String {
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut leaving = None::<Instant>;
    loop {
        ticks.tick().await;
        let Some(used) = so_far(attempt) else { continue };
        let over = known.borrow().once_used(Some(&used)).find(BudgetUse::is_exceeded);
        if let Some(over) = over {
            sleep(LAST_WORD).await;
            let has_ended = attempt.backend.has_ended(&attempt.slot.result());
            if !has_ended || leaving.get_or_insert_with(Instant::now).elapsed() > LEAVES_WITHIN {
                return over.told_to(&used);
            }
        }
    }
}

/// A budget that is used up, with what the attempt has used in all: in words.
pub(super) async fn used_up(attempt: &Attempt) -> Result<Option<String>, Halt> {
    let used = attempt.journal.usage.as_ref();
    let account = attempt.insist(|| account(attempt)).await?;
    let over = account.once_used(used).find(BudgetUse::is_spent);
    Ok(over.map(|over| used.map_or_else(|| over.to_string(), |used| over.told_to(used))))
}

/// The same where its backend says that it used anything.
pub(super) async fn met(attempt: &Attempt) -> Result<Option<String>, Halt> {
    if attempt.journal.usage.is_some() { used_up(attempt).await } else { Ok(None) }
}

/// What may be used in the round that begins; nothing where nothing is limited, or the backend knows no model.
pub(super) async fn left(attempt: &Attempt) -> Result<Option<Budget>, Halt> {
    if !may_be_limited(attempt) || !attempt.backend.abilities().reports_usage {
        return Ok(None);
    }
    let account = attempt.insist(|| account(attempt)).await?;
    let left = account.once_used(attempt.journal.usage.as_ref()).map(|budget| budget.left());
    Ok(left.reduce(|one, other| one.or_less(&other)).filter(|left| !left.is_unlimited()))
}
