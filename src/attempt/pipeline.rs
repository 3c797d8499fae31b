//! The story of an attempt: a state machine whose state is in the journal, so that a later daemon goes on where this one
//! stopped.

use super::halt::Halt;
use super::journal::Phase;
use super::judge::Judgement;
use super::open::Attempt;
use super::{deliver, egress, execute, judge, prepare, revise};
use crate::job::Completion;

/// Runs what is left of the pipeline. The result is the completion to put on record with the job's end.
///
/// The commit is made before the gates run: what they judge is then what is delivered, whatever they write into the
/// worktree themselves.
pub(super) async fn run(attempt: &mut Attempt) -> Result<Completion, Halt> {
    // Of one that was taken up, whose commands may run.
    egress::open(attempt).await?;
    loop {
        // Publishing looks itself: a daemon before this one may have pushed already.
        if !matches!(attempt.journal.phase, Phase::Judged { .. }) {
            attempt.check_stop()?;
        }
        let next = match attempt.journal.phase.clone() {
            Phase::Preparing => prepare::run(attempt).await?,
            Phase::Prepared { base } => execute::start(attempt, base).await?,
            Phase::Executing { base } => execute::wait(attempt, base).await?,
            Phase::Executed { base, said } => deliver::commit(attempt, base, said).await?,
            Phase::Committed { base, said, commit } => judge::run(attempt, base, said, commit).await?,
            Phase::Rejected { base, said, commit, rejection } => revise::follow(attempt, base, said, commit, rejection).await?,
            Phase::Judged { base, said, commit, gates, findings } => {
                return deliver::publish(attempt, base, said, commit, Judgement { gates, findings }).await;
            }
        };
        attempt.enter(next)?;
    }
}
