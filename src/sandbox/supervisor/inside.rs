//! Becoming the supervisor of a container: its first process, which every other one in it descends from.
//!
//! The one rule: from the first request on it has no privilege at all. It acts as the job's user, whom the slot's files belong
//! to, under a real and a saved user id that are nobody else's: so it can read those files, start processes as that user and
//! end them, while none of them may signal it, trace it, or look into it through `/proc`.

use std::ffi::OsString;
use std::io;
use std::time::Duration;

use nix::sys::prctl;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{chdir, chown, dup2_stderr, dup2_stdout};

use super::super::container::inside::{PRIVATE, SUPERVISOR_DIR, supervisor_uid};
use super::super::kernel;
use super::detach::{DetachError, Post, User, listen, open_log, take_lock, take_signals};

/// Takes the directory, gives up every privilege and listens. `args` are the longest silence of a daemon in milliseconds, and
/// user and group of the jobs.
pub(super) fn settle(args: impl Iterator<Item = OsString>) -> Result<Post, DetachError> {
    kernel::close_inherited();
    let failed = |what| move |source: io::Error| DetachError::System { what, source };
    let numbers: Option<Vec<u64>> = args.map(|text| text.to_str()?.parse().ok()).collect();
    let [orphan_after_ms, uid, gid] = numbers.unwrap_or_default().try_into().map_err(|_| DetachError::Arguments)?;
    let number = |value: u64| u32::try_from(value).map_err(|_| DetachError::Arguments);
    let user = User { uid: number(uid)?, gid: number(gid)? };
    umask(Mode::S_IRWXG | Mode::S_IRWXO);
    let own = supervisor_uid(user.uid);
    // The way there is closed to the job's user, and so to us from here on; what is in it is named relative to it. Not every engine can
    // make it somebody's.
    chown(PRIVATE, Some(own.into()), Some(own.into())).map_err(|error| failed("close the way to its directory")(error.into()))?;
    chdir(SUPERVISOR_DIR).map_err(|error| failed("enter the supervisor's directory")(error.into()))?;
    kernel::give_up_privileges(own, user).map_err(|error| failed("give up privileges")(error.into()))?;
    let lock = take_lock()?;
    let listener = listen().map_err(failed("listen on the supervisor's socket"))?;
    let log = open_log().map_err(failed("open the supervisor's log"))?;
    let signals = take_signals().map_err(failed("take signals over"))?;
    let said = dup2_stderr(&log).and_then(|()| dup2_stdout(&log)).and_then(|()| prctl::set_name(c"sawmill-sup"));
    said.map_err(|error| failed("write to the supervisor's log")(error.into()))?;
    Ok(Post { listener, signals, orphan_after: Duration::from_millis(orphan_after_ms), lock, user: Some(user) })
}
