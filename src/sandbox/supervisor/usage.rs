//! What a command has used: memory sampled over its processes, time added up as they end.

use std::fs;
use std::time::{Duration, Instant};

use nix::unistd::{SysconfVar, sysconf};

use super::super::kernel::Reaped;
use super::super::ledger::ProcessName;
use super::descendants::Census;

/// The first look is early, because most commands are short.
const FIRST_SAMPLE_AFTER: Duration = Duration::from_millis(20);
const SAMPLE_EVERY: Duration = Duration::from_millis(200);

/// The account of one command.
pub(super) struct Usage {
    pub(super) peak_bytes: u64,
    pub(super) cpu_us: u64,
    /// When to look again.
    pub(super) next: Instant,
    /// The processes of the last two samples: the ones that last.
    pub(super) lasting: Vec<ProcessName>,
    census: Census,
    seen: Vec<ProcessName>,
    page_bytes: u64,
    out_of_memory_kills: u64,
}

impl Usage {
    pub(super) fn begin() -> Self {
        let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten().and_then(|bytes| u64::try_from(bytes).ok());
        Self {
            peak_bytes: 0,
            cpu_us: 0,
            next: Instant::now() + FIRST_SAMPLE_AFTER,
            lasting: Vec::new(),
            census: Census::default(),
            seen: Vec::new(),
            page_bytes: page.unwrap_or(4096),
            out_of_memory_kills: out_of_memory_kills(),
        }
    }

    /// Looks at all processes. True when the set of those that last has changed.
    pub(super) fn sample(&mut self, now: Instant) -> bool {
        self.next = now + SAMPLE_EVERY;
        let processes = self.census.count();
        self.peak_bytes = self.peak_bytes.max(processes.iter().map(|p| p.rss_pages).sum::<u64>() * self.page_bytes);
        let seen: Vec<ProcessName> = processes.iter().filter(|p| !p.zombie).map(|p| p.name).collect();
        let lasting: Vec<ProcessName> = seen.iter().copied().filter(|name| self.seen.contains(name)).collect();
        self.seen = seen;
        let changed = lasting != self.lasting;
        self.lasting = lasting;
        changed
    }

    /// A process has ended. Its own children that it waited for are in its account already.
    pub(super) fn add(&mut self, reaped: &Reaped) {
        self.cpu_us += reaped.cpu_us;
        self.peak_bytes = self.peak_bytes.max(reaped.max_rss_bytes);
    }

    /// Whether the kernel has killed for want of memory since the command began, here or elsewhere on the host.
    pub(super) fn memory_ran_out(&self) -> bool {
        out_of_memory_kills() > self.out_of_memory_kills
    }
}

/// The kernel's count of processes that it killed for want of memory, of the host or of a cgroup.
fn out_of_memory_kills() -> u64 {
    let counters = fs::read_to_string("/proc/vmstat").unwrap_or_default();
    counters.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok()).unwrap_or(0)
}
