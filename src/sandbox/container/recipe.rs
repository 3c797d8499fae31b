//! What a container is made of: two of one recipe and slot are as good as each other.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::config::{Config, Network};
use super::program::{Linkage, Program};
use crate::sandbox::egress::Rules;

/// What decides whether a container that is there will do for a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Recipe {
    /// The name by which its image was asked for, which may come to mean another one.
    #[serde(default)]
    pub(super) asked: String,
    /// The image, by its digest.
    pub(super) image: String,
    pub(super) network: Network,
    /// What it reaches with an allow-list, or with a bridge beside what is public.
    pub(super) egress: Rules,
    pub(super) limits: Limits,
    /// Directories of git objects that the job's view borrows: within at the same place as on the host, to be read only.
    pub(super) objects: Vec<PathBuf>,
    /// Which directories these were when it was made: a mirror may have gone since, and have been cloned anew.
    #[serde(default)]
    pub(super) objects_inodes: Vec<u64>,
    /// Which build of this program is the supervisor.
    pub(super) build: String,
    /// How that is started. Earlier builds needed the image's loader, and were started as if they needed none.
    #[serde(default)]
    pub(super) linkage: Linkage,
}

impl Recipe {
    /// Whether the directories of objects are those that they were: otherwise no job can have it.
    pub(super) fn is_of_what_is_there(&self) -> bool {
        self.objects_inodes == inodes(&self.objects)
    }
}

/// Which directories these are now.
pub(super) fn inodes(dirs: &[PathBuf]) -> Vec<u64> {
    dirs.iter().map(|dir| dir.metadata().map_or(0, |about| about.ino())).collect()
}

/// What one container may take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Limits {
    pub(super) memory_bytes: i64,
    pub(super) nano_cpus: i64,
    pub(super) pids: i64,
    pub(super) tmp_bytes: u64,
    /// Its weight against other containers where processors are short; the engine's usual one where it is 0.
    #[serde(default)]
    pub(super) cpu_shares: i64,
}

/// The least weight that there is.
const LAST: i64 = 2;

impl Limits {
    /// The same, behind all others in line for the processors.
    pub(super) fn behind_all(self) -> Self {
        Self { cpu_shares: LAST, ..self }
    }

    pub(super) fn of(config: &Config) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "a number of processors is far from the limits of an i64")]
        let nano_cpus = (config.cpus * 1e9) as i64;
        Self {
            memory_bytes: i64::try_from(config.memory.as_u64()).unwrap_or(i64::MAX),
            nano_cpus,
            pids: i64::from(config.pids),
            tmp_bytes: config.tmp.as_u64(),
            cpu_shares: 0,
        }
    }
}

/// Everything that the engine is told of one container.
pub(super) struct Blueprint<'a> {
    pub(super) name: &'a str,
    pub(super) recipe: &'a Recipe,
    /// By these it is found again, and known to be ours.
    pub(super) labels: BTreeMap<String, String>,
    /// What the job sees of its slot, on the host.
    pub(super) job_dir: &'a Path,
    /// The supervisor's directory, on the host.
    pub(super) supervisor_dir: &'a Path,
    /// This program, on the host.
    pub(super) program: &'a Program,
    /// User and group of the job: those of the daemon, so that nothing in the slot belongs to anybody else.
    pub(super) user: (u32, u32),
    /// How long its supervisor waits for a daemon that stays away.
    pub(super) orphan_after: Duration,
}
