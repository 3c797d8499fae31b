//! The refs that Sawmill makes in mirrors for people and later attempts: salvage, and results that were not to be pushed.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use super::Git;
use super::error::{GitError, io_error};
use super::mirror::Mirror;
use crate::clock::Timestamp;
use crate::ids::{JobId, ObjectId};

/// What a commit's trailer says of its job, as `git for-each-ref` is asked for it.
const FORMAT: &str = "--format=%(objectname)%09%(refname)%09%(committerdate:unix)%09\
    %(contents:trailers:key=Sawmill-Job,valueonly,separator=%x2C)";
const SALVAGE: &str = "refs/sawmill/salvage/";
const KEPT: &str = "refs/sawmill/kept/";
/// The file in a mirror with the address that salvage was pushed to.
const ORIGIN: &str = "sawmill-origin";

/// A ref in a mirror that keeps what is nowhere else for certain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keepsake {
    /// The mirror's directory.
    pub mirror: PathBuf,
    /// The ref's whole name.
    pub name: String,
    /// What it names.
    pub commit: ObjectId,
    /// The job whose work it is, where the commit says so.
    pub job: Option<JobId>,
    /// When the commit was made.
    pub made_at: Timestamp,
}

impl Keepsake {
    /// Whether it is a result that was not pushed, rather than salvage.
    #[must_use]
    pub fn is_result(&self) -> bool {
        self.name.starts_with(KEPT)
    }
}

impl Git {
    /// All such refs in all mirrors.
    ///
    /// # Errors
    /// A mirror cannot be read.
    pub async fn keepsakes(&self) -> Result<Vec<Keepsake>, GitError> {
        let mut found = Vec::new();
        for mirror in self.mirrors() {
            let action = format!("list what is kept in {}", mirror.display());
            let answer = self.command(action, &mirror).args(["for-each-ref", FORMAT, SALVAGE, KEPT]).run().await?;
            let text = String::from_utf8_lossy(&answer.stdout);
            found.extend(text.lines().filter_map(|line| {
                let [commit, name, seconds, job] = line.split('\t').collect::<Vec<_>>().try_into().ok()?;
                Some(Keepsake {
                    mirror: mirror.clone(),
                    name: name.to_owned(),
                    commit: commit.parse().ok()?,
                    job: job.split(',').next().and_then(|job| job.trim().parse().ok()),
                    made_at: Timestamp(seconds.parse::<i64>().ok()?.saturating_mul(1000)),
                })
            }));
        }
        Ok(found)
    }

    /// Removes from the remote what was pushed there of a salvage, where that is there as it was pushed. What somebody has put in its place
    /// is theirs.
    ///
    /// # Errors
    /// The remote is away, or does not let it be removed.
    pub async fn forget_on_remote(&self, keepsake: &Keepsake) -> Result<(), GitError> {
        let origin = fs::read_to_string(keepsake.mirror.join(ORIGIN)).ok().and_then(|address| address.parse().ok());
        match origin {
            Some(remote) if !keepsake.is_result() => {
                self.mirror(&remote).take_off_remote(&keepsake.name, &keepsake.commit).await.map(drop)
            }
            // Nothing was pushed from here.
            _ => Ok(()),
        }
    }

    /// Removes such a ref from the mirror, if it still names what it did. Its objects stay in the mirror.
    ///
    /// # Errors
    /// The ref has moved, or the mirror cannot be written to.
    pub async fn forget_keepsake(&self, keepsake: &Keepsake) -> Result<(), GitError> {
        let Keepsake { mirror, name, commit, .. } = keepsake;
        let command = self.command(format!("remove {name} from {}", mirror.display()), mirror);
        command.args(["update-ref", "-d", name, commit.as_str()]).run().await.map(drop)
    }
}

impl Mirror {
    /// Notes where salvage was pushed to, to remove it there when its time is over. Only its owner can read it, since the address may
    /// have a secret.
    pub(super) fn note_origin(&self) -> Result<(), GitError> {
        let (path, address) = (self.dir.join(ORIGIN), self.remote.secret_url());
        if fs::read_to_string(&path).is_ok_and(|known| known == address) {
            return Ok(());
        }
        let new = self.dir.join(format!("{ORIGIN}.{}", uuid::Uuid::now_v7().simple()));
        let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new);
        let written = file.and_then(|mut file| file.write_all(address.as_bytes())).and_then(|()| fs::rename(&new, &path));
        written.map_err(io_error("write", &path))
    }
}
