//! The `[container]` section of the configuration.

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use crate::clock::human;
use crate::job::spec::ContainerMode;
use crate::sandbox::egress::Rules;

/// How jobs are put into containers, and what one may take.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Whether jobs that do not say run in containers.
    pub mode: ContainerMode,
    /// The image of jobs that name none: a tag, or a digest.
    pub image: String,
    /// For how long a later image has replaced one that was built here when `gc` removes that, or a worker whose disk lacks room.
    #[serde(with = "human")]
    pub image_ttl: Duration,
    /// The socket of Docker or Podman.
    pub socket: PathBuf,
    /// How many containers each slot keeps ready, one for each kind of job that it has had last.
    pub warm: u32,
    /// How many jobs a container is used for. Beyond one, what a job leaves in `/tmp` is there for the next.
    pub reuse: u32,
    /// The most memory that all processes of a job have together, the files in its `/tmp` included. There is no swap beside it.
    pub memory: ByteSize,
    /// How many processors' worth of time a job may use.
    pub cpus: f64,
    /// How many processes and threads a job may have at once.
    pub pids: u32,
    /// The most that a job may have in its `/tmp`.
    pub tmp: ByteSize,
    /// The most that its other files may take on the disk; no limit where it is 0.
    pub disk: ByteSize,
    /// How many files and directories it may have there; no limit where it is 0.
    pub files: u64,
    /// What of the network a job reaches.
    pub network: Network,
    /// With an allow-list, all that it reaches; with a bridge, the addresses that it reaches although they are not public.
    pub egress: Rules,
}

/// What the files of one job may take of the disk. No limit where a number is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskShare {
    /// How much room.
    pub bytes: ByteSize,
    /// How many files and directories.
    pub files: u64,
}

/// What of the network a job in a container reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Network {
    /// Nothing but itself.
    None,
    /// What is listed, through a proxy of the daemon's: the container has no network either.
    AllowList,
    /// Whatever is public, over a bridge of the engine's that is closed to everything else.
    Bridge,
}

impl Network {
    /// The engine's word for what its container has.
    #[must_use]
    pub(super) const fn of_engine(self) -> &'static str {
        match self {
            Self::None | Self::AllowList => "none",
            Self::Bridge => "bridge",
        }
    }
}
