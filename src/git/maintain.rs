//! Keeping mirrors quick: few packs, a commit graph, packed refs.
//!
//! The one rule: nothing is removed here (that is [`super::prune`]). Worktrees borrow a mirror's objects by path, also those that no ref of
//! the mirror reaches: a base whose branch was forced elsewhere, a commit that was refused. So only tasks run that keep every object there
//! is:
//!
//! - `loose-objects` packs whatever is loose, reachable or not, and deletes a loose object only once a pack has it;
//! - `incremental-repack` joins packs with all that is in them, and deletes a pack only once others have every object of it;
//! - `commit-graph` adds a file that makes walks quick;
//! - `pack-refs` moves refs into one file, under the lock under which refs are fetched.
//!
//! `gc`, `repack -d` and `prune` decide by reachability, and are not run. git's own lock on a mirror's objects keeps two of these apart; a
//! reader whose pack goes looks for the object again, which git and libgit2 do by themselves.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::Git;
use super::error::{GitError, io_error};
use super::lock::Lock;
use crate::janitor::measure;

/// When it was last written to, the mirror was last maintained.
const MARKER: &str = "sawmill-maintained";
/// The tasks of `git maintenance` that keep every object, in the order in which one finds what another made.
const TASKS: [&str; 3] = ["loose-objects", "incremental-repack", "commit-graph"];
/// How many files of a mirror are counted.
const ENTRIES_MAX: u64 = 500_000;

/// A mirror that was maintained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Maintained {
    /// Its directory.
    pub mirror: PathBuf,
    /// What its objects took on the disk before.
    pub before_bytes: u64,
    /// What they take now.
    pub after_bytes: u64,
}

impl Git {
    /// The mirrors in which something changed since they were last maintained, which is longer ago than `every`.
    #[must_use]
    pub fn unmaintained(&self, every: Duration) -> Vec<PathBuf> {
        let mut due = self.mirrors();
        due.retain(|mirror| {
            let Some(last) = modified(&mirror.join(MARKER)) else { return true };
            let rested = SystemTime::now().duration_since(last).is_ok_and(|age| age >= every);
            rested && changed_since(mirror, last)
        });
        due
    }

    /// Maintains a mirror, with the lowest priority. Any number of worktrees, fetches and commits may go on meanwhile.
    ///
    /// # Errors
    /// git fails, or takes longer than `git.network_timeout`: what was done until then is good.
    pub async fn maintain(&self, mirror: &Path) -> Result<Maintained, GitError> {
        let objects = mirror.join("objects");
        let before_bytes = measure(&objects, ENTRIES_MAX).bytes;
        let action = format!("maintain {}", mirror.display());
        for task in TASKS {
            // Without a pack there is nothing to join, which git takes for an error.
            if has_pack(mirror) || task != "incremental-repack" {
                // Should a task ever come to collect what is unreachable, it is to keep it.
                let command = self.command(&action, mirror).patient().idle().setting("gc.pruneExpire", "never");
                command.args(["maintenance", "run", "--quiet"]).arg(format!("--task={task}")).run().await?;
            }
        }
        {
            let limit = self.host.config.network_timeout;
            let _lock =
                Lock::acquire(&mirror.with_extension("lock"), &format!("pack the refs of {}", mirror.display()), limit).await?;
            self.command(&action, mirror).idle().args(["pack-refs", "--all", "--prune"]).run().await?;
        }
        let marker = mirror.join(MARKER);
        File::create(&marker).and_then(|file| file.set_modified(SystemTime::now())).map_err(io_error("write", &marker))?;
        let after_bytes = measure(&objects, ENTRIES_MAX).bytes;
        Ok(Maintained { mirror: mirror.to_owned(), before_bytes, after_bytes })
    }
}

fn has_pack(mirror: &Path) -> bool {
    let entries = fs::read_dir(mirror.join("objects/pack")).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).any(|path| path.extension().is_some_and(|extension| extension == "pack"))
}

/// Whether objects came to a mirror since then.
fn changed_since(mirror: &Path, then: SystemTime) -> bool {
    let objects = mirror.join("objects");
    let entries = fs::read_dir(&objects).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.chain([objects.clone()]).any(|dir| modified(&dir).is_some_and(|at| at > then))
}

fn modified(path: &Path) -> Option<SystemTime> {
    path.metadata().ok()?.modified().ok()
}
