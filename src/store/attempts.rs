//! Reading what is on record of a job's attempts.

use super::Store;
use super::error::StoreError;
use super::rows::{ATTEMPT_COLUMNS, AttemptRow, StageRow};
use super::statement::args;
use crate::ids::JobId;
use crate::job::AttemptRecord;

const STAGES: &str = "SELECT attempt, seq, stage, started_at, ended_at, outcome, detail FROM attempt_stages WHERE job = $1 \
    ORDER BY attempt, seq";

impl Store {
    /// The attempts at a job, in order, with their stages.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is no such job.
    pub async fn attempts(&self, id: JobId) -> Result<Vec<AttemptRecord>, StoreError> {
        let sql = format!("SELECT {ATTEMPT_COLUMNS} FROM attempts WHERE job = $1 ORDER BY attempt");
        let attempts: Vec<AttemptRow> = self.db().all(&sql, args![id]).await?;
        if attempts.is_empty() {
            // None yet, or no such job.
            self.job(id).await?;
            return Ok(Vec::new());
        }
        let stages: Vec<StageRow> = self.db().all(STAGES, args![id]).await?;
        attempts.into_iter().map(|row| row.record(id, &stages)).collect()
    }
}
