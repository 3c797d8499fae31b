//! Questions that attempts asked, and their answers.
//!
//! The one rule: the question is the message of the attempt's end, and while the job waits for the answer its own. An answer is put
//! beside the attempt in the transaction that lets the job go on, and goes with the document of every later attempt.

use super::error::StoreError;
use super::rows::parse;
use super::statement::args;
use super::tx::{Lock, Tx};
use super::{Store, jobs, turn};
use crate::clock::Timestamp;
use crate::ids::JobId;
use crate::job::{Answer, Hold, Job, JobState};

const ASKING: &str = "SELECT j.state, j.held, j.attempt, j.outcome_message FROM jobs j WHERE j.id = $1";
const ADD: &str =
    "INSERT INTO answers (job, attempt, question, answer, answered_by, answered_at) VALUES ($1, $2, $3, $4, $5, $6)";
const LET_GO: &str =
    concat!("UPDATE jobs SET held = NULL, ready_at = $2, position = ", turn::back!(), " WHERE id = $1 AND held = 'answer'");
const OF_JOB: &str = "SELECT question, answer FROM answers WHERE job = $1 ORDER BY attempt";

#[derive(sqlx::FromRow)]
struct Asking {
    state: String,
    held: Option<String>,
    attempt: i64,
    outcome_message: Option<String>,
}

#[derive(sqlx::FromRow)]
struct AnswerRow {
    question: String,
    answer: String,
}

impl Store {
    /// Answers the question that a job waits for, and queues it again. Returns the job as it is then.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::NotAsking`] for a job that does not wait for an answer, or has it already.
    pub async fn answer_job(&self, id: JobId, answer: &str, by: &str) -> Result<Job, StoreError> {
        let mut tx = self.db().begin().await?;
        let result = answer_within(&mut tx, id, (answer, by), self.now()).await;
        self.conclude(tx, result).await
    }

    /// The questions that were asked about a job, with their answers, in order.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn answers(&self, id: JobId) -> Result<Vec<Answer>, StoreError> {
        let rows: Vec<AnswerRow> = self.db().all(OF_JOB, args![id]).await?;
        Ok(rows.into_iter().map(|AnswerRow { question, answer }| Answer { question, answer }).collect())
    }
}

async fn answer_within(tx: &mut Tx, id: JobId, (answer, by): (&str, &str), now: Timestamp) -> Result<Job, StoreError> {
    let row: Option<Asking> = tx.first_locked(ASKING, Lock::Change, args![id]).await?;
    let row = row.ok_or_else(|| StoreError::not_found("job", id))?;
    let state: JobState = parse(&row.state, || format!("job {id}"))?;
    if row.held.as_deref() != Some(Hold::Answer.as_str()) {
        return Err(StoreError::NotAsking { job: id, state });
    }
    let question = row.outcome_message.unwrap_or_default();
    tx.run(ADD, args![id, row.attempt, &question, answer, by, now]).await?;
    tx.run(LET_GO, args![id, now]).await?;
    jobs::get(tx, id).await
}
