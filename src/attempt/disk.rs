//! What the files of a job in a container may take on the disk, and the watch over that.
//!
//! No quota is asked of the filesystem: few are mounted with project quotas, only root can set one, and a filesystem of its own for each
//! slot could not give its files to the trash by renaming. So the files are measured, on any filesystem and by any user. The disk's free
//! space is looked at often, which costs nothing; the files are walked when it has fallen by so much that this job may be why, and
//! now and then besides.
//!
//! The one rule: a job that is found to have more than its share is ended at once, without grace, and its outcome says how much it was.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytesize::ByteSize;

use super::files;
use super::halt::Halt;
use super::open::Attempt;
use super::place::Place;
use crate::job::OutcomeClass;

/// How often the disk's free space is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How often files are walked that nothing points at; and the least time between two walks, in lengths of a walk.
const WALK_EVERY: Duration = Duration::from_secs(15);
const WALK_PAUSE: u32 = 4;

/// Waits until the files of the attempt take more than they may, and gives what they take: for ever where no limit is set.
pub(super) async fn exceeded(attempt: &Attempt) -> u64 {
    let limit = attempt.tools.containers.disk().as_u64();
    if limit == 0 || !matches!(attempt.journal.place, Some(Place::Container { .. })) {
        return std::future::pending().await;
    }
    let free = || attempt.tools.state.free_space().unwrap_or(0);
    let (mut taken, mut free_then) = (0, free());
    // The first look is a walk: the job has begun already, and may have filled much.
    let (mut walked, mut took) = (None::<Instant>, Duration::ZERO);
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let may_be_over = free_then.saturating_sub(free()) >= limit.saturating_sub(taken) / 2;
        let due = walked.is_none_or(|at| {
            let since = at.elapsed();
            since >= WALK_EVERY.max(took * WALK_PAUSE) || (may_be_over && since >= took * WALK_PAUSE)
        });
        if !due {
            continue;
        }
        let (places, begun) = (places(attempt), Instant::now());
        free_then = free();
        // A walk that panicked has seen nothing; the next one is due.
        taken = tokio::task::spawn_blocking(move || places.iter().map(|place| bytes(place)).sum()).await.unwrap_or(taken);
        (walked, took) = (Some(Instant::now()), begun.elapsed());
        if taken > limit {
            return taken;
        }
    }
}

/// Ends a job whose files take so much.
pub(super) async fn end(attempt: &Attempt, taken: u64) -> Halt {
    if let Some(Place::Container { container, .. }) = &attempt.journal.place {
        // What cannot be removed now is found when the attempt is closed, and removed then.
        attempt.tools.containers.destroy(container).await;
    }
    let limit = attempt.tools.containers.disk();
    let message = format!("its files took {} on the disk, which is more than container.disk, {limit}", ByteSize(taken));
    Halt::failed(OutcomeClass::OutOfDisk, message)
}

/// Where a job's files are: in its directory and, where its worktree is an overlay, in the layer that has what was written to it; and in
/// those of its caches. What its gates write counts too.
fn places(attempt: &Attempt) -> [PathBuf; 4] {
    let beside = |part| attempt.slot_root().join(part);
    [attempt.slot.job(), beside("layer"), beside("caches"), attempt.slot.gates().root().to_owned()]
}

/// What the files below a directory take. One with several names counts once.
fn bytes(place: &Path) -> u64 {
    let (mut sum, mut linked) = (0, HashSet::new());
    files::walk(place, |_, _, about| {
        if about.st_nlink <= 1 || files::is_dir(about) || linked.insert(about.st_ino) {
            sum += u64::try_from(about.st_blocks).unwrap_or(0) * 512;
        }
        true
    });
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
        let empty = bytes(dir.path());
        fs::create_dir_all(dir.path().join("a/b")).expect("directories");
        fs::write(outside.path().join("large"), vec![1; 1 << 20]).expect("a file");
        symlink(outside.path(), dir.path().join("link")).expect("a link");
        let file = dir.path().join("a/b/file");
        fs::write(&file, vec![1; 1 << 20]).expect("a file");
        fs::hard_link(&file, dir.path().join("again")).expect("a link");
        let full = bytes(dir.path());
        assert!((1 << 20..(1 << 20) + (64 << 10)).contains(&(full - empty)), "{empty} {full}");
        assert_eq!(bytes(&dir.path().join("nowhere")), 0);
    }
}
