//! What the files of a job in a container may take of the disk, in room and in number, and the watch over that.
//!
//! No quota is asked of the filesystem: few are mounted with project quotas, only root can set one, and a filesystem of its own for each
//! slot could not give its files to the trash by renaming. So the files are measured, on any filesystem and by any user. What is free of
//! the disk is looked at often, which costs nothing; the files are walked when that has fallen by so much that this job may be why, and
//! now and then besides.
//!
//! The one rule: a job that is found to have more than its share is ended at once, without grace, and its outcome says how much it was.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use tracing::debug;

use super::halt::Halt;
use super::open::Attempt;
use super::place::Place;
use crate::janitor::{Way, is_dir, walk};
use crate::job::OutcomeClass;
use crate::sandbox::Held;
use crate::sandbox::container::{DiskShare, WORKSPACE};

/// How often the disk's free space is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How often files are walked that nothing points at; and the least time between two walks, in lengths of a walk.
const WALK_EVERY: Duration = Duration::from_secs(15);
const WALK_PAUSE: u32 = 4;

/// What files take: how much of the disk, and how many they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Taken {
    bytes: u64,
    files: u64,
}

impl Taken {
    fn and(self, more: Self) -> Self {
        Self { bytes: self.bytes + more.bytes, files: self.files + more.files }
    }

    /// Why that is too much, where it is.
    fn beyond(self, share: DiskShare) -> Option<String> {
        let DiskShare { bytes, files } = share;
        if bytes.as_u64() > 0 && self.bytes > bytes.as_u64() {
            let taken = ByteSize(self.bytes);
            return Some(format!("its files took {taken} on the disk, which is more than container.disk, {bytes}"));
        }
        let too_many = files > 0 && self.files > files;
        too_many.then(|| format!("it had {} files and directories, which is more than container.files, {files}", self.files))
    }
}

/// Waits until the files of the attempt take more than they may, and says why that is too much: for ever where no limit is set.
pub(super) async fn exceeded(attempt: &Attempt) -> String {
    let share = attempt.tools.containers.disk_share();
    let (bytes, files) = (share.bytes.as_u64(), share.files);
    if (bytes, files) == (0, 0) || !matches!(attempt.journal.place, Some(Place::Container { .. })) {
        return std::future::pending().await;
    }
    let (mut taken, mut free_then) = (Taken::default(), free(attempt));
    // The first look is a walk: the job has begun already, and may have filled much.
    let (mut walked, mut took) = (None::<Instant>, Duration::ZERO);
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let now = free(attempt);
        // Whether what is free has fallen by half of what the job may still have.
        let nears =
            |limit: u64, has: u64, then: u64, now: u64| limit > 0 && then.saturating_sub(now) >= limit.saturating_sub(has) / 2;
        let may_be_over =
            nears(bytes, taken.bytes, free_then.bytes, now.bytes) || nears(files, taken.files, free_then.files, now.files);
        let due = walked.is_none_or(|at| {
            let since = at.elapsed();
            since >= WALK_EVERY.max(took * WALK_PAUSE) || (may_be_over && since >= took * WALK_PAUSE)
        });
        if !due {
            continue;
        }
        let (places, begun) = (places(attempt), Instant::now());
        free_then = now;
        // A walk that panicked has seen nothing; the next one is due.
        taken = match tokio::task::spawn_blocking(move || measure(&places, files)).await {
            Ok(named) => named.and(held(attempt).await),
            Err(_) => taken,
        };
        (walked, took) = (Some(Instant::now()), begun.elapsed());
        if let Some(why) = taken.beyond(share) {
            return why;
        }
    }
}

/// What files take that the job has deleted and holds open. A supervisor that cannot say ends soon, or is of an earlier release.
async fn held(attempt: &Attempt) -> Taken {
    match attempt.runner().held(Path::new(WORKSPACE)).await {
        Ok(Held { bytes, files }) => Taken { bytes, files },
        Err(error) => {
            debug!("files that job {} has deleted are not counted: {error}", attempt.claimed.claim.job);
            Taken::default()
        }
    }
}

/// What is left of the disk for everybody. Where that is not known nothing points at a job, and its files are walked now and then.
fn free(attempt: &Attempt) -> Taken {
    let state = &attempt.tools.state;
    Taken { bytes: state.free_space().unwrap_or(0), files: state.free_files().ok().flatten().unwrap_or(0) }
}

/// Ends a job whose files take too much, for this reason.
pub(super) async fn end(attempt: &Attempt, why: String) -> Halt {
    if let Some(Place::Container { container, .. }) = &attempt.journal.place {
        // What cannot be removed now is found when the attempt is closed, and removed then.
        attempt.tools.containers.destroy(container).await;
    }
    Halt::failed(OutcomeClass::OutOfDisk, why)
}

/// Where a job's files are, those of its caches too. What its gates write counts as well.
fn places(attempt: &Attempt) -> Vec<PathBuf> {
    let gates = attempt.slot.gates();
    attempt.slot.written().into_iter().chain([attempt.slot.caches(), gates.root().to_owned()]).collect()
}

/// What the files below directories take. One with several names counts once. Once there are more than `most`, where that is a limit, no
/// further ones are looked for.
fn measure(places: &[PathBuf], most: u64) -> Taken {
    let mut sum = Taken::default();
    for place in places {
        let mut linked = HashSet::new();
        walk(place, |_, _, about| {
            // Files of two subvolumes may have the same number.
            if about.st_nlink <= 1 || is_dir(about) || linked.insert((about.st_dev, about.st_ino)) {
                sum.bytes += u64::try_from(about.st_blocks).unwrap_or(0) * 512;
                sum.files += 1;
            }
            if most > 0 && sum.files > most { Way::Out } else { Way::Into }
        });
    }
    sum
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_file_is_counted_once_and_nothing_outside_is() {
        let (dir, outside) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
        let look = || measure(&[dir.path().to_owned(), dir.path().join("nowhere")], 0);
        let empty = look();
        fs::create_dir_all(dir.path().join("a/b")).expect("directories");
        fs::write(outside.path().join("large"), vec![1; 1 << 20]).expect("a file");
        symlink(outside.path(), dir.path().join("link")).expect("a link");
        let file = dir.path().join("a/b/file");
        fs::write(&file, vec![1; 1 << 20]).expect("a file");
        fs::hard_link(&file, dir.path().join("again")).expect("a link");
        let full = look();
        assert!((1 << 20..(1 << 20) + (64 << 10)).contains(&(full.bytes - empty.bytes)), "{empty:?} {full:?}");
        assert_eq!((empty.files, full.files), (0, 4), "two directories, a file with two names, and a link");
    }

    #[test]
    fn too_much_is_said_with_what_there_was_and_the_limit() {
        let check = |bytes: u64, files: u64, limits: (u64, u64), expected: Option<&str>| {
            let share = DiskShare { bytes: ByteSize(limits.0), files: limits.1 };
            assert_eq!(Taken { bytes, files }.beyond(share).as_deref(), expected, "{bytes} {files} {limits:?}");
        };
        check(1 << 20, 10, (1 << 20, 10), None);
        check(1 << 30, 1000, (0, 0), None);
        let much = "its files took 2.0 MiB on the disk, which is more than container.disk, 1.0 MiB";
        check(2 << 20, 11, (1 << 20, 10), Some(much));
        check(0, 11, (1 << 20, 10), Some("it had 11 files and directories, which is more than container.files, 10"));
    }
}
