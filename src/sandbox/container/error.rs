//! What can go wrong between the daemon and the engine that makes containers.

use std::path::PathBuf;
use std::time::Duration;

use crate::sandbox::SandboxError;

/// Why there is no container, or why one is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    /// No engine answers at the socket.
    #[error("cannot reach Docker or Podman at {}: {why}; start it, or set container.socket", socket.display())]
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// What the system says.
        why: String,
    },
    /// The engine is there, and does not get done what it is asked.
    #[error("the engine at {} did not {what} within {within:?}; see what keeps it busy (mostly a slow or full disk)", socket.display())]
    Slow {
        /// The socket.
        socket: PathBuf,
        /// What was asked of it.
        what: String,
        /// How long it had.
        within: Duration,
    },
    /// The engine has no such image.
    #[error("there is no image {image}; build it with sawmill images build, or set container.image")]
    NoImage {
        /// Its name.
        image: String,
    },
    /// The engine does not do what it is asked.
    #[error("cannot {what}: {why}")]
    Engine {
        /// What was asked of it.
        what: String,
        /// Its reason.
        why: String,
    },
    /// This program, or what it is linked with, cannot be put where containers find it.
    #[error("cannot make this program ready for containers in {}: {why}; see that there is room, and that it is installed whole", dir.display())]
    Program {
        /// The directory for it.
        dir: PathBuf,
        /// What the system says.
        why: String,
    },
    /// The supervisor does not start in a container. It needs nothing of the image for that.
    #[error(
        "the supervisor does not start in a container of image {image}: {why}; see what the engine's log and the kernel's say of it \
         (a security module, say, or an engine that maps users)"
    )]
    NeverReady {
        /// The image.
        image: String,
        /// What the container said.
        why: String,
    },
    /// A container with a bridge cannot be kept away from what is not public. It is not used.
    #[error(
        "cannot close private addresses to a container with a bridge: {why}; run the worker as root beside the engine, with iptables \
         installed, or set container.network to \"allow-list\", which needs neither"
    )]
    Open {
        /// What is missing.
        why: String,
    },
    /// A directory of the container's cannot be made, or its supervisor is not one of ours.
    #[error(transparent)]
    Supervisor(#[from] SandboxError),
}
