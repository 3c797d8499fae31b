//! What can go wrong between the daemon and a supervisor.

use std::io;
use std::path::PathBuf;

use super::protocol::Refusal;

/// Why something asked of a supervisor did not happen. How a command ended is never one of these.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// No supervisor answers at this directory, or it went away before it answered: attach or launch again. A report
    /// that it had made is still on disk.
    #[error("cannot reach the supervisor at {}: it is gone", dir.display())]
    Gone {
        /// The supervisor's directory.
        dir: PathBuf,
    },
    /// The supervisor lives and does not answer.
    #[error("cannot {asked}: the supervisor at {} does not answer", dir.display())]
    Silent {
        /// What was asked.
        asked: &'static str,
        /// The supervisor's directory.
        dir: PathBuf,
    },
    /// The supervisor says no.
    #[error("cannot {asked} with the supervisor at {}: {refusal}", dir.display())]
    Refused {
        /// What was asked.
        asked: &'static str,
        /// The supervisor's directory.
        dir: PathBuf,
        /// Its reason.
        refusal: Refusal,
    },
    /// What listens there is not a supervisor of this user and version.
    #[error("cannot trust the socket at {}: {why}", dir.display())]
    Foreign {
        /// The supervisor's directory.
        dir: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The kernel has no number for it here, so nothing can be done with its process.
    #[error(
        "the process of the supervisor at {} is not seen by this worker, which has a namespace of processes of its own (in a container it \
         needs pid: host)",
        dir.display()
    )]
    Unseen {
        /// The supervisor's directory.
        dir: PathBuf,
    },
    /// A spool or input file of the command cannot be opened.
    #[error("cannot open {} for the command", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The directory cannot be prepared or read.
    #[error("cannot use the supervisor's directory {}", path.display())]
    Directory {
        /// The directory or a file in it.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A supervisor could not be started.
    #[error("cannot launch a supervisor at {}: {why}", dir.display())]
    Launch {
        /// The supervisor's directory.
        dir: PathBuf,
        /// What the attempt said.
        why: String,
    },
}
