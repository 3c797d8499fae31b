//! Finding every process that descends from this one, and signalling exactly those.
//!
//! A supervisor is a child subreaper: whoever daemonises, by double fork or by `setsid`, becomes its child when the
//! parent ends, so the chain of parents in `/proc` always leads here.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::super::kernel;
use super::super::ledger::ProcessName;
use crate::process_stat::{Stat, pids};

/// How much of a command line goes to the daemon. It knows the secrets that may be in it, and cuts it after it has taken them out.
pub(super) const LINE_CHARACTERS: usize = 4096;

/// A process, and what is known of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Process {
    pub(super) name: ProcessName,
    pub(super) stat: Stat,
}

/// All descendants of this process at about this moment, zombies included. Who forks while this looks can be missed,
/// so who wants all of them looks until nothing new is found.
pub(super) fn all() -> Vec<Process> {
    Census::default().count()
}

/// Repeated looks at the descendants that pass over processes already known to be somebody else's: cheap enough for
/// five times a second on a host with thousands of processes.
#[derive(Default)]
pub(super) struct Census {
    foreign: BTreeSet<i32>,
    counts: u32,
}

impl Census {
    /// A number can pass from a foreign process to one of ours, so now and then everybody is looked at again.
    const COUNTS_BEFORE_FORGETTING: u32 = 25;

    pub(super) fn count(&mut self) -> Vec<Process> {
        if self.counts.is_multiple_of(Self::COUNTS_BEFORE_FORGETTING) {
            self.foreign.clear();
        }
        self.counts = self.counts.wrapping_add(1);
        let own = std::process::id().cast_signed();
        let table = table(|pid| pid != own && !self.foreign.contains(&pid));
        let below = below(&table, &[own]);
        let (ours, others): (Vec<Process>, Vec<Process>) = table.values().partition(|p| below.contains(&p.name.pid));
        // One whose parent is missing from the table may be ours: the parent could have ended while we looked.
        let known = others
            .iter()
            .filter(|p| p.stat.parent == 0 || table.contains_key(&p.stat.parent) || self.foreign.contains(&p.stat.parent));
        let known: Vec<i32> = known.map(|p| p.name.pid).collect();
        self.foreign.extend(known);
        ours
    }
}

/// Sends a signal to this process, and to no other that has taken its number since.
pub(super) fn signal(process: ProcessName, signal: Signal) {
    kernel::signal(process.pid, signal, || is(process));
}

/// Whether this very process exists.
pub(in crate::sandbox) fn is(process: ProcessName) -> bool {
    stat(process.pid).is_some_and(|found| found.name == process)
}

/// Stops every descendant until no new one appears, then kills all of them: a process that forks as fast as it can
/// does not outrun this. It gives up looking for new ones after a second, for the next round to go on.
pub(super) fn kill_all() {
    const LOOK_FOR: Duration = Duration::from_secs(1);
    if everybody(Signal::SIGKILL) {
        return;
    }
    let begun = Instant::now();
    let mut met = BTreeSet::new();
    loop {
        let fresh: Vec<Process> = all().into_iter().filter(|process| met.insert(process.name)).collect();
        if fresh.is_empty() || begun.elapsed() > LOOK_FOR {
            break;
        }
        fresh.into_iter().filter(|process| !process.stat.has_ended()).for_each(|process| signal(process.name, Signal::SIGSTOP));
    }
    // The zombies too: one may be the first thread of a process that goes on without it.
    met.into_iter().for_each(|name| signal(name, Signal::SIGKILL));
}

/// Asks every descendant to end, and wakes the stopped ones so that they can.
pub(super) fn terminate_all() {
    if everybody(Signal::SIGTERM) {
        everybody(Signal::SIGCONT);
        return;
    }
    for process in all().into_iter().filter(|process| !process.stat.has_ended()) {
        signal(process.name, Signal::SIGTERM);
        signal(process.name, Signal::SIGCONT);
    }
}

/// Whether every process that can be seen is ours: in a container, of which this is the first process.
pub(super) fn are_everybody() -> bool {
    std::process::id() == 1
}

/// Signals every other process at one moment, where all of them are ours. False where they are not.
fn everybody(signal: Signal) -> bool {
    if are_everybody() {
        // An error says that there is none.
        kill(Pid::from_raw(-1), signal).ok();
    }
    are_everybody()
}

/// The name of the process that has this number now.
pub(in crate::sandbox) fn name_of(pid: i32) -> Option<ProcessName> {
    stat(pid).map(|process| process.name)
}

/// Ends these processes, those that have `mark` in their environment, and what descends from them now, although they are
/// not ours to wait for. False when some are left after a number of rounds.
pub(in crate::sandbox) fn end_foreign(roots: &[ProcessName], mark: &str) -> bool {
    const ROUNDS: u32 = 100;
    const BETWEEN_ROUNDS: Duration = Duration::from_millis(10);
    let mut meant: BTreeSet<ProcessName> = roots.iter().copied().collect();
    for _ in 0..ROUNDS {
        let table = table(|_| true);
        meant.extend(table.values().map(|process| process.name).filter(|name| is_marked(*name, mark)));
        let living: Vec<i32> = meant
            .iter()
            .filter(|name| table.get(&name.pid).is_some_and(|p| p.name == **name && !p.stat.has_ended()))
            .map(|name| name.pid)
            .collect();
        if living.is_empty() {
            return true;
        }
        meant.extend(below(&table, &living).iter().map(|pid| table[pid].name));
        meant.iter().for_each(|name| signal(*name, Signal::SIGSTOP));
        meant.iter().for_each(|name| signal(*name, Signal::SIGKILL));
        sleep(BETWEEN_ROUNDS);
    }
    false
}

/// Whether this very process has the mark as a variable of its environment, as it was when its program started.
fn is_marked(process: ProcessName, mark: &str) -> bool {
    let environment = fs::read(format!("/proc/{}/environ", process.pid)).unwrap_or_default();
    environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes()) && is(process)
}

/// The command line of a process, cut at `characters`; its name in brackets when it has none.
pub(super) fn command_line(process: ProcessName, characters: usize) -> Option<String> {
    let raw = fs::read(format!("/proc/{}/cmdline", process.pid)).ok()?;
    let text = String::from_utf8_lossy(&raw);
    let mut line: String = text.trim_end_matches('\0').replace('\0', " ").chars().take(characters).collect();
    if line.is_empty() {
        line = format!("[{}]", fs::read_to_string(format!("/proc/{}/comm", process.pid)).ok()?.trim_end());
    }
    is(process).then_some(line)
}

/// The numbers of all that descend from one of these, themselves not counted. It takes time in proportion to the table,
/// however deep the tree is.
fn below(table: &BTreeMap<i32, Process>, roots: &[i32]) -> BTreeSet<i32> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for process in table.values() {
        children.entry(process.stat.parent).or_default().push(process.name.pid);
    }
    let mut found = BTreeSet::new();
    let mut ahead = roots.to_vec();
    while let Some(next) = ahead.pop() {
        // A table read over a while is no tree for certain; whom we have met is not followed again.
        ahead.extend(children.remove(&next).into_iter().flatten().filter(|child| found.insert(*child)));
    }
    found
}

/// The processes of the host whose number is `wanted`.
fn table(wanted: impl Fn(i32) -> bool) -> BTreeMap<i32, Process> {
    pids().filter(|pid| wanted(*pid)).filter_map(stat).map(|process| (process.name.pid, process)).collect()
}

fn stat(pid: i32) -> Option<Process> {
    let stat = Stat::of(pid)?;
    Some(Process { name: ProcessName { pid, began: stat.began }, stat })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_descendants_are_found_at_any_depth_and_a_circle_ends() {
        let process = |pid, parent| {
            let name = ProcessName { pid, began: 0 };
            let stat = Stat { state: 'S', parent, group: pid, cpu_ticks: 0, began: 0, rss_pages: 0 };
            (pid, Process { name, stat })
        };
        let chain = (2..100_000).map(|pid| process(pid, pid - 1));
        let table: BTreeMap<i32, Process> = chain.chain([process(200_001, 200_002), process(200_002, 200_001)]).collect();
        assert_eq!(below(&table, &[1]).len(), 99_998);
        assert_eq!(below(&table, &[99_998]), [99_999].into());
        assert_eq!(below(&table, &[200_001]), [200_001, 200_002].into());
        assert!(below(&table, &[300_000]).is_empty());
    }
}
