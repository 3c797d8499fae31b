//! Which problem a failure of the store is.
//!
//! The one rule: the caller's mistakes are answered and forgotten; ours, and the database's, are logged here, once.

use super::problem::{Kind, Problem};
use crate::store::StoreError;

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let mut problem = Self::new(kind(&error), sentence(&error));
        if let StoreError::QueueFull { retry_after, .. } = &error {
            problem = problem.retry_after(*retry_after);
        }
        if problem.status >= 500 {
            tracing::warn!(problem.kind = %problem.kind, "cannot answer a request: {error}");
        }
        problem
    }
}

const fn kind(error: &StoreError) -> Kind {
    match error {
        StoreError::NotFound { .. } => Kind::NotFound,
        StoreError::LeaseLost => Kind::LeaseLost,
        StoreError::NoSuchDependency(_) | StoreError::ForeignBase { .. } | StoreError::UnpushedBase(_) => Kind::InvalidDocument,
        StoreError::QueueFull { .. } => Kind::QueueFull,
        StoreError::KeyConflict { .. } => Kind::KeyConflict,
        StoreError::BranchTaken { .. } => Kind::BranchTaken,
        StoreError::NotRetryable { .. }
        | StoreError::DependencyFailed { .. }
        | StoreError::NotRequeuable { .. }
        | StoreError::NotDead { .. }
        | StoreError::NotRunning { .. }
        | StoreError::NotAsking { .. } => Kind::WrongState,
        StoreError::Corrupt { .. } => Kind::CorruptRecord,
        StoreError::Unreachable { .. }
        | StoreError::Refused { .. }
        | StoreError::Directory { .. }
        | StoreError::File { .. }
        | StoreError::BadUrl { .. }
        | StoreError::NewerSchema { .. }
        | StoreError::OlderSchema { .. }
        | StoreError::Migration { .. } => Kind::DatabaseUnavailable,
        StoreError::IdConflict(_)
        | StoreError::LogGap { .. }
        | StoreError::ForeignCompletion(_)
        | StoreError::ForeignClaim { .. }
        | StoreError::Database { .. } => Kind::Internal,
    }
}

fn sentence(error: &StoreError) -> String {
    match error {
        StoreError::NotFound { what, id } => format!("there is no {what} {id}; check the id against the list"),
        StoreError::LeaseLost => {
            "the lease is lost: it ran out, or the token is that of another claim; claim again before doing more".to_owned()
        }
        StoreError::KeyConflict { key, job } => format!(
            "idempotency key {key:?} belongs to job {job}, which was asked for with another document; \
             send the same document, or use another key"
        ),
        StoreError::Unreachable { .. } => format!("{error}; try again in a moment"),
        StoreError::Corrupt { .. } => format!("{error}; check the database, and restore it where it is damaged"),
        _ => error.to_string(),
    }
}
