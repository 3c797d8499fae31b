//! Ending an attempt.
//!
//! The one rule: job, attempt, stages, completion and outbox change in one transaction or not at all.

use super::db::{Lock, Tx};
use super::error::StoreError;
use super::fence::{hold, put_stages};
use super::settle::{AttemptEnd, close_attempt, settle, write_job};
use super::statement::args;
use super::types::Finish;
use super::{Store, jobs};
use crate::job::{Claim, Completion, Job};

const ADD_COMPLETION: &str = "INSERT INTO completions (id, job, attempt, project, repo, branch, commit_id, line, state, visible_at, created_at, body) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 'pending', $9, $10, $11)";

impl Store {
    /// Ends an attempt and gives its job the next state: ended, or queued again as the retry policy says. A job whose end was
    /// asked for ends as cancelled unless it succeeded. Returns the job as it is then.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`], and nothing has changed. When the database becomes unreachable it may have happened: a
    /// second try then reports the lease as lost, and [`Store::job`] tells.
    pub async fn finish(&self, claim: &Claim, end: Finish) -> Result<Job, StoreError> {
        if end.completion.as_ref().is_some_and(|completion| (completion.job, completion.attempt) != (claim.job, claim.attempt)) {
            return Err(StoreError::ForeignCompletion(claim.job));
        }
        let mut tx = self.db().begin().await?;
        let result = self.finish_within(&mut tx, claim, end).await;
        let job = self.conclude(tx, result).await?;
        // Whoever follows the log waits for its verdict.
        self.inner.hinter.progressed();
        Ok(job)
    }

    async fn finish_within(&self, tx: &mut Tx, claim: &Claim, end: Finish) -> Result<Job, StoreError> {
        let held = hold(tx, claim, Lock::Change).await?;
        let now = self.now();
        let mut settled = settle(&held, &end.outcome, &self.config().retry, now)?;
        settled.ready_at =
            settled.ready_at.map(|ready_at| end.not_before.map_or(ready_at, |not_before| ready_at.max(not_before)));
        let commit = end.completion.as_ref().and_then(|completion| completion.commit.as_ref());
        let at = (claim.job, claim.attempt);
        write_job(tx, at, &settled, commit, now).await?;
        let attempt_end =
            AttemptEnd { outcome: &end.outcome, resources: end.resources, salvage: end.salvage.as_ref(), log: end.log };
        close_attempt(tx, at, attempt_end, now).await?;
        put_stages(tx, claim, &end.stages).await?;
        if let Some(completion) = &end.completion {
            self.add_completion(tx, completion).await?;
        }
        jobs::get(tx, claim.job).await
    }

    /// Writes a completion at the end of its line. The unique index on job and attempt lets there be only one.
    async fn add_completion(&self, tx: &mut Tx, completion: &Completion) -> Result<(), StoreError> {
        let what = || format!("completion {}", completion.id);
        let body = serde_json::to_string(completion).map_err(|error| StoreError::corrupt(what(), error))?;
        let place = self.place(tx, completion).await?;
        let row = args![
            completion.id,
            completion.job,
            completion.attempt,
            completion.project.as_deref(),
            &completion.repo,
            completion.branch.as_deref(),
            completion.commit.as_ref(),
            place.line.as_deref(),
            place.visible_at,
            place.created_at,
            &body,
        ];
        tx.run(ADD_COMPLETION, row).await?;
        Ok(())
    }
}
