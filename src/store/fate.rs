//! Changing the fate of jobs by request: ending them, giving ended ones another round, putting running ones back.
//!
//! The one rule: what a request does to a job follows from the job as it is under its row's lock, by `verdict` alone, whether
//! one job is named or a filter selects a hundred thousand. These go in batches of [`BATCH`], each a transaction of its own, so
//! that no claim waits long and no job is held for another. A running job is never touched: a request to its worker is left
//! beside its claim, and goes with the attempt.

use std::collections::HashMap;

use uuid::Uuid;

use super::dependencies::Needs;
use super::error::StoreError;
use super::limits::UnderLimits;
use super::outbox::add_ends;
use super::rows::{number, parse};
use super::statement::{Arg, args, tuples};
use super::tx::{Lock, TRIES, Tx};
use super::types::{Because, Cancel, Change, ChangedJobs, Requeue, Run, Selection, SelectionCursor, UnchangedJob};
use super::verdict::{Fate, Ties, Verdict, cancelled, judge};
use super::which::{Order, Which};
use super::{Store, dependencies, jobs, limits, turn};
use crate::clock::Timestamp;
use crate::ids::{AttemptNo, JobId};
use crate::job::{Hold, Job, JobState};

const FATES: &str = "SELECT j.id, j.state, j.held, j.attempt, j.needed, j.cancel_requested_at, j.requeue_requested_at, \
    j.share, j.concurrency_key, j.concurrency_limit, EXISTS (SELECT 1 FROM dependencies d WHERE d.job = j.id) AS waits FROM jobs j WHERE j.id IN ";
const NEEDED: &str = "SELECT DISTINCT d.needs AS id FROM dependencies d WHERE d.job IN ";
const LOCK: &str = "SELECT j.id FROM jobs j WHERE j.id IN ";
const PICKED: &str = "SELECT picked_job AS id FROM picked ORDER BY picked_job";
/// These change rows that are locked and were judged; the last condition is the guard. It names no column of a partial index,
/// whose walk PostgreSQL might prefer to looking up the ids.
const CANCEL_WAITING: (&str, &str) = (
    "UPDATE jobs SET state = 'cancelled', held = NULL, finished_at = $1, cancel_requested_at = $1, cancel_reason = $2, \
     outcome_class = $3, outcome_message = $4 WHERE id IN ",
    " AND token IS NULL",
);
const ASK_TO_END: (&str, &str) =
    ("UPDATE jobs SET cancel_requested_at = $1, cancel_reason = $2 WHERE id IN ", " AND token IS NOT NULL");
const ASK_TO_GIVE_BACK: (&str, &str) =
    ("UPDATE jobs SET requeue_requested_at = $1, requeue_reason = $2 WHERE id IN ", " AND token IS NOT NULL");
const MAKE_READY: (&str, &str) =
    (concat!("UPDATE jobs SET held = NULL, ready_at = $1, position = ", turn::back!(), " WHERE id IN "), " AND token IS NULL");
const NEW_ROUND: (&str, &str) = (
    concat!(
        "UPDATE jobs SET state = 'queued', held = NULL, ready_at = $1, attempts_used = 0, resets = 0, start_by = NULL, \
         cancel_requested_at = NULL, cancel_reason = NULL, finished_at = NULL, commit_id = NULL, position = ",
        turn::back!(),
        " WHERE id IN "
    ),
    " AND token IS NULL",
);

/// Jobs in one transaction.
const BATCH: usize = 100;

#[derive(sqlx::FromRow)]
struct FateRow {
    id: Uuid,
    state: String,
    held: Option<String>,
    attempt: i64,
    needed: i64,
    waits: bool,
    cancel_requested_at: Option<i64>,
    requeue_requested_at: Option<i64>,
    #[sqlx(flatten)]
    under: UnderLimits,
}

#[derive(sqlx::FromRow)]
struct Selected {
    id: Uuid,
}

impl TryFrom<FateRow> for Fate {
    type Error = StoreError;

    fn try_from(row: FateRow) -> Result<Self, StoreError> {
        let what = || format!("job {}", row.id);
        Ok(Self {
            id: JobId::from_uuid(row.id),
            state: parse(&row.state, what)?,
            attempt: Some(number(row.attempt, what)?).filter(|attempt| *attempt > 0).map(AttemptNo),
            cancel_asked: row.cancel_requested_at.into(),
            requeue_asked: row.requeue_requested_at.into(),
            held: row.held,
            ties: Ties { needed: row.needed == 1, waits: row.waits },
            under: row.under,
        })
    }
}

impl Store {
    /// Asks for the end of a job. One that waits ends at once; one that runs is ended by its worker, and ends as cancelled
    /// unless it succeeds first. Asking again changes nothing.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn cancel(&self, id: JobId, reason: &str) -> Result<Cancel, StoreError> {
        let change = Change::Cancel { reason: reason.to_owned() };
        let (verdict, job) = self.change_one(&change, id).await?;
        Ok(match verdict {
            Verdict::End => Cancel::Done(job),
            _ if job.state == JobState::Running => Cancel::Requested(job),
            _ => Cancel::AlreadyEnded(job),
        })
    }

    /// Queues a failed or cancelled job again for another round: as many attempts as it had, and no resets counted. It waits
    /// again for those of its dependencies that have been queued again.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::NotRetryable`] for a job in another state; [`StoreError::DependencyFailed`] when
    /// one that has to succeed first has not, and has ended.
    pub async fn retry(&self, id: JobId) -> Result<Job, StoreError> {
        match self.change_one(&Change::Retry, id).await? {
            (Verdict::NewRound, job) => Ok(job),
            (Verdict::Needs(needs), _) => Err(StoreError::DependencyFailed { job: id, needs }),
            (_, job) => Err(StoreError::NotRetryable { job: id, state: job.state }),
        }
    }

    /// Puts a job back: one that runs is stopped by its worker, salvaged and queued again, and nothing is charged for it; one
    /// that waits for a retry is ready at once. Asking again changes nothing.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::NotRequeuable`] for a job that has ended, whose end was asked for, or that
    /// waits for something else than a retry.
    pub async fn requeue(&self, id: JobId, reason: &str) -> Result<Requeue, StoreError> {
        let change = Change::Requeue { reason: reason.to_owned() };
        match self.change_one(&change, id).await? {
            (Verdict::Not(why), job) => Err(StoreError::NotRequeuable { job: id, state: job.state, why }),
            (_, job) if job.state == JobState::Running => Ok(Requeue::Requested(job)),
            (_, job) => Ok(Requeue::Ready(job)),
        }
    }

    async fn change_one(&self, change: &Change, id: JobId) -> Result<(Verdict, Job), StoreError> {
        let mut tries = 1;
        loop {
            let mut tx = self.db().begin().await?;
            let result = async {
                let judged = self.change_within(&mut tx, change, &[id]).await?;
                let (_, verdict) = judged.into_iter().next().ok_or_else(|| StoreError::not_found("job", id))?;
                Ok((verdict, jobs::get(&mut tx, id).await?))
            };
            let result = result.await;
            match self.conclude(tx, result).await {
                Err(error) if error.is_deadlock() && tries < TRIES => tries += 1,
                result => return result,
            }
        }
    }

    /// Changes the fate of at most `limit` of the jobs selected, or says what would become of them, and where to go on.
    ///
    /// # Errors
    /// When the database cannot be asked; batches before that stand.
    pub async fn change_jobs(
        &self,
        change: &Change,
        selection: &Selection,
        limit: u32,
        run: Run,
    ) -> Result<ChangedJobs, StoreError> {
        let (ids, next) = self.select(change, selection, limit).await?;
        let mut all = ChangedJobs { changed: Vec::new(), unchanged: Vec::new(), next };
        for batch in ids.chunks(BATCH) {
            let judged = self.change_batch(change, batch, run).await?;
            let mut verdicts: HashMap<JobId, (Fate, Verdict)> = judged.into_iter().map(|one| (one.0.id, one)).collect();
            for id in batch {
                let (state, because, why) = match verdicts.remove(id) {
                    None => (None, Because::NotFound, "there is no such job".to_owned()),
                    Some((fate, Verdict::Already(why))) => (Some(fate.state), Because::Already, why.to_owned()),
                    Some((fate, Verdict::Not(why))) => (Some(fate.state), Because::WrongState, why.to_owned()),
                    Some((fate, Verdict::Needs(job))) => {
                        let why = format!("there is no success on record of job {job}, which it waits for; retry that one first");
                        (Some(fate.state), Because::WrongState, why)
                    }
                    Some(_) => {
                        all.changed.push(*id);
                        continue;
                    }
                };
                all.unchanged.push(UnchangedJob { id: *id, state, because, why });
            }
        }
        Ok(all)
    }

    /// The jobs to look at, and where what follows them begins. A filter goes through the states one after the other, in
    /// each by id: each has an index to go by, and what was queued or retried meanwhile is not met again.
    async fn select(
        &self,
        change: &Change,
        selection: &Selection,
        limit: u32,
    ) -> Result<(Vec<JobId>, Option<SelectionCursor>), StoreError> {
        let (project, execution, only, after) = match selection {
            Selection::Ids(ids) => return Ok((ids.clone(), None)),
            Selection::Filter { project, execution, state, after } => (project, execution, state, after),
        };
        let mut ids = Vec::new();
        let applicable = change.states().into_iter().filter(|state| only.is_none_or(|only| only == *state));
        let reached = applicable.skip_while(|state| after.is_some_and(|after| after.state != *state));
        for state in reached {
            let missing = limit as usize - ids.len();
            if missing == 0 {
                return Ok((ids, Some(SelectionCursor { state, id: JobId::from_uuid(Uuid::nil()) })));
            }
            let backoff = matches!((change, state), (Change::Requeue { .. }, JobState::Queued)).then_some(Hold::Backoff);
            let which = Which {
                state: Some(state),
                held: backoff,
                project: project.as_ref(),
                execution: execution.as_ref(),
                beyond: after.filter(|after| after.state == state).map(|after| after.id),
                order: Order::Oldest,
                limit: u32::try_from(missing).unwrap_or(limit),
            };
            let (picked, args) = which.picked();
            let rows: Vec<Selected> = self.db().all(&format!("{picked}{PICKED}"), args).await?;
            let more = rows.len() > missing;
            ids.extend(rows.into_iter().take(missing).map(|row| JobId::from_uuid(row.id)));
            if more {
                let next = ids.last().map(|id| SelectionCursor { state, id: *id });
                return Ok((ids, next));
            }
        }
        Ok((ids, None))
    }

    async fn change_batch(&self, change: &Change, ids: &[JobId], run: Run) -> Result<Vec<(Fate, Verdict)>, StoreError> {
        let mut tries = 1;
        loop {
            let mut tx = self.db().begin().await?;
            let result = self.change_within(&mut tx, change, ids).await;
            let result = match run {
                Run::Real => self.conclude(tx, result).await,
                Run::Dry => {
                    tx.rollback().await;
                    result
                }
            };
            match result {
                Err(error) if error.is_deadlock() && tries < TRIES => tries += 1,
                result => return result,
            }
        }
    }

    /// Locks the jobs, always in the same order, judges each, and does what follows for all of one verdict at once.
    async fn change_within(&self, tx: &mut Tx, change: &Change, ids: &[JobId]) -> Result<Vec<(Fate, Verdict)>, StoreError> {
        if *change == Change::Retry {
            lock_with_needed(tx, ids).await?;
        }
        let sql = format!("{FATES}{} ORDER BY j.id", tuples(1, 1, ids.len()));
        let rows: Vec<FateRow> = tx.all_locked(&sql, Lock::Change, ids.iter().copied().map(Arg::from).collect()).await?;
        let mut judged = judge_all(change, rows)?;
        let now = self.now();
        let (Change::Cancel { reason } | Change::Requeue { reason }) = change else {
            begin_rounds(tx, &mut judged, now).await?;
            return Ok(judged);
        };
        let outcome = cancelled(reason);
        let ending = of(&judged, &Verdict::End);
        update(tx, CANCEL_WAITING, args![now, reason, outcome.class.as_str(), &outcome.message], &ending).await?;
        let ends: Vec<_> = ending.iter().map(|fate| (fate.id, fate.attempt, JobState::Cancelled)).collect();
        add_ends(tx, &ends, now).await?;
        let needed: Vec<JobId> = ending.iter().filter(|fate| fate.ties.needed).map(|fate| fate.id).collect();
        dependencies::tell_all(tx, &needed, now).await?;
        update(tx, ASK_TO_END, args![now, reason], &of(&judged, &Verdict::AskToEnd)).await?;
        update(tx, ASK_TO_GIVE_BACK, args![now, reason], &of(&judged, &Verdict::AskToGiveBack)).await?;
        update(tx, MAKE_READY, args![now], &of(&judged, &Verdict::MakeReady)).await?;
        // One that nothing held may have come back for the room of a limit, which it will not take now.
        let ready: Vec<&Fate> = ending.into_iter().filter(|fate| fate.held.is_none()).collect();
        limits::let_back(tx, &ready).await?;
        Ok(judged)
    }
}

/// Locks jobs and those that they wait for, in the order of their ids: whoever ends a job locks it before those that wait for it,
/// which are younger.
async fn lock_with_needed(tx: &mut Tx, ids: &[JobId]) -> Result<(), StoreError> {
    let listed = |ids: &[JobId]| ids.iter().copied().map(Arg::from).collect();
    let needed: Vec<Selected> = tx.all(&format!("{NEEDED}{}", tuples(1, 1, ids.len())), listed(ids)).await?;
    if needed.is_empty() {
        return Ok(());
    }
    let mut all: Vec<JobId> = needed.into_iter().map(|row| JobId::from_uuid(row.id)).chain(ids.iter().copied()).collect();
    all.sort_unstable();
    all.dedup();
    for batch in all.chunks(BATCH) {
        let sql = format!("{LOCK}{} ORDER BY j.id", tuples(1, 1, batch.len()));
        tx.all_locked::<Selected>(&sql, Lock::Change, listed(batch)).await?;
    }
    Ok(())
}

/// Queues those again that are to have another round, oldest first: what a job waits for may be among those before it.
async fn begin_rounds(tx: &mut Tx, judged: &mut [(Fate, Verdict)], now: Timestamp) -> Result<(), StoreError> {
    let mut alone = Vec::new();
    for at in 0..judged.len() {
        match &judged[at] {
            (fate, Verdict::NewRound) if fate.ties.waits => {}
            (_, Verdict::NewRound) => {
                alone.push(at);
                continue;
            }
            _ => continue,
        }
        begin_round(tx, judged, &std::mem::take(&mut alone), now).await?;
        let job = jobs::get(tx, judged[at].0.id).await?;
        let needs = Needs::again(tx, &job).await?;
        if let Some(failed) = needs.failed {
            judged[at].1 = Verdict::Needs(failed);
            continue;
        }
        begin_round(tx, judged, &[at], now).await?;
        needs.hold_again(tx, job.id).await?;
    }
    begin_round(tx, judged, &alone, now).await
}

async fn begin_round(tx: &mut Tx, judged: &[(Fate, Verdict)], which: &[usize], now: Timestamp) -> Result<(), StoreError> {
    let fates: Vec<&Fate> = which.iter().map(|at| &judged[*at].0).collect();
    update(tx, NEW_ROUND, args![now], &fates).await
}

fn judge_all(change: &Change, rows: Vec<FateRow>) -> Result<Vec<(Fate, Verdict)>, StoreError> {
    let judged = rows.into_iter().map(|row| {
        let fate = Fate::try_from(row)?;
        let verdict = judge(change, &fate);
        Ok((fate, verdict))
    });
    judged.collect()
}

fn of<'a>(judged: &'a [(Fate, Verdict)], verdict: &Verdict) -> Vec<&'a Fate> {
    judged.iter().filter(|(_, found)| found == verdict).map(|(fate, _)| fate).collect()
}

/// Changes the rows of these jobs, which are locked, and all of them.
async fn update(tx: &mut Tx, (set, guard): (&str, &str), mut args: Vec<Arg>, fates: &[&Fate]) -> Result<(), StoreError> {
    if fates.is_empty() {
        return Ok(());
    }
    let listed = tuples(args.len() + 1, 1, fates.len());
    args.extend(fates.iter().map(|fate| Arg::from(fate.id)));
    let changed = tx.run(&format!("{set}{listed}{guard}"), args).await?;
    if changed != fates.len() as u64 {
        return Err(StoreError::corrupt("the queue", format!("{changed} of {} locked jobs could be changed", fates.len())));
    }
    Ok(())
}
