//! What can go wrong with an attempt's log, as far as its owner acts on it.

use std::path::PathBuf;
use std::time::Duration;

use crate::ids::{AttemptNo, JobId};
use crate::job::LogVerdict;
use crate::store::StoreError;

/// Why a log is not, or not wholly, in the store.
#[derive(Debug, thiserror::Error)]
pub enum LogsError {
    /// The spool's files cannot be made or opened.
    #[error("cannot open log spool {path:?}")]
    Spool {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The claim is lost: nothing more was shipped, and nothing more may be written for the attempt.
    #[error("cannot ship the log of attempt {attempt} of job {job}: the lease is lost")]
    LeaseLost {
        /// The job.
        job: JobId,
        /// The attempt.
        attempt: AttemptNo,
    },
    /// The owner's token was cancelled.
    #[error("cannot ship the log of attempt {attempt} of job {job}: it was told to stop")]
    Stopped {
        /// The job.
        job: JobId,
        /// The attempt.
        attempt: AttemptNo,
    },
    /// The log was not in the store in time. It is in the spool, and a new shipper would go on with it.
    #[error(
        "cannot ship the rest of the log of attempt {attempt} of job {job} within {within:?}: {shipped} bytes are in the store"
    )]
    DrainDeadline {
        /// The job.
        job: JobId,
        /// The attempt.
        attempt: AttemptNo,
        /// The time that it was given.
        within: Duration,
        /// The length of the log in the store.
        shipped: u64,
        /// What is to be said of the log when the attempt ends without the rest.
        verdict: LogVerdict,
    },
    /// The store refuses the log for good.
    #[error("cannot ship the log of attempt {attempt} of job {job}")]
    Store {
        /// The job.
        job: JobId,
        /// The attempt.
        attempt: AttemptNo,
        /// Why.
        #[source]
        source: StoreError,
    },
}
