//! Putting jobs into the queue.
//!
//! The one rule: one key is one job and one branch is one job, whoever comes first and however many come at once. The unique
//! indexes decide; what is looked up afterwards only says who won.

use tokio::sync::oneshot;

use super::db::Kind;
use super::dependencies::{self, Needs};
use super::depth::{Admission, Full};
use super::error::StoreError;
use super::outbox::add_ends;
use super::routes::Route;
use super::statement::{Arg, args};
use super::together::Batched;
use super::tx::{TRIES, Tx};
use super::types::{Enqueued, NewJob};
use super::{Store, jobs, together, turn};
use crate::clock::Timestamp;
use crate::ids::JobId;
use crate::job::{BranchName, Hold, Job, JobState};

const INSERT: (&str, &str) = (
    "INSERT INTO jobs (route, priority, share, position, id, repo, base, branch, project, execution, idempotency_key, state, \
     held, ready_at, start_by, concurrency_key, concurrency_limit, attempts_max, created_at, \
     finished_at, outcome_class, outcome_message, budgeted) VALUES ($1, $2, $3, ",
    ", $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23) ON CONFLICT DO NOTHING",
);
const INSERT_SPEC: &str = "INSERT INTO job_specs (job, digest, document) VALUES ($1, $2, $3)";
const BY_KEY: &str = "SELECT j.id, s.digest FROM jobs j JOIN job_specs s ON s.job = j.id WHERE j.idempotency_key = $1 AND j.idempotency_key IS NOT NULL";
const BY_ID: &str = "SELECT j.id, s.digest FROM jobs j JOIN job_specs s ON s.job = j.id WHERE j.id = $1";
const BY_BRANCH: &str = "SELECT j.id, s.digest FROM jobs j JOIN job_specs s ON s.job = j.id WHERE j.repo = $1 AND j.branch = $2";

/// A job that is to be enqueued.
#[derive(Debug)]
pub(super) struct Pending {
    new: NewJob,
    route: i64,
    admission: Admission,
    answer: oneshot::Sender<Result<Enqueued, StoreError>>,
}

#[derive(sqlx::FromRow)]
struct Owner {
    id: uuid::Uuid,
    digest: String,
}

impl Batched for Pending {
    type Done = Enqueued;
    const NAMES: &str = "jobs";

    fn write(store: &Store, all: &[Self]) -> impl Future<Output = Result<Vec<Result<Enqueued, StoreError>>, StoreError>> + Send {
        store.enqueue_together(all)
    }
}

impl Store {
    /// Enqueues a job.
    ///
    /// A job with the same idempotency key, or with the same id, is returned in place of the new one when its document had the
    /// same digest. A job that waits for one that has failed already is there, and has ended: what becomes of it does not depend
    /// on who was faster. Branches are unique for each remote among *all* jobs, ended ones too: what a failed job pushed before it
    /// failed is never met by another.
    ///
    /// # Errors
    /// [`StoreError::NoSuchDependency`], [`StoreError::ForeignBase`], [`StoreError::UnpushedBase`], [`StoreError::KeyConflict`], [`StoreError::IdConflict`] and [`StoreError::BranchTaken`].
    /// [`StoreError::QueueFull`], and nothing has changed: how exactly a limit holds is said in `depth`.
    /// After an error of the database it may be there all the same: to enqueue it again, with its id or its key, finds out.
    pub async fn enqueue(&self, new: NewJob) -> Result<Enqueued, StoreError> {
        let answer = self.enqueue_or_find(new).await;
        let tells_of_another = match &answer {
            Ok(Enqueued::Created(_)) => false,
            Ok(Enqueued::Existing(_)) => true,
            Err(error) => error.is_refusal(),
        };
        // Who enqueued that one may wait for the disk still.
        if tells_of_another && self.db().kind() == Kind::Postgres {
            self.reach_the_disk().await?;
        }
        answer
    }

    async fn enqueue_or_find(&self, new: NewJob) -> Result<Enqueued, StoreError> {
        let admission = match self.admit(&new).await? {
            Ok(admission) => admission,
            Err(full) => return self.enqueue_beyond(&new, full).await,
        };
        let route = self.route(&Route::of(&new.spec)).await?;
        if self.db().kind() == Kind::Postgres && waits_for_nobody(&new) {
            let row = row(&new, route, &Needs::nothing(), &new.branch, self.now());
            if let Some(added) = self.enqueue_at_once(&new, row, &document(&new)?).await? {
                admission.keep();
                if !added.on_disk {
                    self.reach_the_disk().await?;
                }
                return Ok(Enqueued::Created(added.job));
            }
        }
        let (answer, answered) = oneshot::channel();
        let pending = Pending { new, route, admission, answer };
        // SQLite has one writer, which would commit for each.
        if self.db().kind() == Kind::Sqlite {
            let store = self.clone();
            self.inner.arrivals.add(pending, together::first, move |pending| {
                let store = store.clone();
                async move { store.enqueue_all(pending).await }
            });
        } else {
            self.enqueue_all(vec![pending]).await;
        }
        answered.await.unwrap_or_else(|_| Err(self.interrupted("the task that enqueues jobs was stopped")))
    }

    async fn enqueue_all(&self, pending: Vec<Pending>) {
        let answers = self.write_together(&pending).await;
        for (Pending { admission, answer, .. }, result) in pending.into_iter().zip(answers) {
            if let Ok(Enqueued::Created(_)) = result {
                admission.keep();
            }
            // Whoever asked may have gone.
            drop(answer.send(result));
        }
    }

    /// Enqueues them in one transaction; again where that met another one in a circle, which undoes one of the two.
    async fn enqueue_together(&self, jobs: &[Pending]) -> Result<Vec<Result<Enqueued, StoreError>>, StoreError> {
        let mut tries = 1;
        loop {
            match self.enqueue_once(jobs).await {
                Err(error) if error.is_deadlock() && tries < TRIES => tries += 1,
                result => return result,
            }
        }
    }

    async fn enqueue_once(&self, jobs: &[Pending]) -> Result<Vec<Result<Enqueued, StoreError>>, StoreError> {
        if let ([Pending { new, route, .. }], Kind::Sqlite) = (jobs, self.db().kind())
            && let Some(job) = self.enqueue_in_one_call(new, *route).await?
        {
            self.changed().await;
            return Ok(vec![Ok(Enqueued::Created(job))]);
        }
        let mut tx = self.db().begin().await?;
        let mut answers = Vec::new();
        for Pending { new, route, .. } in jobs {
            match self.enqueue_one(&mut tx, new, *route, jobs.len() > 1).await {
                Err(error) if !error.is_refusal() => {
                    tx.rollback().await;
                    return Err(error);
                }
                // Who is refused has written nothing.
                answer => answers.push(answer),
            }
        }
        if answers.iter().any(|answer| matches!(answer, Ok(Enqueued::Created(_)))) {
            self.commit_change(tx).await?;
        } else {
            tx.rollback().await;
        }
        Ok(answers)
    }

    /// A job that is there needs no room; any other is refused.
    async fn enqueue_beyond(&self, new: &NewJob, full: Full) -> Result<Enqueued, StoreError> {
        let mut tx = self.db().begin().await?;
        let existing = self.existing(&mut tx, new).await;
        tx.rollback().await;
        match existing? {
            Some(job) => Ok(Enqueued::Existing(job)),
            None => Err(self.refusal(full).await?),
        }
    }

    /// In one call, where there is one for it; of a job that came alone that was tried.
    async fn enqueue_one(&self, tx: &mut Tx, new: &NewJob, route: i64, beside_others: bool) -> Result<Enqueued, StoreError> {
        if self.db().kind() == Kind::Sqlite
            && beside_others
            && let Some(job) = self.add_in_one_call(tx, new, route).await?
        {
            return Ok(Enqueued::Created(job));
        }
        self.enqueue_within(tx, new, route).await
    }

    async fn enqueue_within(&self, tx: &mut Tx, new: &NewJob, route: i64) -> Result<Enqueued, StoreError> {
        if let Some(existing) = self.existing(tx, new).await? {
            return Ok(Enqueued::Existing(existing));
        }
        let needs = Needs::of(tx, new).await?;
        let mut branch = new.branch.clone();
        while !self.insert(tx, new, route, &needs, &branch).await? {
            // Looked for again: whoever was first may have committed only now.
            if let Some(existing) = self.existing(tx, new).await? {
                return Ok(Enqueued::Existing(existing));
            }
            let suffixed = new.branch.with_suffix(new.id);
            if new.spec.deliver.branch.is_some() || branch == suffixed {
                return Err(taken(tx, new, branch).await?);
            }
            branch = suffixed;
        }
        needs.write(tx, new.id).await?;
        Ok(Enqueued::Created(jobs::get(tx, new.id).await?))
    }

    async fn existing(&self, tx: &mut Tx, new: &NewJob) -> Result<Option<Job>, StoreError> {
        if let Some(key) = &new.spec.idempotency_key
            && let Some(owner) = tx.first::<Owner>(BY_KEY, args![key]).await?
        {
            let job = JobId::from_uuid(owner.id);
            if owner.digest != new.digest {
                return Err(StoreError::KeyConflict { key: key.clone(), job });
            }
            return jobs::get(tx, job).await.map(Some);
        }
        match tx.first::<Owner>(BY_ID, args![new.id]).await? {
            None => Ok(None),
            Some(owner) if owner.digest == new.digest => jobs::get(tx, new.id).await.map(Some),
            Some(_) => Err(StoreError::IdConflict(new.id)),
        }
    }

    /// Whether the row went in: it does not where a key, id or branch is there already.
    async fn insert(
        &self,
        tx: &mut Tx,
        new: &NewJob,
        route: i64,
        needs: &Needs,
        branch: &BranchName,
    ) -> Result<bool, StoreError> {
        let now = self.now();
        if tx.run(&insert_job(), row(new, route, needs, branch, now)).await? == 0 {
            return Ok(false);
        }
        tx.run(INSERT_SPEC, args![new.id, &new.digest, &document(new)?]).await?;
        if needs.failed.is_some() {
            add_ends(tx, &[(new.id, None, JobState::Cancelled)], now).await?;
        }
        Ok(true)
    }
}

/// Adds a job unless its id, key or branch is taken. Its first arguments are those of the position.
pub(super) fn insert_job() -> String {
    format!("{}{}{}", INSERT.0, turn::NEW, INSERT.1)
}

/// Whether nothing has to be read of other jobs first.
pub(super) fn waits_for_nobody(new: &NewJob) -> bool {
    new.spec.after.is_empty() && new.spec.base_from.is_none()
}

pub(super) fn document(new: &NewJob) -> Result<String, StoreError> {
    serde_json::to_string(&new.spec).map_err(|error| StoreError::corrupt(format!("job {}", new.id), error))
}

/// The arguments of [`insert_job`].
pub(super) fn row(new: &NewJob, route: i64, needs: &Needs, branch: &BranchName, now: Timestamp) -> Vec<Arg> {
    let spec = &new.spec;
    let ready_at = spec.run_at.map_or(now, |at| at.max(now));
    let ended = needs.failed.map(dependencies::outcome_of);
    let held = match () {
        () if ended.is_some() => None,
        () if needs.hold() => Some(Hold::Dependency),
        () if ready_at > now => Some(Hold::Scheduled),
        () => None,
    };
    let state = if ended.is_some() { JobState::Cancelled } else { JobState::Queued };
    args![
        route,
        spec.priority.rank(),
        spec.project.as_deref().unwrap_or_default(),
        turn::stride(new.weight),
        new.id,
        &new.repo,
        needs.base.as_ref().unwrap_or(&new.base),
        branch.as_str(),
        spec.project.as_deref(),
        spec.execution.id.as_deref(),
        spec.idempotency_key.as_deref(),
        state.as_str(),
        held.map(Hold::as_str),
        ready_at,
        spec.start_by,
        spec.concurrency.as_ref().map(|concurrency| concurrency.key.as_str()),
        spec.concurrency.as_ref().map(|concurrency| i64::from(concurrency.limit)),
        new.attempts_max.max(1),
        now,
        state.is_final().then_some(now),
        ended.as_ref().map(|(class, _)| class.as_str()),
        ended.as_ref().map(|(_, message)| message.as_str()),
        i64::from(spec.budget.is_some() || spec.execution.budget.is_some()),
    ]
}

async fn taken(tx: &mut Tx, new: &NewJob, branch: BranchName) -> Result<StoreError, StoreError> {
    let owner: Option<Owner> = tx.first(BY_BRANCH, args![&new.repo, branch.as_str()]).await?;
    let job = owner.map_or(new.id, |owner| JobId::from_uuid(owner.id));
    Ok(StoreError::BranchTaken { branch, repo: new.repo.clone(), job })
}
