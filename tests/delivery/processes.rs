//! The processes of this host, by what stands in their arguments and environments.

use std::fs;

use nix::unistd::Pid;

/// The arguments of processes, for people.
pub(crate) fn describe(pids: &[Pid]) -> Vec<String> {
    let about = |pid: &Pid| fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    pids.iter().map(|pid| format!("{pid} {}", String::from_utf8_lossy(&about(pid)).replace('\0', " "))).collect()
}

/// All living processes, with their arguments and environments.
pub(super) fn processes() -> impl Iterator<Item = (Pid, Vec<u8>)> {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.map(|pid| (Pid::from_raw(pid), about(Pid::from_raw(pid))))
}

/// The arguments and the environment of a process.
pub(super) fn about(pid: Pid) -> Vec<u8> {
    let mut about = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    about.extend(fs::read(format!("/proc/{pid}/environ")).unwrap_or_default());
    about
}

pub(super) fn contains(bytes: &[u8], text: &str) -> bool {
    text.is_empty() || bytes.windows(text.len()).any(|window| window == text.as_bytes())
}
