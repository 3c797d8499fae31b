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
    /// The supervisor does not start in the image.
    #[error(
        "the supervisor does not start in image {image}: {why}; use an image whose C library is at least as new as the one that \
         this program was built with, or a program that was built statically"
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
