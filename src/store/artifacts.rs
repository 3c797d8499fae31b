//! What is on record of artifacts: what each attempt kept, and where it may have written anything at all.
//!
//! The one rule: the place is on record before the first object is written there, and stays on record when the job goes, until whoever
//! reaches the place has removed the objects. So no object is without a word of it in the database.

use uuid::Uuid;

use super::Store;
use super::error::StoreError;
use super::fence::{BATCH, hold};
use super::rows::number;
use super::statement::{args, tuples};
use super::tx::Lock;
use crate::clock::Timestamp;
use crate::ids::{AttemptNo, JobId};
use crate::job::{Artifact, Claim};

const OPEN: &str = "INSERT INTO artifact_sets (job, attempt, place, created_at) VALUES ($1, $2, $3, $4) ON CONFLICT (job, attempt, place) DO NOTHING";
const CLEAR: &str = "DELETE FROM artifacts WHERE job = $1 AND attempt = $2";
const ADD: &str = "INSERT INTO artifacts (job, attempt, seq, body) VALUES ";
const OF_JOB: &str = "SELECT body FROM artifacts WHERE job = $1 ORDER BY attempt, seq";
/// Those whose job is gone; and those of attempts that ended long ago without a word of what they kept.
const ORPHANS: &str = "SELECT s.job, s.attempt FROM artifact_sets s WHERE s.place = $1 \
    AND NOT EXISTS (SELECT 1 FROM artifacts a WHERE a.job = s.job AND a.attempt = s.attempt) \
    AND NOT EXISTS (SELECT 1 FROM attempts t WHERE t.job = s.job AND t.attempt = s.attempt AND (t.ended_at IS NULL OR t.ended_at > $2)) \
    ORDER BY s.created_at, s.job, s.attempt LIMIT 100";
const FORGET: &str = "DELETE FROM artifact_sets WHERE job = $1 AND attempt = $2 AND place = $3";

#[derive(sqlx::FromRow)]
struct Body {
    body: String,
}

#[derive(sqlx::FromRow)]
struct SetRow {
    job: Uuid,
    attempt: i64,
}

impl Store {
    /// Puts on record that the attempt is about to write objects to the place of this id.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`].
    pub async fn open_artifacts(&self, claim: &Claim, place: &str) -> Result<(), StoreError> {
        let mut tx = self.db().begin().await?;
        hold(&mut tx, claim, Lock::Keep).await?;
        tx.run(OPEN, args![claim.job, claim.attempt, place, self.now()]).await?;
        tx.commit().await
    }

    /// Puts on record what the attempt kept, and what it did not, in place of what it said before.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`].
    pub async fn record_artifacts(&self, claim: &Claim, artifacts: &[Artifact]) -> Result<(), StoreError> {
        let what = || format!("artifacts of job {}", claim.job);
        let mut rows = Vec::new();
        for (seq, artifact) in artifacts.iter().enumerate() {
            rows.push((seq as u64, serde_json::to_string(artifact).map_err(|error| StoreError::corrupt(what(), error))?));
        }
        let mut tx = self.db().begin().await?;
        hold(&mut tx, claim, Lock::Keep).await?;
        tx.run(CLEAR, args![claim.job, claim.attempt]).await?;
        for batch in rows.chunks(BATCH) {
            let sql = format!("{ADD}{}", tuples(1, batch.len(), 4));
            let args = batch.iter().flat_map(|(seq, body)| args![claim.job, claim.attempt, *seq, body]).collect();
            tx.run(&sql, args).await?;
        }
        tx.commit().await
    }

    /// The artifacts of a job, in the order of its attempts: those that are kept and those that are not.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is no such job.
    pub async fn artifacts(&self, id: JobId) -> Result<Vec<Artifact>, StoreError> {
        let rows: Vec<Body> = self.db().all(OF_JOB, args![id]).await?;
        if rows.is_empty() {
            // None, or no such job.
            self.job(id).await?;
        }
        let read = |row: Body| {
            serde_json::from_str(&row.body).map_err(|error| StoreError::corrupt(format!("artifacts of job {id}"), error))
        };
        rows.into_iter().map(read).collect()
    }

    /// Attempts that may have objects in the place which nobody can ask for any more: their job is not on record, or they ended
    /// before `before` and say nothing of artifacts. At most a hundred, oldest first.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn orphaned_artifacts(&self, place: &str, before: Timestamp) -> Result<Vec<(JobId, AttemptNo)>, StoreError> {
        let rows: Vec<SetRow> = self.db().all(ORPHANS, args![place, before]).await?;
        let of = |row: &SetRow| number(row.attempt, || format!("artifacts of job {}", row.job)).map(AttemptNo);
        rows.iter().map(|row| Ok((JobId::from_uuid(row.job), of(row)?))).collect()
    }

    /// Takes from the record that an attempt may have objects in a place, when they are removed.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn forget_artifacts(&self, job: JobId, attempt: AttemptNo, place: &str) -> Result<(), StoreError> {
        let mut tx = self.db().begin().await?;
        tx.run(FORGET, args![job, attempt, place]).await?;
        tx.commit().await
    }
}
