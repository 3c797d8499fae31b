//! What can go wrong with the database, as far as a caller acts on it.
//!
//! The one rule: a message never shows a password, so the database is named by its label (see `address`), never by its URL.

use std::fmt;
use std::path::PathBuf;

use crate::ids::{CompletionId, JobId, WorkerId};
use crate::job::{BranchName, CompletionState, JobState};

/// Why the store did not do what it was asked. Unless a variant says otherwise, nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no such thing.
    #[error("cannot find {what} {id}")]
    NotFound {
        /// What was looked for.
        what: &'static str,
        /// Its id.
        id: String,
    },
    /// The claim or lease is no longer the caller's. It must write, commit and push nothing more.
    #[error("cannot write under a lease that is lost")]
    LeaseLost,
    /// The idempotency key belongs to a job with another document.
    #[error("cannot enqueue under idempotency key {key:?}: job {job} has it, with another document")]
    KeyConflict {
        /// The key.
        key: String,
        /// The job that has it.
        job: JobId,
    },
    /// The id of the new job belongs to a job with another document.
    #[error("cannot enqueue job {0}: there is one of that id, with another document")]
    IdConflict(JobId),
    /// The job is to wait for one that is not there.
    #[error("cannot enqueue a job that waits for job {0}: there is no such job")]
    NoSuchDependency(JobId),
    /// The job is to start from what one on another remote delivers.
    #[error("cannot enqueue a job that starts from the commit of job {job}: that one is on {repo}")]
    ForeignBase {
        /// The job.
        job: JobId,
        /// Its remote.
        repo: String,
    },
    /// The job is to start from what one does not push.
    #[error(
        "cannot enqueue a job that starts from the commit of job {0}: that one does not push, and other workers could not get it"
    )]
    UnpushedBase(JobId),
    /// As many jobs wait as are allowed.
    #[error("cannot enqueue another job: {waiting} of {what} wait already, and {pace}; try again in {} s", retry_after.as_secs())]
    QueueFull {
        /// Whose jobs: the queue's, or a project's.
        what: String,
        /// How many may wait.
        waiting: u32,
        /// How fast they start, in words.
        pace: String,
        /// When there may be room, in whole seconds.
        retry_after: std::time::Duration,
    },
    /// The branch that the job names belongs to another job.
    #[error("cannot deliver on branch {branch} of {repo}: it belongs to job {job}; name another, or none")]
    BranchTaken {
        /// The branch.
        branch: BranchName,
        /// The remote.
        repo: String,
        /// The job that has it.
        job: JobId,
    },
    /// Only failed and cancelled jobs can be retried.
    #[error("cannot retry job {job}: it is {state}, and only a failed or cancelled job can be retried")]
    NotRetryable {
        /// The job.
        job: JobId,
        /// Its state.
        state: JobState,
    },
    /// Only a job that waits for an answer can be given one.
    #[error("cannot answer job {job}: it is {state}, and does not wait for an answer")]
    NotAsking {
        /// The job.
        job: JobId,
        /// Its state.
        state: JobState,
    },
    /// Only a running job has a deadline that can be moved.
    #[error("cannot move the deadline of job {job}: it is {state}, and only a running job has one")]
    NotRunning {
        /// The job.
        job: JobId,
        /// Its state.
        state: JobState,
    },
    /// The job waits for the success of one that has ended otherwise.
    #[error("cannot retry job {job}: there is no success on record of job {needs}, which it waits for; retry that one first")]
    DependencyFailed {
        /// The job.
        job: JobId,
        /// The one that it waits for.
        needs: JobId,
    },
    /// The job cannot be put back into the queue.
    #[error("cannot requeue job {job}: it is {state}, and {why}")]
    NotRequeuable {
        /// The job.
        job: JobId,
        /// Its state.
        state: JobState,
        /// Why not.
        why: &'static str,
    },
    /// Only dead completions can be brought back.
    #[error("cannot requeue completion {id}: it is {state}, and only a dead one can be brought back")]
    NotDead {
        /// The completion.
        id: CompletionId,
        /// Its state.
        state: CompletionState,
    },
    /// The chunks do not go on where the log ends.
    #[error("cannot append chunk {seq} at byte {offset}: the log goes on with chunk {next_seq} at byte {end}")]
    LogGap {
        /// The chunk's number.
        seq: u64,
        /// Where it says that it begins.
        offset: u64,
        /// The number that the log expects.
        next_seq: u64,
        /// Where the log ends.
        end: u64,
    },
    /// The completion given to `finish` is that of another attempt.
    #[error("cannot finish job {0} with the completion of another attempt")]
    ForeignCompletion(JobId),
    /// A claim was asked to renew that another worker holds.
    #[error("cannot renew a claim of worker {holder} for worker {asked}")]
    ForeignClaim {
        /// Who asked.
        asked: WorkerId,
        /// Whose claim it is.
        holder: WorkerId,
    },
    /// The URL names no database that we know.
    #[error("cannot use database url {url:?}: {why}")]
    BadUrl {
        /// The URL without its password.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// A SQLite file cannot be made, or not be opened for writing, as the system says.
    #[error("cannot open the database file {} for writing; check its owner and rights, or [queue] url", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The directory of a SQLite file cannot be made.
    #[error("cannot create directory {} for the database; check [queue] url", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The database cannot be reached at the moment, is busy beyond patience, or lost the connection. Trying again can help.
    /// Whether a transaction that was being committed took place is then not known.
    #[error("cannot reach database {database}: {source}; check that it runs, and [queue] url")]
    Unreachable {
        /// Its label.
        database: String,
        /// What the driver says.
        source: Driver,
    },
    /// The database answers, and refuses us: a wrong password, a database that does not exist, a missing privilege.
    #[error("cannot open database {database}: {source}; check [queue] url")]
    Refused {
        /// Its label.
        database: String,
        /// What the driver says.
        source: Driver,
    },
    /// A newer build has migrated the database.
    #[error(
        "cannot use database {database}: its schema is version {found}, and this build of sawmill knows versions up to {known}; \
         run a newer sawmill, or point [queue] url at another database"
    )]
    NewerSchema {
        /// Its label.
        database: String,
        /// The newest migration that it has.
        found: i64,
        /// The newest migration that this build has.
        known: i64,
    },
    /// The database has not been migrated to this build's schema.
    #[error("cannot use database {database}: its schema is version {found}, and this build needs {known}; run `sawmill migrate`")]
    OlderSchema {
        /// Its label.
        database: String,
        /// The newest migration that it has; 0 for none.
        found: i64,
        /// The newest migration that this build has.
        known: i64,
    },
    /// A migration failed; it was rolled back.
    #[error("cannot apply migration {name} to database {database}: {source}")]
    Migration {
        /// The migration.
        name: &'static str,
        /// The database's label.
        database: String,
        /// What the driver says.
        source: Driver,
    },
    /// What is stored cannot be what we stored.
    #[error("cannot read {what}: {why}")]
    Corrupt {
        /// What was read.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// The database reports an error that is neither the caller's nor the connection's.
    #[error("cannot run a statement on database {database}: {source}")]
    Database {
        /// Its label.
        database: String,
        /// What the driver says.
        source: Driver,
    },
}

/// What the driver reports. It reads as the database's own words, which are all of it: there is no further cause.
#[derive(Debug)]
pub struct Driver(pub(super) sqlx::Error);

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            sqlx::Error::Database(error) => f.write_str(error.message()),
            sqlx::Error::Io(error) => error.fmt(f),
            other => other.fmt(f),
        }
    }
}

impl std::error::Error for Driver {}

/// What the code of a database's error means for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    Away,
    Refused,
    Damaged,
    Other,
}

impl StoreError {
    /// Whether the same call may succeed later without anybody changing anything.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }

    /// Whether a job was refused for what it says and what is there, and nothing is wrong with the database.
    pub(super) const fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::KeyConflict { .. }
                | Self::IdConflict(_)
                | Self::NoSuchDependency(_)
                | Self::ForeignBase { .. }
                | Self::UnpushedBase(_)
                | Self::BranchTaken { .. }
        )
    }

    /// Whether two transactions waited for each other and this one was undone for it: nothing of it has happened.
    pub(super) fn is_deadlock(&self) -> bool {
        let Self::Unreachable { source: Driver(sqlx::Error::Database(error)), .. } = self else { return false };
        error.code().as_deref() == Some(DEADLOCK)
    }

    /// Sorts what the driver reports about the database with `label`.
    pub(super) fn from_driver(label: &str, source: sqlx::Error) -> Self {
        let database = label.to_owned();
        let meaning = match &source {
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed
            | sqlx::Error::BeginFailed => Meaning::Away,
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) | sqlx::Error::ColumnNotFound(_) => Meaning::Damaged,
            sqlx::Error::Database(error) => meaning_of(error.code().as_deref().unwrap_or_default()),
            _ => Meaning::Other,
        };
        let source = Driver(source);
        match meaning {
            Meaning::Away => Self::Unreachable { database, source },
            Meaning::Refused => Self::Refused { database, source },
            Meaning::Damaged => Self::Corrupt { what: format!("database {database}"), why: source.to_string() },
            Meaning::Other => Self::Database { database, source },
        }
    }

    pub(super) fn not_found(what: &'static str, id: impl ToString) -> Self {
        Self::NotFound { what, id: id.to_string() }
    }

    pub(super) fn corrupt(what: impl Into<String>, why: impl ToString) -> Self {
        Self::Corrupt { what: format!("{} from the database", what.into()), why: why.to_string() }
    }
}

/// The SQLSTATE of a deadlock.
const DEADLOCK: &str = "40P01";

/// SQLSTATE codes have five characters; SQLite's are numbers, whose low byte is the primary code
/// (<https://www.postgresql.org/docs/15/errcodes-appendix.html>, <https://www.sqlite.org/rescode.html>).
fn meaning_of(code: &str) -> Meaning {
    if code.len() == 5 {
        return match code {
            // Shut down, crashed, starting up; a deadlock or a failed serialization; a wait or a statement that took too long.
            "57P01" | "57P02" | "57P03" | "40001" | DEADLOCK | "55P03" | "57014" | "25P03" => Meaning::Away,
            "3D000" | "42501" => Meaning::Refused,
            "XX001" | "XX002" => Meaning::Damaged,
            // Connection exceptions; insufficient resources (too many connections, the disk is full).
            _ if code.starts_with("08") || code.starts_with("53") => Meaning::Away,
            _ if code.starts_with("28") => Meaning::Refused,
            _ => Meaning::Other,
        };
    }
    match code.parse::<u32>().map(|code| code & 0xff) {
        // BUSY, LOCKED, NOMEM, INTERRUPT, IOERR, FULL, PROTOCOL.
        Ok(5 | 6 | 7 | 9 | 10 | 13 | 15) => Meaning::Away,
        // PERM, READONLY, CANTOPEN, AUTH.
        Ok(3 | 8 | 14 | 23) => Meaning::Refused,
        // CORRUPT, NOTADB.
        Ok(11 | 26) => Meaning::Damaged,
        _ => Meaning::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_passes_by_itself_is_transient() {
        let check = |code: &str, expected: Meaning| assert_eq!(meaning_of(code), expected, "{code}");
        check("57P01", Meaning::Away);
        check("53300", Meaning::Away);
        check("08006", Meaning::Away);
        check("40P01", Meaning::Away);
        check("28P01", Meaning::Refused);
        check("3D000", Meaning::Refused);
        check("23505", Meaning::Other);
        check("5", Meaning::Away);
        check("517", Meaning::Away);
        check("13", Meaning::Away);
        check("14", Meaning::Refused);
        check("26", Meaning::Damaged);
        check("2067", Meaning::Other);
        check("", Meaning::Other);
    }
}
