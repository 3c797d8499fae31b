//! What the kernel limits for each user, and jobs run into: told before they do, with how it is raised.
//!
//! The one rule: what is needed is worked out of the configuration. What the system does not say limits nothing, and what does not bind root
//! is not held against it.

use std::fs;
use std::path::Path;

use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::geteuid;

use super::checks::{flawed, good};
use super::{Finding, State};
use crate::config::Config;
use crate::control_group;
use crate::job::spec::ContainerMode;

const CHECK: &str = "kernel limits";

/// What the jobs of a slot are taken to need at least: compilers, test runners and dev servers that watch files.
const WATCHERS_OF_A_SLOT: u64 = 16;
const WATCHES_OF_A_SLOT: u64 = 8192;
const PROCESSES_OF_A_SLOT: u64 = 256;
/// The keyrings of a container: that of its session, and what it takes to make that.
const KEYS_OF_A_CONTAINER: u64 = 4;
/// The namespaces of the worker's own user, and of what tries whether there can be one.
const USER_NAMESPACES: u64 = 8;
/// What a user has beside all that.
const SPARE: u64 = 32;

/// A limit with what is needed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Limit {
    name: &'static str,
    /// Nothing where the system has no such limit.
    is: Option<u64>,
    least: u64,
    raise: String,
}

pub(super) fn check(config: &Config) -> Finding {
    let low: Vec<Limit> = limits(config, Path::new("/proc"), geteuid().is_root()).into_iter().filter(Limit::is_low).collect();
    if low.is_empty() {
        return good(CHECK, "of namespaces, watched files, keys and processes are high enough");
    }
    let seen: Vec<String> = low.iter().map(Limit::in_words).collect();
    let raise: Vec<&str> = low.iter().map(|limit| limit.raise.as_str()).collect();
    flawed(CHECK, State::Warning, seen.join("; "), &raise.join("; "))
}

impl Limit {
    fn is_low(&self) -> bool {
        self.is.is_some_and(|is| is < self.least)
    }

    fn in_words(&self) -> String {
        format!("{} is {}, and jobs in all slots may need {}", self.name, self.is.unwrap_or(0), self.least)
    }
}

/// All limits with what this configuration needs of each.
fn limits(config: &Config, proc: &Path, root: bool) -> Vec<Limit> {
    let slots = u64::from(config.worker.slots);
    let containers = if config.container.mode == ContainerMode::Off { 0 } else { slots * (1 + u64::from(config.container.warm)) };
    let sysctl = |name: &'static str, least: u64| {
        let text = fs::read_to_string(proc.join("sys").join(name.replace('.', "/"))).ok();
        Limit {
            name,
            is: text.and_then(|text| text.trim().parse().ok()),
            least,
            raise: format!("sysctl -w {name}={}", least.next_power_of_two()),
        }
    };
    let mut found = vec![
        sysctl("fs.inotify.max_user_instances", slots * WATCHERS_OF_A_SLOT),
        sysctl("fs.inotify.max_user_watches", slots * WATCHES_OF_A_SLOT),
        sysctl("kernel.pid_max", slots * PROCESSES_OF_A_SLOT),
        sysctl("kernel.threads-max", slots * PROCESSES_OF_A_SLOT),
    ];
    found.extend(control_group(proc, slots * PROCESSES_OF_A_SLOT));
    if !root {
        found.push(sysctl("user.max_user_namespaces", USER_NAMESPACES));
        found.push(sysctl("kernel.keys.maxkeys", containers * KEYS_OF_A_CONTAINER + SPARE));
        let processes = getrlimit(Resource::RLIMIT_NPROC).ok();
        found.push(Limit {
            name: "the number of the user's processes (ulimit -u)",
            is: processes.map(|(soft, _)| soft),
            least: slots * PROCESSES_OF_A_SLOT,
            raise: "raise LimitNPROC= of the worker's unit, or nproc in /etc/security/limits.conf".to_owned(),
        });
    }
    found
}

/// How many processes the worker's own control group may have, in which jobs on the host are too.
fn control_group(proc: &Path, least: u64) -> Option<Limit> {
    let own = control_group::unified(proc)?;
    let max = fs::read_to_string(Path::new("/sys/fs/cgroup").join(own).join("pids.max")).ok()?;
    Some(Limit {
        name: "pids.max of the worker's control group",
        // "max", where there is none, is no number.
        is: max.trim().parse().ok(),
        least,
        raise: "raise TasksMax= of the worker's unit".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Environment, shipped};

    #[test]
    fn a_low_limit_is_told_with_how_it_is_raised_and_binds_whom_it_binds() {
        let proc = tempfile::tempdir().expect("a directory");
        let set = |name: &str, value: &str| {
            let file = proc.path().join("sys").join(name);
            fs::create_dir_all(file.parent().expect("a parent")).expect("made");
            fs::write(file, value).expect("written");
        };
        set("fs/inotify/max_user_instances", "128\n");
        set("fs/inotify/max_user_watches", "8192\n");
        set("kernel/keys/maxkeys", "50\n");
        set("user/max_user_namespaces", "0\n");
        let config =
            |slots: &str| shipped(&Environment::of([]), &[("worker.slots", slots.to_owned())]).expect("a configuration").config;
        let low = |slots: &str, root: bool| {
            let all = limits(&config(slots), proc.path(), root)
                .into_iter()
                .filter(|limit| limit.name != "the number of the user's processes (ulimit -u)");
            all.filter(Limit::is_low).map(|limit| format!("{}: {}", limit.in_words(), limit.raise)).collect::<Vec<_>>()
        };
        assert!(low("1", true).is_empty(), "what the system does not say limits nothing");
        assert_eq!(
            low("9", true),
            [
                "fs.inotify.max_user_instances is 128, and jobs in all slots may need 144: sysctl -w fs.inotify.max_user_instances=256",
                "fs.inotify.max_user_watches is 8192, and jobs in all slots may need 73728: sysctl -w fs.inotify.max_user_watches=131072",
            ]
        );
        assert_eq!(
            low("9", false)[2..],
            [
                "user.max_user_namespaces is 0, and jobs in all slots may need 8: sysctl -w user.max_user_namespaces=8",
                "kernel.keys.maxkeys is 50, and jobs in all slots may need 104: sysctl -w kernel.keys.maxkeys=128",
            ]
        );
    }
}
