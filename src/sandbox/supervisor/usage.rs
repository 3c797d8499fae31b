//! What a command has used: memory sampled over its processes, time added up as they end.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::unistd::{SysconfVar, sysconf};

use super::super::command::Activity;
use super::super::kernel::Reaped;
use super::super::ledger::ProcessName;
use super::descendants::{self, Census, LINE_CHARACTERS};
use crate::control_group;

/// The first look is early, because most commands are short.
const FIRST_SAMPLE_AFTER: Duration = Duration::from_millis(20);
const SAMPLE_EVERY: Duration = Duration::from_millis(200);

/// A look at very many processes takes long, and the pause after it grows, so that looking never takes more than a
/// twentieth of the time.
const COST_TO_PAUSE: u32 = 20;

/// How many processes are named to who asks what is going on.
const LOOKED_AT: usize = 3;

/// How many processes are written down for a successor.
const LASTING_MAX: usize = 256;

/// The account of one command.
pub(super) struct Usage {
    pub(super) peak_bytes: u64,
    pub(super) cpu_us: u64,
    /// When to look again.
    pub(super) next: Instant,
    /// The processes of the last two samples: the ones that last.
    pub(super) lasting: Vec<ProcessName>,
    /// The process that held the most memory when that was most in all, by its number and its command line.
    pub(super) largest: Option<(i32, String)>,
    sampled_bytes: u64,
    census: Census,
    seen: BTreeSet<ProcessName>,
    page_bytes: u64,
    ticks_per_second: u64,
    out_of_memory_kills: u64,
}

impl Usage {
    pub(super) fn begin() -> Self {
        let of_system = |variable| sysconf(variable).ok().flatten().and_then(|value| u64::try_from(value).ok());
        Self {
            peak_bytes: 0,
            cpu_us: 0,
            next: Instant::now() + FIRST_SAMPLE_AFTER,
            lasting: Vec::new(),
            largest: None,
            sampled_bytes: 0,
            census: Census::default(),
            seen: BTreeSet::new(),
            page_bytes: of_system(SysconfVar::PAGE_SIZE).unwrap_or(4096),
            ticks_per_second: of_system(SysconfVar::CLK_TCK).filter(|ticks| *ticks > 0).unwrap_or(100),
            out_of_memory_kills: out_of_memory_kills(),
        }
    }

    /// Looks at all processes. True when the set of those that last has changed.
    pub(super) fn sample(&mut self, now: Instant) -> bool {
        let processes = self.census.count();
        let bytes = processes.iter().map(|p| p.stat.rss_pages).sum::<u64>() * self.page_bytes;
        if bytes > self.sampled_bytes {
            self.sampled_bytes = bytes;
            let largest = processes.iter().max_by_key(|process| process.stat.rss_pages);
            self.largest =
                largest.and_then(|process| Some((process.name.pid, descendants::command_line(process.name, LINE_CHARACTERS)?)));
        }
        self.peak_bytes = self.peak_bytes.max(bytes);
        let seen: BTreeSet<ProcessName> = processes.iter().filter(|p| !p.stat.has_ended()).map(|p| p.name).collect();
        let lasting: Vec<ProcessName> = seen.intersection(&self.seen).take(LASTING_MAX).copied().collect();
        self.seen = seen;
        let changed = lasting != self.lasting;
        self.lasting = lasting;
        self.next = now + SAMPLE_EVERY.max(now.elapsed() * COST_TO_PAUSE);
        changed
    }

    /// What the processes do at this moment: the last ones that began are the ones that the others wait for.
    pub(super) fn look(&mut self) -> Activity {
        let mut processes = self.census.count();
        let ticks: u64 = processes.iter().map(|process| process.stat.cpu_ticks).sum();
        processes.retain(|process| !process.stat.has_ended());
        processes.sort_by_key(|process| std::cmp::Reverse((process.name.began, process.name.pid)));
        let lines = processes.iter().filter_map(|process| descendants::command_line(process.name, LINE_CHARACTERS));
        Activity { cpu_ms: self.cpu_us / 1000 + ticks * 1000 / self.ticks_per_second, processes: lines.take(LOOKED_AT).collect() }
    }

    /// A process has ended. Its own children that it waited for are in its account already.
    pub(super) fn add(&mut self, reaped: &Reaped) {
        self.cpu_us += reaped.cpu_us;
        self.peak_bytes = self.peak_bytes.max(reaped.max_rss_bytes);
    }

    /// Whether the kernel has killed for want of memory since the command began.
    pub(super) fn memory_ran_out(&self) -> bool {
        out_of_memory_kills() > self.out_of_memory_kills
    }

    /// Takes the kernel's own account of the most memory, which misses nothing between two samples. It is that of the whole life of
    /// a container, so it is asked only where memory ran out.
    pub(super) fn take_peak(&mut self) {
        let peak = ["memory.peak", "memory/memory.max_usage_in_bytes"].iter().find_map(|name| of_container(name));
        let bytes = peak.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        self.peak_bytes = self.peak_bytes.max(bytes);
    }
}

/// The kernel's count of processes that it killed for want of memory: in the container where this is the first process of one; else in the
/// control group that this and its commands are in, where that has such a count; else on the whole host.
fn out_of_memory_kills() -> u64 {
    let counters = ["memory.events", "memory/memory.oom_control"].iter().find_map(|name| of_container(name));
    let counters = counters.or_else(|| of_own_group(Path::new("/proc"), Path::new("/sys/fs/cgroup")));
    let counters = counters.unwrap_or_else(|| fs::read_to_string("/proc/vmstat").unwrap_or_default());
    counters.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok()).unwrap_or(0)
}

/// What the own control group counts, with those below it; nothing at the root, which counts nothing, and in version 1, where each counts for
/// itself (cgroups(7)).
fn of_own_group(proc: &Path, groups: &Path) -> Option<String> {
    let own = control_group::unified(proc)?;
    let counts = fs::read_to_string(groups.join(own).join("memory.events")).ok()?;
    counts.lines().any(|line| line.starts_with("oom_kill ")).then_some(counts)
}

/// A file of the container's own control group, in either version of those; none on a host.
fn of_container(name: &str) -> Option<String> {
    descendants::are_everybody().then(|| fs::read_to_string(Path::new("/sys/fs/cgroup").join(name)).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_are_counted_in_the_own_control_group() {
        let dir = tempfile::tempdir().expect("a directory");
        let (own, groups) = (dir.path().join("self/cgroup"), dir.path().join("groups"));
        fs::create_dir_all(own.parent().expect("a parent")).expect("made");
        let check = |line: &str, path: &str, count: Option<&str>| {
            fs::write(&own, line).expect("written");
            let file = groups.join(path);
            fs::create_dir_all(file.parent().expect("a parent")).expect("made");
            fs::write(&file, "max 3\noom_kill 7\n").expect("written");
            let found = of_own_group(dir.path(), &groups);
            assert_eq!(found.as_deref(), count, "{line}");
            fs::remove_dir_all(&groups).expect("removed");
        };
        let counted = Some("max 3\noom_kill 7\n");
        check("0::/system.slice/sawmill.service\n", "system.slice/sawmill.service/memory.events", counted);
        check("4:cpu,memory:/jobs\n0::/\n", "memory/jobs/memory.oom_control", None);
        check("0::/mine\n", "theirs/memory.events", None);
    }
}
