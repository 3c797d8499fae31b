//! Changes that other processes make to a SQLite file, seen by the file's data version.
//!
//! The one rule: it looks through the connection that writes. SQLite counts there only what *other* connections have
//! committed, so what this process writes itself, and has hinted at already, is never taken for news.
//!
//! When to look, the kernel says (inotify(7)): every commit is written to the file's log, which lies beside it. Nothing is to be
//! done while nobody writes.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::net::unix::pipe::Receiver;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::db::Db;
use super::hints::Hinter;

/// How long it rests after a look, for the kernel tells of this process's commits too. One look takes some 50 microseconds.
const REST: Duration = Duration::from_millis(25);

/// How long it goes without a look though it is told of nothing: little at first, because a commit is written, and told of, before the disk
/// has it and it counts; and never longer than the other, because some filesystems do not tell.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
const LOOK_ANYWAY: Duration = Duration::from_secs(5);

/// Gives a hint whenever another process has changed the file at `path`, until `stop`.
pub(super) async fn watch_loop(db: Db, path: PathBuf, hinter: Hinter, stop: CancellationToken) {
    // The log is there from the first look on, until the last connection of all processes is closed.
    let mut last = db.data_version().await.ok().flatten();
    let log = Log::beside(&path);
    if let Err(error) = &log {
        tracing::info!("looking at {} every {REST:?}, because its changes are not told: {error}", path.display());
    }
    let watching = async {
        let mut wait = LOOK_AGAIN;
        loop {
            // A file that cannot be asked now is asked again; whoever waits looks for himself after a while.
            if let Ok(Some(version)) = db.data_version().await {
                if last.is_some_and(|last| last != version) {
                    hinter.job_changed();
                    hinter.progressed();
                }
                last = Some(version);
            }
            sleep(REST).await;
            if let Ok(log) = &log {
                wait = if log.written_within(wait).await { LOOK_AGAIN } else { (wait * 3 / 2).min(LOOK_ANYWAY) };
            }
        }
    };
    stop.run_until_cancelled(watching).await;
}

/// What the kernel tells of the log of a SQLite file. It is read as a pipe is: what was written is of no interest, only that it was.
struct Log(Receiver);

impl Log {
    fn beside(path: &Path) -> io::Result<Self> {
        let mut log = OsString::from(path.canonicalize()?);
        log.push("-wal");
        let events = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        events.add_watch(Path::new(&log), AddWatchFlags::IN_MODIFY)?;
        Ok(Self(Receiver::from_owned_fd_unchecked(events.into())?))
    }

    /// Waits until it has been written to since the last call, though not longer than that; says whether it has.
    async fn written_within(&self, longest: Duration) -> bool {
        let Ok(Ok(())) = timeout(longest, self.0.readable()).await else { return false };
        let mut told = [0; 4096];
        let mut written = false;
        while self.0.try_read(&mut told).is_ok_and(|read| read > 0) {
            written = true;
        }
        written
    }
}
