//! A process that no later one can be taken for, and whether it lives.
//!
//! A number alone proves nothing: it passes to another process once its own has ended. Host, boot, number and start time together name
//! one process for ever.

use std::fs;
use std::io;

use serde::{Deserialize, Serialize};

use crate::process_stat::Stat;

/// A process, by what nobody shares with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// The host's name; empty where that is not known.
    pub host: String,
    /// Which boot of the host.
    pub boot: String,
    /// Its number.
    pub pid: i32,
    /// When it began, in clock ticks since the host's start (field 22 of proc_pid_stat(5)).
    pub began: u64,
}

/// Whether a process lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Life {
    /// It does.
    Lives,
    /// It is proven that it does not; how.
    Dead(String),
    /// It cannot be told from here; why.
    Unknown(String),
}

impl Process {
    /// This very process.
    #[must_use]
    pub fn own() -> Self {
        let pid = std::process::id().cast_signed();
        Self { host: host_name(), boot: boot_id().unwrap_or_default(), pid, began: began(pid).unwrap_or_default() }
    }

    /// Whether it lives, as far as can be told on this host.
    #[must_use]
    pub fn life(&self) -> Life {
        let Ok(boot) = boot_id() else { return Life::Unknown("the system does not tell its boot".to_owned()) };
        if self.boot.is_empty() || self.began == 0 {
            return Life::Unknown("it is not known which process its daemon was".to_owned());
        }
        if self.boot != boot {
            // No two boots share an id, of whichever host.
            return if self.host.is_empty() || self.host == host_name() {
                Life::Dead(format!("its daemon, process {}, ran before this boot of the host", self.pid))
            } else {
                Life::Unknown(format!("its daemon ran on host {}, and this is {}", self.host, host_name()))
            };
        }
        match began(self.pid) {
            None => Life::Dead(format!("its daemon, process {}, has ended", self.pid)),
            Some(at) if at == self.began => Life::Lives,
            Some(at) => Life::Dead(format!(
                "its daemon, process {}, has ended: the one with that number now began {at} ticks after the boot, not {}",
                self.pid, self.began
            )),
        }
    }
}

/// Whether a process of this host has ended.
#[must_use]
pub fn has_ended(pid: u32) -> bool {
    began(pid.cast_signed()).is_none()
}

/// When a living process began, in clock ticks since the host's start: with its number and the boot that names it.
fn began(pid: i32) -> Option<u64> {
    Stat::of(pid).filter(|stat| !stat.has_ended()).map(|stat| stat.began)
}

/// Which boot of the host this is.
///
/// # Errors
/// The system does not say.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// The host's name.
#[must_use]
pub fn host_name() -> String {
    nix::unistd::gethostname().map_or_else(|_| "host".to_owned(), |name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_passed_to_another_process_is_not_its_owner() {
        let own = Process::own();
        assert_eq!(own.life(), Life::Lives);
        let earlier = Process { began: own.began - 1, ..own.clone() };
        assert!(matches!(earlier.life(), Life::Dead(why) if why.contains("the one with that number now")));
        let before = Process { boot: "11111111-0000-0000-0000-000000000000".to_owned(), ..own.clone() };
        assert!(matches!(before.life(), Life::Dead(why) if why.contains("before this boot")));
        let gone = Process { pid: i32::MAX, ..own.clone() };
        assert!(matches!(gone.life(), Life::Dead(why) if why.contains("has ended")));
        let elsewhere = Process { host: "elsewhere.example".to_owned(), ..before };
        assert!(matches!(elsewhere.life(), Life::Unknown(why) if why.contains("elsewhere.example")));
        assert!(matches!(Process { began: 0, ..own }.life(), Life::Unknown(_)));
    }
}
