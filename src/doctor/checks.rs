//! The checks one by one.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::{Finding, State, slots};
use crate::artifacts::Artifacts;
use crate::config::Config;
use crate::critic::{Critic, Critics};
use crate::daemon::Composition;
use crate::git::{Git, Strategy};
use crate::job::Label;
use crate::sandbox::{Launch, Mark, Supervisor};
use crate::store::{Store, StoreError};
use crate::worker;
use crate::workspace::StateDir;

/// Less free space than this is worth a warning, in bytes.
const LITTLE_DISK: u64 = 5 * 1024 * 1024 * 1024;

/// A difference of clocks that leases would feel.
const CLOCK_SKEW: Duration = Duration::from_secs(2);

/// This program.
pub(super) const EXECUTABLE: &str = "/proc/self/exe";

pub(super) fn good(check: &'static str, seen: impl Into<String>) -> Finding {
    Finding { check, state: State::Good, seen: seen.into(), remedy: None }
}

pub(super) fn flawed(check: &'static str, state: State, seen: impl Into<String>, remedy: &str) -> Finding {
    Finding { check, state, seen: seen.into(), remedy: Some(remedy.to_owned()) }
}

pub(super) fn git(config: &Config) -> Finding {
    match Git::open(&config.git, Path::new(EXECUTABLE), &config.worker.state_dir.join("mirrors")) {
        Ok(git) => good("git", git.version()),
        Err(error) => flawed("git", State::Bad, error.to_string(), "install git, or set git.program to where it is"),
    }
}

pub(super) fn git_lfs(config: &Config) -> Finding {
    match Git::open(&config.git, Path::new(EXECUTABLE), &config.worker.state_dir.join("mirrors")) {
        Ok(git) if git.has_lfs() => good("git-lfs", "found"),
        _ => flawed("git-lfs", State::Warning, "not found", "install git-lfs if a repository uses it"),
    }
}

/// How worktrees would be made, and why so.
pub(super) fn worktrees(composition: &Composition) -> Finding {
    let config = composition.config();
    let git = match Git::open(&config.git, Path::new(EXECUTABLE), &config.worker.state_dir.join("mirrors")) {
        Ok(git) => git,
        Err(error) => return flawed("worktrees", State::Bad, error.to_string(), "see git"),
    };
    match composition.provisioner(&git) {
        Err(error) => flawed("worktrees", State::Bad, error.to_string(), "set workspace.strategy to auto"),
        Ok(made) => {
            let private = if made.is_private() { "; sudo and its like do not work in jobs on the host" } else { "" };
            let seen = format!("by {}: {}{private}", made.strategy(), made.reason());
            let remedy = "each job goes through its whole tree; for overlays put worker.state_dir on a local ext4 or xfs, and run the \
                          worker as root or let its user make namespaces";
            let slow = made.strategy() == Strategy::Recycled && config.workspace.strategy == Strategy::Auto;
            if slow { flawed("worktrees", State::Warning, seen, remedy) } else { good("worktrees", seen) }
        }
    }
}

pub(super) fn state_directory(config: &Config) -> Finding {
    let dir = &config.worker.state_dir;
    let tried = fs::create_dir_all(dir).and_then(|()| {
        let probe = dir.join("doctor");
        fs::write(&probe, "probe")?;
        fs::remove_file(probe)
    });
    match tried {
        Ok(()) => good("state directory", dir.display().to_string()),
        Err(error) => flawed(
            "state directory",
            State::Bad,
            format!("{}: {error}", dir.display()),
            "set worker.state_dir to a directory on a local disk that this user can write",
        ),
    }
}

pub(super) fn disk(config: &Config) -> Finding {
    match StateDir::create(&config.worker.state_dir).and_then(|state| state.free_space()) {
        Ok(free) if free < LITTLE_DISK => flawed(
            "disk",
            State::Warning,
            format!("{} free for worktrees and logs", bytesize::ByteSize(free)),
            "free some space, or set worker.state_dir to a larger disk",
        ),
        Ok(free) => good("disk", format!("{} free", bytesize::ByteSize(free))),
        Err(error) => flawed("disk", State::Warning, error.to_string(), "check worker.state_dir"),
    }
}

/// What the worker offers to jobs.
pub(super) fn offer(config: &Config) -> Finding {
    let list = |labels: &[Label]| labels.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let backends = config.backends.iter().map(|(name, backend)| match list(&backend.capabilities) {
        offers if offers.is_empty() => name.clone(),
        offers => format!("{name} ({offers})"),
    });
    let labels = if config.worker.labels.is_empty() { "no labels".to_owned() } else { list(&config.worker.labels) };
    good("worker's offer", format!("{labels}; backends: {}", backends.collect::<Vec<_>>().join(", ")))
}

/// Whether a worker would claim jobs on this host as it is now.
pub(super) fn admission(config: &Config) -> Finding {
    let pressure = worker::pressure_now(&config.worker);
    let size = |bytes: u64| bytesize::ByteSize(bytes).to_string();
    let known = |value: Option<u64>| value.map_or_else(|| "unknown".to_owned(), size);
    let limits = &pressure.limits;
    let seen = format!(
        "memory {} (claims need {}), disk {} ({})",
        known(pressure.memory_available_bytes),
        size(limits.memory_available_bytes),
        known(pressure.disk_free_bytes),
        size(limits.disk_needed_bytes()),
    );
    match pressure.shortage {
        None => good("admission", seen),
        Some(shortage) => flawed(
            "admission",
            State::Warning,
            format!("no job would be claimed: {}", shortage.reason),
            "free some of it, or lower the limit in [worker.admission]",
        ),
    }
}

pub(super) async fn database(config: &Config) -> Vec<Finding> {
    let store = match Store::connect(&config.queue).await {
        Ok(store) => store,
        Err(error) => return vec![flawed("database", State::Bad, error.to_string(), "check queue.url")],
    };
    let version = store.schema_version().await;
    let skew = {
        let (ours, theirs) = (crate::clock::Timestamp::now(), store.now());
        ours.since(theirs).max(theirs.since(ours))
    };
    let broken = store.broken_rows().await;
    let mut findings = vec![
        match version {
            Ok(version) => good("database", format!("{} at schema {version}", store.label())),
            Err(error) => flawed("database", State::Bad, error.to_string(), "run sawmill migrate"),
        },
        if skew > CLOCK_SKEW {
            let seen = format!("{skew:?} apart from the database's");
            flawed(
                "clock",
                State::Warning,
                seen,
                "run an NTP client on both hosts; leases go by the database's clock all the same",
            )
        } else {
            good("clock", "in step with the database's")
        },
        rows(broken),
    ];
    findings.extend(slots::check(config, &store).await);
    store.close().await;
    findings
}

/// Whether rows of the queue contradict themselves.
fn rows(broken: Result<Vec<String>, StoreError>) -> Finding {
    const REMEDY: &str = "no statement of Sawmill writes such a row: look who else writes to this database, restore the rows or delete their \
                          jobs, and report it if nobody does";
    match broken {
        Ok(broken) if broken.is_empty() => good("queue's rows", "none contradicts itself"),
        Ok(broken) => flawed("queue's rows", State::Bad, format!("they contradict themselves: {}", broken.join(", ")), REMEDY),
        Err(error) => {
            flawed("queue's rows", State::Warning, error.to_string(), "let retention remove old jobs, or ask at a quiet hour")
        }
    }
}

/// Whether files can be kept where the configuration says.
pub(super) async fn artifacts(composition: &Composition) -> Finding {
    let (config, environment) = (composition.config(), composition.environment().variables());
    let artifacts = Artifacts::new(&config.artifacts, &config.worker.state_dir, environment);
    let seen = match tokio::time::timeout(config.artifacts.timeout, artifacts.probe()).await {
        Ok(Ok(())) => return good("artifacts", format!("{} takes and gives files", artifacts.at())),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("{} takes longer than artifacts.timeout", artifacts.at()),
    };
    let remedy = "check artifacts.store and, for a bucket, the AWS_… variables; until then jobs that require a file fail";
    flawed("artifacts", State::Bad, seen, remedy)
}

/// Whether critics have what they need to be asked. None is: that would cost something.
pub(super) fn critics(composition: &Composition) -> Vec<Finding> {
    let critics = match Critics::new(&composition.config().critics) {
        Ok(critics) => critics,
        Err(error) => return vec![flawed("critic", State::Bad, error.to_string(), "mend that section of the configuration")],
    };
    let check = |critic: &Critic| {
        let about = format!("{}: {} at {}", critic.name(), critic.config().model, critic.server());
        let state = if critic.config().required { State::Bad } else { State::Warning };
        match critic.key(composition.environment().variables()) {
            Ok(_) => good("critic", about),
            Err(why) => flawed("critic", state, format!("{about}; {why}"), "give it its key; until then it judges nothing"),
        }
    };
    critics.all().map(check).collect()
}

/// Starts a supervisor as a slot would, and ends it again.
pub(super) async fn supervisor(config: &Config) -> Finding {
    let dir = match tempfile::tempdir() {
        Ok(dir) => dir,
        Err(error) => return flawed("supervisor", State::Bad, error.to_string(), "check the directory for temporary files"),
    };
    let launch = Launch {
        executable: EXECUTABLE.into(),
        dir: dir.path().join("sup"),
        mark: Mark { worker: "doctor".to_owned(), slot: "0".to_owned() },
        orphan_after: config.queue.lease,
    };
    let tried = async { Supervisor::launch(&launch).await?.shutdown().await };
    match tried.await {
        Ok(()) => good("supervisor", "starts and ends"),
        Err(error) => {
            flawed("supervisor", State::Bad, error.to_string(), "check that /proc is mounted and processes may be started")
        }
    }
}
