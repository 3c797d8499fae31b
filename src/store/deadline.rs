//! Moving the deadline of an attempt that runs.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Store;
use super::error::StoreError;
use super::rows::{number, parse};
use super::statement::args;
use super::tx::{Lock, Tx};
use crate::clock::Timestamp;
use crate::ids::{AttemptNo, JobId};
use crate::job::JobState;

const RUNNING: &str = "SELECT j.state, j.attempt FROM jobs j WHERE j.id = $1";
const MOVE: &str = "UPDATE attempts SET deadline_at = $3 WHERE job = $1 AND attempt = $2 AND ended_at IS NULL";

#[derive(sqlx::FromRow)]
struct RunningRow {
    state: String,
    attempt: i64,
}

/// A deadline that was moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MovedDeadline {
    /// The job.
    pub job: JobId,
    /// The attempt; a further one has its own time.
    pub attempt: AttemptNo,
    /// When it must be over now.
    pub deadline_at: Timestamp,
}

impl Store {
    /// Moves the deadline of the attempt that runs, to earlier or later; its worker learns of it as of a request to cancel.
    /// What has met its deadline before the worker learns of another ends all the same.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::NotRunning`] for a job in another state.
    pub async fn move_deadline(&self, job: JobId, at: Timestamp) -> Result<MovedDeadline, StoreError> {
        let mut tx = self.db().begin().await?;
        let result = move_within(&mut tx, job, at).await;
        self.conclude(tx, result).await
    }
}

async fn move_within(tx: &mut Tx, job: JobId, at: Timestamp) -> Result<MovedDeadline, StoreError> {
    let what = || format!("job {job}");
    let row: Option<RunningRow> = tx.first_locked(RUNNING, Lock::Keep, args![job]).await?;
    let row = row.ok_or_else(|| StoreError::not_found("job", job))?;
    let state: JobState = parse(&row.state, what)?;
    let attempt = AttemptNo(number(row.attempt, what)?);
    if state != JobState::Running || tx.run(MOVE, args![job, attempt, at]).await? == 0 {
        return Err(StoreError::NotRunning { job, state });
    }
    Ok(MovedDeadline { job, attempt, deadline_at: at })
}
