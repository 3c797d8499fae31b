//! The few calls to the kernel that have no safe wrapper.
//!
//! The one rule: no other file of the house contains `unsafe`, and each use here says why it is sound.
#![expect(unsafe_code, reason = "fork, pre_exec, wait4, pidfd, mounts, madvise and received descriptors have no safe wrapper")]

use std::ffi::CStr;
use std::fs;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{ForkResult, Gid, Uid, setgroups, setresgid, setresuid, setsid, write};

use super::supervisor::User;

/// The most descriptors that one message can carry (`SCM_MAX_FD` in Linux).
const DESCRIPTORS_MAX: usize = 253;

/// Closes all descriptors but the three standard ones.
///
/// Call it first thing in a program, before anything is opened.
pub(super) fn close_inherited() {
    // SAFETY: nothing of this program has opened a descriptor yet, so none is closed under its owner. Where the kernel
    // lacks the call (before 5.9), descriptors marked close-on-exec were closed already, and the rest are harmless.
    unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) };
}

/// Forks.
///
/// # Errors
/// What the kernel reports.
pub(super) fn fork() -> nix::Result<ForkResult> {
    // SAFETY: the supervisor never starts a thread, so the child finds no lock held by a thread that it lacks.
    unsafe { nix::unistd::fork() }
}

/// Makes the command start in a session of its own, with default signal handling, the usual umask, no core files, and
/// preferred by the kernel when memory runs out. It dies with the supervisor. As `user` where that is not the supervisor's.
pub(super) fn isolate(command: &mut Command, user: Option<User>) {
    // SAFETY: `prepare_child` makes system calls only; it allocates nothing and takes no lock.
    unsafe { command.pre_exec(move || prepare_child(user)) };
}

fn prepare_child(user: Option<User>) -> io::Result<()> {
    setsid()?;
    if let Some(User { uid, gid }) = user {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        setresgid(gid, gid, gid)?;
        // Allowed without a privilege, because the supervisor acts as this user.
        setresuid(uid, uid, uid)?;
        // What a process that changed its user cannot do: write to its own files in /proc, as is done below.
        prctl::set_dumpable(true)?;
    }
    // The kernel's own `sigaction`, all zero: the default action, no flag, nothing blocked. The one of libc would refuse
    // two signals that it keeps for itself, and a parent may have left these ignored.
    let default = [0_u64; 4];
    for signal in 1..=64 {
        // SAFETY: the pointer is valid for the call, and no handler is installed. KILL and STOP are refused.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), std::ptr::null::<u8>(), size_of::<u64>()) };
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    umask(Mode::S_IWGRP | Mode::S_IWOTH);
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    if let Ok(file) = open(c"/proc/self/oom_score_adj", OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty()) {
        // Refused only to who already has a lower score by privilege; the job then runs as before.
        write(&file, b"500").ok();
    }
    Ok(())
}

/// Takes every privilege from this process and from all that it starts, for good: it acts as `user` from here on, under a real and
/// a saved user id of its own.
///
/// # Errors
/// What the kernel reports. The process is to end then.
pub(super) fn give_up_privileges(own_uid: u32, user: User) -> nix::Result<()> {
    prctl::set_no_new_privs()?;
    for capability in 0..64 {
        // SAFETY: the call takes numbers only. Those that the kernel does not know are refused.
        unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
    }
    let (own, uid, gid) = (Uid::from_raw(own_uid), Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    setgroups(&[])?;
    setresgid(gid, gid, gid)?;
    setresuid(own, uid, own)?;
    // `struct __user_cap_header_struct` of version 3 and two empty `struct __user_cap_data_struct`: linux/capability.h.
    let (header, none) = ([0x2008_0522_u32, 0], [0_u32; 6]);
    // SAFETY: both pointers are valid for reading for the length of the call.
    Errno::result(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) })?;
    prctl::set_dumpable(false)
}

/// Shows what is mounted at `source` in another mount namespace too, at `target` there. For a thread that ends afterwards: it is in
/// that namespace from then on.
///
/// # Errors
/// What the kernel reports: `EPERM` to who is not root.
pub(super) fn show_mount(source: &CStr, namespace: impl AsFd, target: &CStr) -> nix::Result<()> {
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_RECURSIVE as libc::c_uint;
    // SAFETY: the pointer is valid for reading for the length of the call.
    let tree = Errno::result(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, source.as_ptr(), flags) })?;
    let tree = RawFd::try_from(tree).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just made this descriptor for us, close-on-exec, and nobody else knows it.
    let tree = unsafe { OwnedFd::from_raw_fd(tree) };
    // A thread that shares its root and working directory with others cannot leave their namespace.
    unshare(CloneFlags::CLONE_FS)?;
    setns(namespace, CloneFlags::CLONE_NEWNS)?;
    let (from, empty, flags) = (tree.as_raw_fd(), c"".as_ptr(), libc::MOVE_MOUNT_F_EMPTY_PATH);
    // SAFETY: both pointers are valid for reading for the length of the call.
    let moved = unsafe { libc::syscall(libc::SYS_move_mount, from, empty, libc::AT_FDCWD, target.as_ptr(), flags) };
    Errno::result(moved)?;
    // Where mounts of the source propagate, what is mounted over this later would appear on the host too.
    mount(None::<&CStr>, target, None::<&CStr>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&CStr>)
}

/// The namespace of users in which one was made.
///
/// # Errors
/// What the kernel reports: `EPERM` where that is out of this process's sight.
pub(super) fn parent_of(namespace: impl AsFd) -> nix::Result<OwnedFd> {
    /// `NS_GET_PARENT`: ioctl_ns(2).
    const GET_PARENT: libc::Ioctl = 0xb702;
    // SAFETY: the request takes no argument.
    let parent = Errno::result(unsafe { libc::ioctl(namespace.as_fd().as_raw_fd(), GET_PARENT) })?;
    // SAFETY: the kernel has just made this descriptor for us, close-on-exec, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(parent) })
}

/// Gives back the pages of the code that was run so far. What is run again is read again, from memory as a rule: the file is the
/// daemon's too.
pub(super) fn give_back_code() {
    for (from, length) in fs::read_to_string("/proc/self/maps").unwrap_or_default().lines().filter_map(code) {
        let from = std::ptr::with_exposed_provenance_mut(from);
        // SAFETY: code that is mapped from a file is not written to, so what is read again is what was there.
        unsafe { libc::madvise(from, length, libc::MADV_DONTNEED) };
    }
}

/// Where a line of proc_pid_maps(5) has code of a file, and how long that is.
fn code(line: &str) -> Option<(usize, usize)> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let [range, "r-xp", _, _, inode, ..] = fields[..] else { return None };
    let (from, to) = range.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    let (from, to) = (address(from)?, address(to)?);
    (inode != "0").then(|| to.checked_sub(from).map(|length| (from, length)))?
}

/// A child that has ended and is no more.
pub(super) struct Reaped {
    pub(super) pid: i32,
    /// The exit status, or the signal that ended it.
    pub(super) end: Result<i32, i32>,
    /// User and system time, its own and that of the children that it waited for.
    pub(super) cpu_us: u64,
    /// The most memory that it, or a child that it waited for, has held.
    pub(super) max_rss_bytes: u64,
}

/// Takes the next child that has ended; none while all live.
///
/// # Errors
/// `ECHILD` when there is no child at all.
pub(super) fn reap() -> nix::Result<Option<Reaped>> {
    let mut status = 0;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: both pointers are valid for writing for the length of the call.
    let pid = Errno::result(unsafe { libc::wait4(-1, &mut status, libc::WNOHANG, usage.as_mut_ptr()) })?;
    if pid == 0 {
        return Ok(None);
    }
    // SAFETY: all zeroes is a valid `rusage`, and the kernel has filled it in.
    let usage = unsafe { usage.assume_init() };
    let end = if libc::WIFSIGNALED(status) { Err(libc::WTERMSIG(status)) } else { Ok(libc::WEXITSTATUS(status)) };
    let us = |time: libc::timeval| u64::try_from(time.tv_sec * 1_000_000 + time.tv_usec).unwrap_or(0);
    Ok(Some(Reaped {
        pid,
        end,
        cpu_us: us(usage.ru_utime) + us(usage.ru_stime),
        max_rss_bytes: u64::try_from(usage.ru_maxrss).unwrap_or(0) * 1024,
    }))
}

/// Sends a signal to the process that has this number now, provided that `is_it` then says it is the one meant: its
/// number cannot pass to another process in between.
pub(super) fn signal(pid: i32, signal: Signal, is_it: impl FnOnce() -> bool) {
    // SAFETY: the call takes numbers only.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let Ok(fd) = RawFd::try_from(fd) else { return };
    if fd < 0 {
        return; // It is gone, which is what signals are for.
    }
    // SAFETY: the kernel has just made this descriptor for us, close-on-exec, and nobody else knows it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    if is_it() {
        // SAFETY: a null `siginfo` is allowed and means what kill(2) would send.
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd.as_raw_fd(), signal as libc::c_int, std::ptr::null::<u8>(), 0) };
    }
}

/// Reads from a socket, with the descriptors that came along. No bytes means that the other end has closed.
///
/// # Errors
/// What the kernel reports, `EAGAIN` when nothing has arrived.
pub(super) fn receive(socket: impl AsFd, buffer: &mut [u8]) -> nix::Result<(usize, Vec<OwnedFd>)> {
    let mut space = nix::cmsg_space!([RawFd; DESCRIPTORS_MAX]);
    let mut parts = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<()>(socket.as_fd().as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    let mut descriptors = Vec::new();
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(received) = part {
            // SAFETY: the kernel has just made these descriptors for us, and nobody else knows them.
            descriptors.extend(received.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    Ok((message.bytes, descriptors))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_of_a_file_is_told_from_all_else_and_runs_on_after_it_was_given_back() {
        assert_eq!(code("1000-3000 r-xp 00001000 08:01 42 /usr/bin/a b"), Some((0x1000, 0x2000)));
        assert_eq!(code("1000-3000 rw-p 00001000 08:01 42 /usr/bin/a"), None);
        assert_eq!(code("1000-3000 r-xp 00000000 00:00 0 [vdso]"), None);
        assert_eq!(code(""), None);
        give_back_code();
        assert_eq!(code("3000-1000 r-xp 00000000 08:01 42"), None);
    }
}
