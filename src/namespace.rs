//! A namespace of users and mounts of this process's own, in which it may mount without being root.
//!
//! The one rule: in it everybody is who he was. The process's user and group are mapped to themselves and nobody else is mapped at
//! all, so what it may do to files is what it might before; and a user that is not 0 loses every capability of the namespace with
//! the first program that it starts. So whoever enters it may mount, and what he starts has the rights that it always had.
//!
//! What is mounted there is seen by those who are in it only, and lives as long as one of them does. Whether to enter one, and
//! whose, is decided in `daemon/mounting.rs`.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{getegid, geteuid};

/// The mapping of the host's own namespace of users, whatever the kernel puts between the numbers: user_namespaces(7).
const EVERYBODY: [&str; 3] = ["0", "0", "4294967295"];

/// Whether what this process mounts is seen by none but those who are in the same namespace of users, so not by the host.
#[must_use]
pub fn is_private() -> bool {
    let mapped = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    !mapped.split_ascii_whitespace().eq(EVERYBODY)
}

/// Makes a namespace and enters it. Call it while there is one thread.
///
/// # Errors
/// A sentence that says what the system does not allow.
pub fn enter() -> Result<(), String> {
    let (user, group) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS).map_err(|errno| match errno {
        Errno::EPERM => {
            "this user may make no namespace: see kernel.unprivileged_userns_clone, and what confines this process".to_owned()
        }
        Errno::ENOSPC => "there may be no more namespaces of users: see user.max_user_namespaces".to_owned(),
        errno => format!("no namespace of users can be made ({})", errno.desc().to_lowercase()),
    })?;
    // Who may change his groups could drop one by which a file is closed to him: the kernel asks for this first.
    for (file, text) in
        [("setgroups", "deny".to_owned()), ("uid_map", format!("{user} {user} 1")), ("gid_map", format!("{group} {group} 1"))]
    {
        let path = format!("/proc/self/{file}");
        fs::write(&path, text).map_err(|error| format!("{path} cannot be written in a namespace of users: {error}"))?;
    }
    Ok(())
}

/// Whether the process of this number is in the same namespace of users as this one; nothing where that cannot be seen.
#[must_use]
pub fn is_shared_with(pid: i32) -> Option<bool> {
    let of = |who: &str| fs::metadata(format!("/proc/{who}/ns/user")).ok().map(|about| (about.dev(), about.ino()));
    Some(of("self")? == of(&pid.to_string())?)
}

/// Enters the namespace that the process of this number is in, which `is_it` says it is, once that is certain to stay. Call it while
/// there is one thread.
///
/// # Errors
/// What the system says. The process may see other mounts than before then, and is to end.
pub fn join(pid: i32, is_it: impl FnOnce() -> bool) -> io::Result<()> {
    let open = |kind| File::open(format!("/proc/{pid}/ns/{kind}"));
    let (users, mounts) = (open("user")?, open("mnt")?);
    if !is_it() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "it has ended"));
    }
    let here = std::env::current_dir()?;
    setns(users, CloneFlags::CLONE_NEWUSER)?;
    setns(mounts, CloneFlags::CLONE_NEWNS)?;
    // Who enters stands at the root of it.
    std::env::set_current_dir(here)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_shares_its_namespace_with_itself_and_with_none_that_is_not_there() {
        let own = std::process::id().cast_signed();
        assert_eq!(is_shared_with(own), Some(true));
        assert_eq!(is_shared_with(i32::MAX), None);
    }

    #[test]
    fn nobody_is_entered_who_is_somebody_else_by_now() {
        let own = std::process::id().cast_signed();
        let refused = join(own, || false).expect_err("it is not whom was meant");
        assert_eq!(refused.kind(), io::ErrorKind::NotFound);
    }
}
