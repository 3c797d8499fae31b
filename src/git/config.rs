//! The `[git]` section of the configuration.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

/// How git is run. The shipped `workers.toml` has every default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// git's executable: an absolute path, or a name that is looked up in `search_path`.
    pub program: PathBuf,
    /// The `PATH` that git and its helpers (`ssh`, `git-lfs`) get; they get nothing of the daemon's own environment.
    pub search_path: String,
    /// Further variables for git, such as `SSH_AUTH_SOCK`, `GIT_SSH_COMMAND` or `https_proxy`.
    pub environment: BTreeMap<String, String>,
    /// Local remotes that belong to another user and may be read and written all the same (git's `safe.directory`).
    pub safe_directories: Vec<String>,
    /// The name in the commits that are made here.
    pub author_name: String,
    /// The address in the commits that are made here.
    pub author_email: String,
    /// How long one git command on local files may take.
    #[serde(with = "crate::clock::human")]
    pub local_timeout: Duration,
    /// How long one git command that talks to a remote may take, and how long to wait for a mirror that others fetch.
    #[serde(with = "crate::clock::human")]
    pub network_timeout: Duration,
    /// How often a mirror to which something came is maintained: packs joined, a commit graph written; zero for never.
    #[serde(with = "crate::clock::human")]
    pub maintenance: Duration,
    /// How old objects are that no ref of a mirror reaches and nobody borrows when they are removed; zero for never.
    #[serde(with = "crate::clock::human")]
    pub prune: Duration,
    /// For how long no job has used a mirror that is removed; zero for never.
    #[serde(with = "crate::clock::human")]
    pub mirror_ttl: Duration,
    /// The largest file that a commit may change; a larger one is refused, and salvaged all the same.
    pub maximum_file: ByteSize,
}
