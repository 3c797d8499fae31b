//! How many there are of what, for whoever watches from outside.

use super::Store;
use super::error::StoreError;
use super::rows::{number, word};
use super::statement::args;
use super::which::has_ended;
use crate::job::{CompletionState, JobState};

/// Both count along indexes that have a state's rows together; what it costs grows with the rows kept, not with their width.
const JOBS: &str = concat!(
    "SELECT 'queued' AS state, count(*) AS rows_in_state FROM jobs j /*! INDEXED BY jobs_queued */ WHERE j.state = 'queued' \
    UNION ALL SELECT 'running', count(*) FROM jobs j /*! INDEXED BY jobs_worker */ WHERE j.worker IS NOT NULL \
    UNION ALL SELECT j.state, count(*) FROM jobs j /*! INDEXED BY jobs_ended */ WHERE ",
    has_ended!(),
    " GROUP BY j.state"
);
const COMPLETIONS: &str = "SELECT j.state, count(*) AS rows_in_state FROM completions j GROUP BY j.state";

/// How many jobs and completions are in each state; every state is there, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counts {
    /// Jobs by state.
    pub jobs: Vec<(JobState, u64)>,
    /// Completions by state.
    pub completions: Vec<(CompletionState, u64)>,
}

#[derive(sqlx::FromRow)]
struct CountRow {
    state: String,
    rows_in_state: i64,
}

impl Store {
    /// Counts jobs and completions by state. The two are counted one after the other, not as of one moment.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn counts(&self) -> Result<Counts, StoreError> {
        let mut counts = Counts {
            jobs: JobState::ALL.map(|state| (state, 0)).to_vec(),
            completions: CompletionState::ALL.map(|state| (state, 0)).to_vec(),
        };
        for CountRow { state, rows_in_state } in self.db().all::<CountRow>(JOBS, args![]).await? {
            let (state, count): (JobState, u64) = read(&state, rows_in_state, "jobs")?;
            counts.jobs.iter_mut().filter(|(known, _)| *known == state).for_each(|(_, total)| *total = count);
        }
        for CountRow { state, rows_in_state } in self.db().all::<CountRow>(COMPLETIONS, args![]).await? {
            let (state, count): (CompletionState, u64) = read(&state, rows_in_state, "completions")?;
            counts.completions.iter_mut().filter(|(known, _)| *known == state).for_each(|(_, total)| *total = count);
        }
        Ok(counts)
    }
}

fn read<S: serde::de::DeserializeOwned>(state: &str, count: i64, what: &str) -> Result<(S, u64), StoreError> {
    Ok((word(state, || what.to_owned())?, number(count, || what.to_owned())?))
}
