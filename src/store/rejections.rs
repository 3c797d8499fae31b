//! What was wrong with the results that an attempt came to: for the attempt after it, and for people.
//!
//! The one rule: it is on record before the attempt goes on, or ends, by it; whoever comes next can rely on it.

use super::Store;
use super::error::StoreError;
use super::fence::hold;
use super::rows::json;
use super::statement::args;
use super::tx::Lock;
use crate::ids::{AttemptNo, JobId};
use crate::job::{Claim, Rejection};

const SET: &str = "UPDATE attempts SET rejections = $3 WHERE job = $1 AND attempt = $2";
const OF_ATTEMPT: &str = "SELECT rejections FROM attempts WHERE job = $1 AND attempt = $2";

#[derive(sqlx::FromRow)]
struct Row {
    rejections: Option<String>,
}

impl Store {
    /// Records all rejections of the attempt so far.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`].
    pub async fn record_rejections(&self, claim: &Claim, rejections: &[Rejection]) -> Result<(), StoreError> {
        let text = serde_json::to_string(rejections).expect("it is made of texts and numbers");
        let mut tx = self.db().begin().await?;
        hold(&mut tx, claim, Lock::Keep).await?;
        tx.run(SET, args![claim.job, claim.attempt, text.as_str()]).await?;
        tx.commit().await
    }

    /// The rejections of an attempt, in order; none where it is not on record.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn rejections(&self, job: JobId, attempt: AttemptNo) -> Result<Vec<Rejection>, StoreError> {
        let row: Option<Row> = self.db().first(OF_ATTEMPT, args![job, attempt]).await?;
        let text = row.and_then(|row| row.rejections);
        let what = || format!("attempt {attempt} of job {job}");
        Ok(text.map(|text| json(&text, what)).transpose()?.unwrap_or_default())
    }
}
