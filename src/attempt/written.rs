//! Finding the files that a gate wrote, in the place in which it ran.
//!
//! The one rule: what was there before the gate began is not the gate's, whatever its name. That is told by the time of a file's last
//! change of any kind, which nobody can set, and by a moment that the same disk gave just before: so no two clocks are compared. What is
//! looked through is bounded, and where the bound was met is said.

use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::artifacts::{WalkEnd, walk};
use crate::job::Globs;

/// How many files are taken, and among how many files and directories they are looked for.
const TAKEN_MAX: usize = 2_000;
const ENTRIES_MAX: usize = 200_000;

/// How long the clock of a disk may take to go on. Most do within some milliseconds, and the coarsest within two seconds.
const CLOCK_WITHIN: Duration = Duration::from_secs(10);

/// A moment by the clock of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Moment {
    seconds: i64,
    nanoseconds: i64,
}

impl Moment {
    fn of_change(about: &fs::Metadata) -> Self {
        Self { seconds: about.ctime(), nanoseconds: about.ctime_nsec() }
    }

    /// The moment by the clock of the disk on which `dir` is. Blocks. When this returns it is past: what changes from then on has a later
    /// one.
    ///
    /// # Errors
    /// Nothing can be written there, or the clock does not go on.
    pub(super) fn take(dir: &Path) -> io::Result<Self> {
        let (path, begun) = (dir.join("moment"), Instant::now());
        let touched = || -> io::Result<Self> {
            fs::write(&path, [0])?;
            Ok(Self::of_change(&path.symlink_metadata()?))
        };
        let moment = touched()?;
        while touched()? <= moment {
            if begun.elapsed() > CLOCK_WITHIN {
                return Err(io::Error::other("the clock of the disk does not go on"));
            }
            // Nothing tells when a disk's clock has gone on; this thread is one for waiting.
            std::thread::sleep(Duration::from_millis(1));
        }
        fs::remove_file(&path)?;
        Ok(moment)
    }
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// Paths below the directory that was looked through, in order.
    pub(super) paths: Vec<PathBuf>,
    /// Why there may be more, where there may.
    pub(super) cut: Option<String>,
    /// How many more match, and were there before.
    pub(super) older: usize,
}

/// What is to be said of files that a gate was to write, and that were there before; nothing where there are none.
pub(super) fn say_older(older: usize) -> Option<String> {
    let what = if older == 1 { "1 report was".to_owned() } else { format!("{older} reports were") };
    (older > 0).then(|| format!("{what} there before it began (from the commit or a cache); have it run its tests anew"))
}

/// The plain files below a directory that match one of these patterns and were changed after a moment; where there is none, at any time.
pub(super) fn find(tree: &Path, wanted: &[String], since: Option<Moment>) -> Written {
    if wanted.is_empty() { Written::default() } else { find_among(tree, wanted, since, ENTRIES_MAX) }
}

fn find_among(tree: &Path, wanted: &[String], since: Option<Moment>, most: usize) -> Written {
    let (globs, mut found) = (Globs::new(wanted), Written::default());
    let end = walk(tree, most, |path, entry| {
        // What is gone again was not found.
        let matches = globs.matching(&path.to_string_lossy()).is_some();
        let Some(about) = matches.then(|| entry.metadata().ok()).flatten().filter(fs::Metadata::is_file) else {
            return ControlFlow::Continue(());
        };
        if since.is_some_and(|since| Moment::of_change(&about) <= since) {
            found.older += 1;
        } else if found.paths.len() == TAKEN_MAX {
            return ControlFlow::Break(());
        } else {
            found.paths.push(path.to_owned());
        }
        ControlFlow::Continue(())
    });
    found.cut = match end {
        WalkEnd::Whole => None,
        WalkEnd::Cut => Some(format!("{most} files and directories were looked through, and there are more")),
        WalkEnd::Stopped => Some(format!("{TAKEN_MAX} reports were taken, and there are more")),
    };
    found.paths.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_there_before_is_not_taken_unless_it_was_changed_since() {
        let dir = tempfile::tempdir().expect("a directory");
        let tree = dir.path().join("tree");
        fs::create_dir_all(tree.join("out")).expect("made");
        let write = |names: &[&str]| names.iter().for_each(|name| fs::write(tree.join(name), "x").expect("written"));
        write(&["out/old.xml", "out/again.xml"]);
        let since = Moment::take(dir.path()).expect("a moment");
        let found = |most| find_among(&tree, &["out/*.xml".to_owned()], Some(since), most);
        assert_eq!((found(9).paths, found(9).cut, found(9).older), (Vec::new(), None, 2));
        write(&["out/again.xml", "out/new.xml", "out/new.txt"]);
        assert_eq!(found(9).paths, [Path::new("out/again.xml"), Path::new("out/new.xml")]);
        assert_eq!(found(9).older, 1);
        assert_eq!(say_older(0), None);
        assert!(say_older(1).is_some_and(|said| said.starts_with("1 report was there before it began")));
        assert_eq!(found(5).cut, None, "that is all there is");
        assert_eq!(found(4).cut.as_deref(), Some("4 files and directories were looked through, and there are more"));
        assert_eq!(find(&tree, &["**/*.xml".to_owned()], None).paths.len(), 3);
    }
}
