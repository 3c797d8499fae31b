//! What is left of the host's memory and disk: read, and judged.
//!
//! The one rule: what the system does not say limits nothing. A judgement looks back at the one before it, so that a value at
//! the edge of its limit does not open and close the gate in turns.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};

use bytesize::ByteSize;
use nix::sys::statvfs::statvfs;

use crate::control_group;
use crate::janitor::Space;
use crate::store::{Pressure, PressureLimits, Resource};

/// Where the system says what there is.
#[derive(Debug, Clone)]
pub(super) struct Gauge {
    /// `/proc`.
    proc: PathBuf,
    /// `/sys/fs/cgroup`.
    groups: PathBuf,
    /// The state directory.
    state: PathBuf,
}

/// What a disk has left, where the system says.
#[derive(Debug, Clone, Copy)]
pub(super) struct DiskFree {
    bytes: Option<u64>,
    inodes: Option<u64>,
}

impl DiskFree {
    /// How many further jobs fit, each of which takes what one is expected to, beside what is to stay free and what those that run
    /// take yet.
    pub(super) fn jobs(self, limits: &PressureLimits) -> u64 {
        // What is needed with no further job has one in it.
        let fit = |free: Option<u64>, needed: u64, job: u64| match free {
            Some(free) if needed > 0 && job > 0 => free.saturating_sub(needed - job) / job,
            _ => u64::MAX,
        };
        let room = fit(self.bytes, limits.disk_needed_bytes(), limits.disk_job_bytes);
        room.min(fit(self.inodes, limits.inodes_needed(), limits.inodes_job))
    }
}

impl Gauge {
    pub(super) fn new(state: &Path) -> Self {
        Self { proc: "/proc".into(), groups: "/sys/fs/cgroup".into(), state: state.to_owned() }
    }

    /// Reads everything. Blocks.
    pub(super) fn read(&self, limits: &PressureLimits) -> Pressure {
        let disk = self.disk();
        Pressure {
            memory_available_bytes: self.memory_available(),
            memory_stalled_percent: self.memory_stalled(),
            disk_free_bytes: disk.bytes,
            inodes_free: disk.inodes,
            limits: limits.clone(),
            shortage: None,
        }
    }

    /// What the disk of the state directory has left, which is told at once.
    pub(super) fn disk(&self) -> DiskFree {
        let disk = statvfs(&self.state).ok();
        DiskFree {
            bytes: disk.map(|disk| disk.blocks_available() * disk.fragment_size()),
            // Some file systems make inodes as they go, and count none.
            inodes: disk.filter(|disk| disk.files() > 0).map(|disk| disk.files_available()),
        }
    }

    /// The kernel's own estimate (`MemAvailable`, proc(5)), or what the worker's control groups leave where that is less:
    /// supervisors and jobs are in the daemon's group.
    fn memory_available(&self) -> Option<u64> {
        let info = fs::read_to_string(self.proc.join("meminfo")).ok()?;
        let line = info.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
        let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
        Some(self.left_by_groups().into_iter().fold(kib * 1024, u64::min))
    }

    /// What each control group with a limit leaves, from the daemon's own to the outermost that can be seen.
    fn left_by_groups(&self) -> Vec<u64> {
        let own = fs::read_to_string(self.proc.join("self/cgroup")).unwrap_or_default();
        own.lines().flat_map(|line| self.left_along(line).unwrap_or_default()).collect()
    }

    /// A line of `/proc/self/cgroup` is `0::PATH` for the unified hierarchy, `NUMBER:CONTROLLERS:PATH` for an old one
    /// (cgroups(7)).
    fn left_along(&self, line: &str) -> Option<Vec<u64>> {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        let (root, names) = match controllers {
            "" => (self.groups.clone(), ["memory.max", "memory.current", "inactive_file"]),
            list if list.split(',').any(|name| name == "memory") => {
                (self.groups.join("memory"), ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"])
            }
            _ => return None,
        };
        let own = root.join(path.trim_start_matches('/'));
        Some(own.ancestors().take_while(|dir| dir.starts_with(&root)).filter_map(|dir| left_in(dir, names)).collect())
    }

    /// The share of the last ten seconds in which all tasks stood still for want of memory, on the host or in the daemon's own
    /// control group (<https://docs.kernel.org/accounting/psi.html>).
    fn memory_stalled(&self) -> Option<u8> {
        let own = control_group::unified(&self.proc);
        let of_group = own.and_then(|own| stalled_in(&self.groups.join(own).join("memory.pressure")));
        stalled_in(&self.proc.join("pressure/memory")).into_iter().chain(of_group).max()
    }
}

/// What a control group with a limit leaves: what it does not use, and the pages of files that it has not used lately.
fn left_in(group: &Path, [limit, usage, idle]: [&str; 3]) -> Option<u64> {
    let read = |name: &str| fs::read_to_string(group.join(name)).ok();
    let number = |name: &str| read(name)?.trim().parse::<u64>().ok();
    // "max", where there is none, is no number.
    let (limit, usage) = (number(limit)?, number(usage)?);
    let stat = read("memory.stat").unwrap_or_default();
    let idle = stat.lines().find_map(|line| line.strip_prefix(idle)?.trim().parse::<u64>().ok()).unwrap_or(0);
    Some(limit.saturating_sub(usage.saturating_sub(idle)))
}

fn stalled_in(file: &Path) -> Option<u8> {
    let text = fs::read_to_string(file).ok()?;
    let full = text.lines().find(|line| line.starts_with("full "))?;
    let percent = full.split_whitespace().find_map(|part| part.strip_prefix("avg10="))?;
    percent.split('.').next()?.parse().ok()
}

/// What a host is short of. What it was short of before (`short`), it is until there is a quarter more than the limit, or half
/// the stalls.
pub(super) fn judge(pressure: &Pressure, short: &BTreeSet<Resource>) -> BTreeSet<Resource> {
    let limits = &pressure.limits;
    let too_little = |want, value: Option<u64>, least: u64| {
        let least = if short.contains(&want) { least.saturating_add(least / 4) } else { least };
        value.is_some_and(|value| value < least).then_some(want)
    };
    let most = limits.memory_stalled_percent;
    let most = if short.contains(&Resource::MemoryStalls) { most / 2 } else { most };
    let stalls = pressure.memory_stalled_percent.is_some_and(|percent| limits.memory_stalled_percent > 0 && percent > most);
    [
        too_little(Resource::Memory, pressure.memory_available_bytes, limits.memory_available_bytes),
        stalls.then_some(Resource::MemoryStalls),
        too_little(Resource::Disk, pressure.disk_free_bytes, limits.disk_needed_bytes()),
        too_little(Resource::Inodes, pressure.inodes_free, limits.inodes_needed()),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// What of these the disk lacks up to where a host is short of them no more.
pub(super) fn lacking(pressure: &Pressure, of: &BTreeSet<Resource>) -> Space {
    let up_to = |resource, least: u64, free: Option<u64>| {
        let target = least.saturating_add(least / 4);
        if of.contains(&resource) { target.saturating_sub(free.unwrap_or(target)) } else { 0 }
    };
    let limits = &pressure.limits;
    Space {
        bytes: up_to(Resource::Disk, limits.disk_needed_bytes(), pressure.disk_free_bytes),
        inodes: up_to(Resource::Inodes, limits.inodes_needed(), pressure.inodes_free),
    }
}

/// What a host is short of, in words.
pub(super) fn in_words(short: &BTreeSet<Resource>, limits: &PressureLimits) -> String {
    let words = short.iter().map(|want| match want {
        Resource::Memory => format!("less than {} of memory is available", ByteSize(limits.memory_available_bytes)),
        Resource::MemoryStalls => {
            format!("tasks stand still for want of memory for more than {} % of the time", limits.memory_stalled_percent)
        }
        Resource::Disk => disk_in_words(limits),
        Resource::Inodes => inodes_in_words(limits),
    });
    words.collect::<Vec<_>>().join("; ")
}

fn disk_in_words(limits: &PressureLimits) -> String {
    let needed = ByteSize(limits.disk_needed_bytes());
    let [free, running, job] = [limits.disk_free_bytes, limits.disk_running_bytes, limits.disk_job_bytes].map(ByteSize);
    format!("less than {needed} is free on the disk of the state directory{}", parts(&[free, running, job], ByteSize(0)))
}

fn inodes_in_words(limits: &PressureLimits) -> String {
    let needed = limits.inodes_needed();
    let of = parts(&[limits.inodes_free, limits.inodes_running, limits.inodes_job], 0);
    format!("fewer than {needed} inodes are free on the disk of the state directory{of}")
}

/// What a limit is made of: what is to stay free, what jobs that run take yet, and what a further one takes.
fn parts<T: Display + PartialEq>([free, running, job]: &[T; 3], none: T) -> String {
    if *job == none {
        return String::new();
    }
    let yet = if *running == none { String::new() } else { format!(", those that run are expected to take {running} yet") };
    let and = if yet.is_empty() { ", and" } else { " and" };
    format!(": {free} are to stay free{yet}{and} a job is expected to take {job}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// A host whose system says this, as files below a directory.
    fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, Gauge) {
        let dir = tempfile::tempdir().expect("a directory");
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            fs::write(path, text).expect("written");
        }
        let gauge = Gauge { proc: dir.path().join("proc"), groups: dir.path().join("groups"), state: dir.path().to_owned() };
        (dir, gauge)
    }

    const MEMINFO: (&str, &str) = ("proc/meminfo", "MemTotal:    8388608 kB\nMemFree: 1 kB\nMemAvailable:   4194304 kB\n");

    #[test]
    fn memory_is_what_the_host_or_the_tightest_control_group_leaves() {
        let check = |files: &[(&str, &str)], expected: u64| {
            let (_dir, gauge) = host(&[&[MEMINFO], files].concat());
            assert_eq!(gauge.memory_available(), Some(expected * MIB), "{files:?}");
        };
        check(&[], 4096);
        let unified = ("proc/self/cgroup", "0::/system.slice/sawmill.service\n");
        check(&[unified, ("groups/system.slice/sawmill.service/memory.max", "max\n")], 4096);
        // 1 GiB, of which 600 MiB are used, 100 of them by files that nobody reads.
        let group = [
            unified,
            ("groups/system.slice/sawmill.service/memory.max", "1073741824\n"),
            ("groups/system.slice/sawmill.service/memory.current", "629145600\n"),
            ("groups/system.slice/sawmill.service/memory.stat", "anon 1\ninactive_file 104857600\nactive_file 7\n"),
        ];
        check(&group, 524);
        let slice = [("groups/system.slice/memory.max", "314572800"), ("groups/system.slice/memory.current", "209715200")];
        check(&[&group[..], &slice[..]].concat(), 100);
        let old = [
            ("proc/self/cgroup", "9:name=systemd:/\n4:cpu,memory:/jobs\n0::/\n"),
            ("groups/memory/jobs/memory.limit_in_bytes", "1073741824"),
            ("groups/memory/jobs/memory.usage_in_bytes", "1073741824"),
            ("groups/memory/jobs/memory.stat", "inactive_file 1\ntotal_inactive_file 52428800\n"),
            ("groups/memory/memory.limit_in_bytes", "9223372036854771712"),
            ("groups/memory/memory.usage_in_bytes", "1073741824"),
        ];
        check(&old, 50);
    }

    #[test]
    fn stalls_are_those_of_the_host_or_of_the_own_group() {
        let text = "some avg10=55.10 avg60=0.00 avg300=0.00 total=1\nfull avg10=12.99 avg60=0.00 avg300=0.00 total=1\n";
        let (_dir, gauge) = host(&[("proc/pressure/memory", text)]);
        assert_eq!(gauge.memory_stalled(), Some(12));
        let worse = "some avg10=99.00 avg60=0.00 avg300=0.00 total=1\nfull avg10=40.00 avg60=0.00 avg300=0.00 total=1\n";
        let (_dir, gauge) =
            host(&[("proc/pressure/memory", text), ("proc/self/cgroup", "0::/a\n"), ("groups/a/memory.pressure", worse)]);
        assert_eq!(gauge.memory_stalled(), Some(40));
        let (_dir, gauge) = host(&[]);
        assert_eq!((gauge.memory_stalled(), gauge.memory_available()), (None, None));
    }

    #[test]
    fn who_is_short_is_so_until_there_is_clearly_enough() {
        let limits = PressureLimits {
            memory_available_bytes: 100,
            memory_stalled_percent: 20,
            disk_free_bytes: 900,
            disk_job_bytes: 100,
            ..PressureLimits::default()
        };
        let check = |memory: u64, stalled: u8, disk: u64, before: &[Resource], expected: &[Resource]| {
            let pressure = Pressure {
                memory_available_bytes: Some(memory),
                memory_stalled_percent: Some(stalled),
                disk_free_bytes: Some(disk),
                inodes_free: Some(0),
                limits: limits.clone(),
                shortage: None,
            };
            let found = judge(&pressure, &before.iter().copied().collect());
            assert_eq!(found, expected.iter().copied().collect(), "{memory} {stalled} {disk} {before:?}");
        };
        check(100, 20, 1000, &[], &[]);
        check(99, 21, 999, &[], &[Resource::Memory, Resource::MemoryStalls, Resource::Disk]);
        check(
            124,
            11,
            1249,
            &[Resource::Memory, Resource::MemoryStalls, Resource::Disk],
            &[Resource::Memory, Resource::MemoryStalls, Resource::Disk],
        );
        check(125, 10, 1250, &[Resource::Memory, Resource::MemoryStalls, Resource::Disk], &[]);
        // One is not the other.
        check(110, 0, 2000, &[Resource::Disk], &[]);
        let nothing_said = Pressure { limits: limits.clone(), ..Pressure::default() };
        assert!(judge(&nothing_said, &BTreeSet::new()).is_empty());
        let both = [Resource::Memory, Resource::Disk].into();
        assert_eq!(
            in_words(&both, &limits),
            "less than 100 B of memory is available; less than 1000 B is free on the disk of the state directory: 900 B are to stay free, \
             and a job is expected to take 100 B"
        );
    }
}
