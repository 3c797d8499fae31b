//! Opening a file by a path at which a job may have put anything, and may put something else at any moment.
//!
//! The one rule: what a file is, is asked of what was opened, and never of the path; no link at its end is followed, and no pipe waited for.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;

/// Opens the plain file at `path` to be read; nothing where something else is there.
pub(crate) fn open(path: &Path) -> io::Result<Option<File>> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    match OpenOptions::new().read(true).custom_flags(flags.bits()).open(path) {
        Ok(file) => Ok(file.metadata()?.is_file().then_some(file)),
        // A link; a socket.
        Err(error) if [Errno::ELOOP, Errno::ENXIO].iter().any(|errno| error.raw_os_error() == Some(*errno as i32)) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    #[test]
    fn only_a_plain_file_is_opened_and_nothing_is_waited_for() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("file"), "x").expect("written");
        symlink(at("file"), at("link")).expect("linked");
        mkfifo(&at("pipe"), Mode::S_IRWXU).expect("made");
        let _socket = UnixListener::bind(at("socket")).expect("bound");
        let check = |name: &str, expected: Result<bool, io::ErrorKind>| {
            let found = open(&at(name)).map(|file| file.is_some()).map_err(|error| error.kind());
            assert_eq!(found, expected, "{name}");
        };
        check("file", Ok(true));
        for other in ["link", "pipe", "socket", "."] {
            check(other, Ok(false));
        }
        check("none", Err(io::ErrorKind::NotFound));
    }
}
