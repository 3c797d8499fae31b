//! The processes of this host, and what the kernel tells of each in one line (`proc_pid_stat(5)`).

use std::fs::{self, File};
use std::io::Read;

/// What is known of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    /// What it does at the moment, as one letter.
    pub(crate) state: char,
    /// The number of its parent.
    pub(crate) parent: i32,
    /// The number of its process group.
    pub(crate) group: i32,
    /// Its own time and that of its children which it has waited for, in ticks of the system.
    pub(crate) cpu_ticks: u64,
    /// When it began, in ticks since the host's start: with its number and the boot that names it.
    pub(crate) began: u64,
    /// The memory that it has in use, in pages.
    pub(crate) rss_pages: u64,
}

impl Stat {
    /// Of the process that has this number now.
    #[must_use]
    pub(crate) fn of(pid: i32) -> Option<Self> {
        let mut buffer = [0; 1024];
        let mut file = File::open(format!("/proc/{pid}/stat")).ok()?;
        let length = file.read(&mut buffer).ok()?;
        Self::parse(&String::from_utf8_lossy(&buffer[..length]))
    }

    /// Whether it has ended: it stays in the list until its parent has asked how.
    #[must_use]
    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }

    /// Whether it waits for something to happen: for input, a child or a time, and in no other call of the system.
    #[must_use]
    pub(crate) fn is_asleep(&self) -> bool {
        self.state == 'S'
    }

    /// The second field is the name in parentheses, which can hold anything.
    fn parse(line: &str) -> Option<Self> {
        let (_, rest) = line.rsplit_once(')')?;
        // Field 3 is the first one here.
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3).copied();
        let times: Vec<u64> = (14..=17).map_while(|number| field(number)?.parse().ok()).collect();
        Some(Self {
            state: field(3)?.chars().next()?,
            parent: field(4)?.parse().ok()?,
            group: field(5)?.parse().ok()?,
            cpu_ticks: times.iter().sum(),
            began: field(22)?.parse().ok()?,
            rss_pages: field(24)?.parse().ok()?,
        })
    }
}

/// The numbers of all processes that can be seen. Who comes or goes meanwhile may be among them or not.
pub(crate) fn pids() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str().and_then(|name| name.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let line = "42 (a) b (c) S 7 41 42 0 -1 4194560 1 0 0 0 3 4 0 0 20 0 1 0 987 1000 25 18446744073709551615 1";
        let expected = Stat { state: 'S', parent: 7, group: 41, cpu_ticks: 7, began: 987, rss_pages: 25 };
        assert_eq!(Stat::parse(line), Some(expected));
        assert_eq!(Stat::parse("42 (cut"), None);
    }

    #[test]
    fn this_process_is_in_the_list_and_has_not_ended() {
        let own = std::process::id().cast_signed();
        assert!(pids().any(|pid| pid == own));
        assert!(!Stat::of(own).expect("it runs").has_ended());
    }
}
