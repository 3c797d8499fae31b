//! How a command ends: the exit statuses, and the failures that lead to them.
//!
//! The one rule: the exit status follows from the kind of failure alone, as `docs/operating.md` has it.

use std::process::ExitCode;

use crate::api::Problem;

/// The exit statuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done,
    /// The job, or the check, failed.
    Failed,
    /// The command line or the configuration is wrong.
    Usage,
    /// There is no such thing.
    NotFound,
    /// A conflict, or not allowed in this state.
    Conflict,
    /// The server or the database cannot be reached.
    Unreachable,
    /// Somebody pressed Ctrl-C.
    Interrupted,
}

impl Exit {
    /// The number.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Conflict => 4,
            Self::Unreachable => 5,
            Self::Interrupted => 130,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Why a command did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The server refused.
    #[error("{}", .0.detail)]
    Refused(Box<Problem>),
    /// The server cannot be reached.
    #[error("cannot reach the server at {server}; check --server, or start it with: sawmill serve")]
    Unreachable {
        /// Its address.
        server: String,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The connection broke, and could not be made again in good time.
    #[error("lost the connection to {server}; the job goes on without us, run the same command again to go on watching it")]
    Lost {
        /// The server's address.
        server: String,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// What came back is not what the API of this version says.
    #[error("cannot read the answer of {server}: {why}; check that the address is that of a Sawmill server of this version")]
    Unreadable {
        /// The server's address.
        server: String,
        /// What is wrong with it.
        why: String,
    },
    /// An address of a server that is none.
    #[error("{url:?} is not the address of a server ({why}); give one such as http://127.0.0.1:7400")]
    ServerAddress {
        /// What was given.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// Arguments that do not go together, or do not mean anything.
    #[error("{0}")]
    Usage(String),
    /// A file that cannot be read.
    #[error("cannot read {path}")]
    ReadFile {
        /// The file.
        path: String,
        /// The cause.
        source: std::io::Error,
    },
    /// Whoever read our output has gone; there is nobody to tell.
    #[error("the reader of the output has gone")]
    ReaderGone,
    /// The output cannot be written.
    #[error("cannot write the output")]
    Write(#[source] std::io::Error),
    /// What was waited for did not come in time.
    #[error("{0}")]
    TimedOut(String),
    /// A command of this host failed; it says itself how that counts.
    #[error("{source:#}")]
    Host {
        /// The exit status.
        exit: Exit,
        /// The failure with its causes.
        source: anyhow::Error,
    },
}

impl CliError {
    /// The exit status that follows.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Refused(problem) => match problem.status {
                404 => Exit::NotFound,
                409 | 429 => Exit::Conflict,
                500.. => Exit::Unreachable,
                _ => Exit::Usage,
            },
            Self::Unreachable { .. } | Self::Lost { .. } | Self::Unreadable { .. } => Exit::Unreachable,
            Self::ServerAddress { .. } | Self::Usage(_) | Self::ReadFile { .. } => Exit::Usage,
            Self::ReaderGone => Exit::Done,
            Self::Write(_) | Self::TimedOut(_) => Exit::Failed,
            Self::Host { exit, .. } => *exit,
        }
    }

    /// The sentence for people, with its causes.
    #[must_use]
    pub fn sentence(&self) -> String {
        let (mut text, first) = match self {
            Self::Host { source, .. } => (source.to_string(), source.chain().nth(1)),
            other => (other.to_string(), std::error::Error::source(other)),
        };
        let mut causes: Vec<String> = std::iter::successors(first, |error| error.source()).map(ToString::to_string).collect();
        if let Self::Unreachable { .. } | Self::Lost { .. } = self {
            // What lies between is how the client of HTTP is made.
            causes.drain(..causes.len().saturating_sub(1));
        }
        for cause in causes {
            if !text.contains(&cause) {
                text.push_str(&format!("\n  because: {cause}"));
            }
        }
        text
    }
}

impl From<Problem> for CliError {
    fn from(problem: Problem) -> Self {
        Self::Refused(Box::new(problem))
    }
}

impl From<std::io::Error> for CliError {
    /// For writing output only: what is read has errors of its own.
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe { Self::ReaderGone } else { Self::Write(error) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Kind;

    #[test]
    fn the_exit_status_follows_from_the_kind_of_problem() {
        let check = |kind: Kind, expected: Exit| {
            assert_eq!(CliError::from(Problem::new(kind, "x")).exit(), expected, "{kind:?}");
        };
        check(Kind::NotFound, Exit::NotFound);
        check(Kind::WrongState, Exit::Conflict);
        check(Kind::KeyConflict, Exit::Conflict);
        check(Kind::QueueFull, Exit::Conflict);
        check(Kind::InvalidDocument, Exit::Usage);
        check(Kind::UnknownProject, Exit::Usage);
        check(Kind::DatabaseUnavailable, Exit::Unreachable);
    }

    #[test]
    fn a_reader_that_has_gone_is_no_failure() {
        let gone = CliError::from(std::io::Error::from(std::io::ErrorKind::BrokenPipe));
        assert_eq!(gone.exit(), Exit::Done);
    }
}
