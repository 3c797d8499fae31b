//! What is to be told to others: one event for every end of a job.
//!
//! The one rule: the row is written in the transaction that ends the job, so that there is never one without the other. Whoever
//! sends takes the oldest that are not sent, and marks them after; so an event is told at least once, and its id tells the
//! receiver a repetition. Nothing sends them yet, so `retention` removes them with their job, sent or not; whoever begins to send makes it
//! a reason to keep the job. A job that is retried ends again, and is told of again.

use uuid::Uuid;

use super::error::StoreError;
use super::statement::{Arg, args, tuples};
use super::tx::Tx;
use crate::clock::Timestamp;
use crate::ids::{AttemptNo, JobId};
use crate::job::JobState;

const ADD: &str = "INSERT INTO outbox (id, job, attempt, state, created_at) VALUES ";

/// Events in one statement: databases limit the arguments of one, and an end may end any number of those that wait for it.
const BATCH: usize = 100;

/// Records that jobs have ended: which, in which attempt, where there was one, and how.
pub(super) async fn add_ends(
    tx: &mut Tx,
    ends: &[(JobId, Option<AttemptNo>, JobState)],
    now: Timestamp,
) -> Result<(), StoreError> {
    for ends in ends.chunks(BATCH) {
        let args = ends.iter().flat_map(|(job, attempt, state)| {
            let attempt = attempt.map(|attempt| i64::from(attempt.0));
            args![Uuid::now_v7(), *job, attempt, state.as_str(), now]
        });
        let args: Vec<Arg> = args.collect();
        tx.run(&format!("{ADD}{}", tuples(1, ends.len(), 5)), args).await?;
    }
    Ok(())
}
