//! Ending attempts.
//!
//! The one rule: job, attempt, stages, completion, outbox and the pause of a credential change in one transaction or not at all.
//!
//! Ends that come at once are written together, so that many slots that end at once cost few transactions. Where one of several
//! cannot be written, each is written by itself, so that nobody fails for another's sake.

use std::collections::BTreeSet;

use tokio::sync::oneshot;

use super::db::Kind;
use super::error::StoreError;
use super::fence::{Held, hold_all, put_stages};
use super::settle::{AttemptEnd, JobEnd, Settled, close_attempts, settle, write_jobs};
use super::statement::args;
use super::together::{Batched, MOST};
use super::tx::{TRIES, Tx};
use super::types::{CredentialNews, Finish};
use super::{Store, coverage, jobs, ledger, pauses};
use crate::job::completion::Usage;
use crate::job::{Claim, Completion, Job, OutcomeClass};

const ADD_COMPLETION: &str = "INSERT INTO completions (id, job, attempt, project, repo, branch, commit_id, line, state, visible_at, created_at, body) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 'pending', $9, $10, $11)";

/// An end that is to be written.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) claim: Claim,
    pub(super) end: Finish,
    answer: oneshot::Sender<Result<Job, StoreError>>,
}

impl Pending {
    /// Whether it succeeded without delivering anything.
    pub(super) fn is_simple(&self) -> bool {
        self.end.outcome.class == OutcomeClass::Succeeded
            && self.end.completion.is_none()
            && self.end.credential.is_none()
            && self.end.usage.is_none()
    }
}

/// Of those that wait the next ones: of each job one.
fn one_of_each_job(waiting: &mut Vec<Pending>) -> Vec<Pending> {
    let mut jobs = BTreeSet::new();
    let (mut next, mut later) = (Vec::new(), Vec::new());
    for pending in waiting.drain(..) {
        let fits = next.len() < MOST && jobs.insert(pending.claim.job);
        if fits { next.push(pending) } else { later.push(pending) }
    }
    *waiting = later;
    next
}

impl Batched for Pending {
    type Done = Job;
    const NAMES: &str = "ends";

    fn write(store: &Store, all: &[Self]) -> impl Future<Output = Result<Vec<Result<Job, StoreError>>, StoreError>> + Send {
        store.finish_together(all)
    }
}

impl Store {
    /// Ends an attempt and gives its job the next state: ended, or queued again as the retry policy says. A job whose end was
    /// asked for ends as cancelled unless it succeeded. Returns the job as it is then. Dropping the call does not undo it.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`], and nothing has changed. When the database becomes unreachable it may have happened: a
    /// second try then reports the lease as lost, and [`Store::job`] tells.
    pub async fn finish(&self, claim: &Claim, end: Finish) -> Result<Job, StoreError> {
        if end.completion.as_ref().is_some_and(|completion| (completion.job, completion.attempt) != (claim.job, claim.attempt)) {
            return Err(StoreError::ForeignCompletion(claim.job));
        }
        let (answer, answered) = oneshot::channel();
        let pending = Pending { claim: claim.clone(), end, answer };
        let store = self.clone();
        self.inner.ends.add(pending, one_of_each_job, move |pending| {
            let store = store.clone();
            async move { store.finish_all(pending).await }
        });
        answered.await.unwrap_or_else(|_| Err(self.interrupted("the task that writes ends was stopped")))
    }

    async fn finish_all(&self, mut pending: Vec<Pending>) {
        pending = self.finish_simple(pending).await;
        if pending.is_empty() {
            return;
        }
        let answers = self.write_together(&pending).await;
        for (pending, answer) in pending.into_iter().zip(answers) {
            // Whoever asked may have gone.
            drop(pending.answer.send(answer));
        }
    }

    /// Ends those that can be ended in one statement, or one call, and gives back the others.
    async fn finish_simple(&self, pending: Vec<Pending>) -> Vec<Pending> {
        let mut left = Vec::new();
        let all: Vec<&Pending> = pending.iter().collect();
        let ended = match self.db().kind() {
            Kind::Postgres => self.finish_at_once(&all).await,
            Kind::Sqlite => self.finish_in_one_call(&all).await,
        };
        match ended {
            Ok(mut jobs) => {
                let ended = !jobs.is_empty();
                for pending in pending {
                    match jobs.remove(&pending.claim.job) {
                        // Whoever asked may have gone.
                        Some(job) => drop(pending.answer.send(Ok(job))),
                        None => left.push(pending),
                    }
                }
                if ended {
                    self.ended();
                    self.inner.hinter.progressed();
                }
            }
            // It may have happened, and the long way would then say that the lease was lost.
            Err(error) if error.is_transient() && !error.is_deadlock() => {
                let why = error.to_string();
                for pending in pending {
                    if pending.is_simple() {
                        drop(pending.answer.send(Err(self.interrupted(&why))));
                    } else {
                        left.push(pending);
                    }
                }
            }
            Err(error) => {
                tracing::warn!(%error, "could not end {} attempts at once; taking the long way", pending.len());
                left = pending;
            }
        }
        left
    }

    /// Ends them in one transaction; again where that met another one in a circle, which undoes one of the two.
    async fn finish_together(&self, ends: &[Pending]) -> Result<Vec<Result<Job, StoreError>>, StoreError> {
        let mut tries = 1;
        loop {
            match self.finish_once(ends).await {
                Err(error) if error.is_deadlock() && tries < TRIES => tries += 1,
                result => return result,
            }
        }
    }

    async fn finish_once(&self, ends: &[Pending]) -> Result<Vec<Result<Job, StoreError>>, StoreError> {
        let mut tx = self.db().begin().await?;
        let result = self.finish_within(&mut tx, ends).await;
        let answers = match result {
            // Nothing was written.
            Ok(answers) if answers.iter().all(Result::is_err) => {
                tx.rollback().await;
                answers
            }
            result => self.conclude(tx, result).await?,
        };
        // Whoever follows a log waits for its verdict.
        self.inner.hinter.progressed();
        Ok(answers)
    }

    async fn finish_within(&self, tx: &mut Tx, ends: &[Pending]) -> Result<Vec<Result<Job, StoreError>>, StoreError> {
        let claims: Vec<&Claim> = ends.iter().map(|pending| &pending.claim).collect();
        let held = hold_all(tx, &claims).await?;
        let now = self.now();
        let mut kept = Vec::new();
        for Pending { claim, end, .. } in ends {
            let Some(before) = held.get(&claim.token) else { continue };
            let mut settled = settle(before, &end.outcome, &self.config().retry, now)?;
            settled.ready_at =
                settled.ready_at.map(|ready_at| end.not_before.map_or(ready_at, |not_before| ready_at.max(not_before)));
            if settled.asks() {
                settled.ready_at = Some(now + self.config().answer_within);
            }
            kept.push(Kept { claim, end, before, settled });
        }
        // In order, because two may tell of several at once.
        let mut telling: Vec<(&CredentialNews, &mut Kept<'_>)> =
            kept.iter_mut().filter_map(|kept| Some((kept.end.credential.as_ref()?, kept))).collect();
        telling.sort_by_key(|(news, _)| news.credential());
        for (news, kept) in telling {
            if let Some(until) = pauses::hear(tx, &self.config().pause, kept.claim, news, &kept.end.outcome.message, now).await? {
                kept.settled.ready_at = kept.settled.ready_at.map(|ready_at| ready_at.max(until));
            }
        }
        let used: Vec<(&Claim, &Usage)> = kept.iter().filter_map(|kept| Some((kept.claim, kept.end.usage.as_ref()?))).collect();
        ledger::record(tx, &used, now).await?;
        // Before the jobs, because nobody who has a limit's lock may wait for a line; in order, because two may end several at once.
        let mut completions: Vec<&Completion> = kept.iter().filter_map(|kept| kept.end.completion.as_ref()).collect();
        completions.sort_by_key(|completion| (&completion.repo, &completion.branch));
        for completion in &completions {
            self.add_completion(tx, completion).await?;
        }
        coverage::record(tx, &completions).await?;
        write_jobs(tx, &kept.iter().map(Kept::job_end).collect::<Vec<_>>(), now).await?;
        close_attempts(tx, &kept.iter().map(Kept::attempt_end).collect::<Vec<_>>(), now).await?;
        put_stages(tx, &kept.iter().map(|kept| (kept.claim, kept.end.stages.as_slice())).collect::<Vec<_>>()).await?;
        let ids: Vec<_> = kept.iter().map(|kept| kept.claim.job).collect();
        let mut jobs = jobs::get_all(tx, &ids).await?;
        Ok(claims
            .iter()
            .map(|claim| match held.contains_key(&claim.token) {
                true => jobs.remove(&claim.job).ok_or_else(|| StoreError::not_found("job", claim.job)),
                false => Err(StoreError::LeaseLost),
            })
            .collect())
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

/// An end whose claim holds.
struct Kept<'a> {
    claim: &'a Claim,
    end: &'a Finish,
    before: &'a Held,
    settled: Settled,
}

impl Kept<'_> {
    fn job_end(&self) -> JobEnd<'_> {
        let commit = self.end.completion.as_ref().and_then(|completion| completion.commit.as_ref());
        JobEnd { job: self.claim.job, attempt: self.claim.attempt, before: self.before, settled: &self.settled, commit }
    }

    fn attempt_end(&self) -> AttemptEnd<'_> {
        AttemptEnd {
            job: self.claim.job,
            attempt: self.claim.attempt,
            outcome: &self.end.outcome,
            resources: self.end.resources,
            salvage: self.end.salvage.as_ref(),
            log: self.end.log,
        }
    }
}
