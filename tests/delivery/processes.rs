//! The processes of this host, by what stands in their arguments and environments.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use nix::unistd::Pid;

/// The arguments of processes, for people.
pub(crate) fn describe(pids: &[Pid]) -> Vec<String> {
    let about = |pid: &Pid| fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    pids.iter().map(|pid| format!("{pid} {}", String::from_utf8_lossy(&about(pid)).replace('\0', " "))).collect()
}

/// The living processes of whose arguments and environment this is true, and all that descend from them, each with its own.
pub(super) fn with_descendants(is_meant: impl Fn(&[u8]) -> bool) -> impl Iterator<Item = (Pid, Vec<u8>)> {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let all: BTreeMap<i32, (i32, Vec<u8>)> = pids.filter_map(|pid| Some((pid, (parent(pid)?, about(pid))))).collect();
    let meant: BTreeSet<i32> = all.iter().filter(|(_, (_, about))| is_meant(about)).map(|(pid, _)| *pid).collect();
    let parents: BTreeMap<i32, i32> = all.iter().map(|(pid, (parent, _))| (*pid, *parent)).collect();
    let descends = move |pid: i32| {
        let mut line = std::iter::successors(Some(pid), |pid| parents.get(pid).copied());
        // What is read of a process after that of its parent may make a circle of them, as numbers are used again.
        line.by_ref().take(100).any(|pid| meant.contains(&pid))
    };
    all.into_iter().filter(move |(pid, _)| descends(*pid)).map(|(pid, (_, about))| (Pid::from_raw(pid), about))
}

/// The number of a process's parent, by the fourth field of proc_pid_stat(5): the second one is in brackets, and may have any in it.
fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// The arguments and the environment of a process.
fn about(pid: i32) -> Vec<u8> {
    let mut about = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    about.extend(fs::read(format!("/proc/{pid}/environ")).unwrap_or_default());
    about
}

pub(super) fn contains(bytes: &[u8], text: &str) -> bool {
    text.is_empty() || bytes.windows(text.len()).any(|window| window == text.as_bytes())
}
