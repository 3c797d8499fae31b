//! Which backends could run here, found out by having each say its version: on the host, and in the image of jobs.
//!
//! The one rule: a probe finds what a job would find. It has the environment of a job's command, without the secrets.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde::Serialize;

use super::Stop;
use super::containers::{EXPECTED_TO_ANSWER_WITHIN, Trouble, lodge};
use crate::backends::{Backend, Registry};
use crate::config::{Config, Environment};
use crate::job::spec::ContainerMode;
use crate::sandbox::container::Lodging;
use crate::sandbox::{End, ExitReport};

/// How long a program may take to say its version: some are large, and are read from the disk first.
const WITHIN: Duration = EXPECTED_TO_ANSWER_WITHIN;

/// What was found of one backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Probed {
    pub(super) backend: String,
    /// On the host; none where no job runs there, or there is nothing to ask.
    pub(super) host: Option<Found>,
    /// In the image; none where no job runs there, there is nothing to ask, or there is no container to be had.
    pub(super) image: Option<Found>,
}

/// The version that a program said, or why it said none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Found {
    Version(String),
    Not(String),
}

/// Asks all backends.
pub(super) async fn all(config: &Config, environment: &Environment, backends: &Registry, stop: &Stop) -> Vec<Probed> {
    let mut found: Vec<Probed> =
        backends.names().into_iter().map(|backend| Probed { backend, host: None, image: None }).collect();
    let asked = asked(backends);
    if asked.is_empty() {
        return found;
    }
    if config.container.mode != ContainerMode::On {
        for (at, argv, backend) in &asked {
            found[*at].host = Some(on_host(config, environment, backend, argv).await);
        }
    }
    if config.container.mode != ContainerMode::Off {
        for (at, there) in in_containers(config, &asked, stop).await {
            found[at].image = Some(there);
        }
    }
    found
}

/// Asks backends in the image of jobs that name none, whether a job would run there or not; nothing where there is no container to be had.
pub(super) async fn in_image_alone(config: &Config, backends: &Registry, stop: &Stop) -> Vec<(String, Found)> {
    let names = backends.names();
    in_containers(config, &asked(backends), stop).await.into_iter().map(|(at, found)| (names[at].clone(), found)).collect()
}

/// Those of which a program can be asked: their place among all, and how.
fn asked(backends: &Registry) -> Vec<(usize, Vec<String>, &Backend)> {
    backends.all().enumerate().filter_map(|(at, backend)| Some((at, backend.probe()?, backend))).collect()
}

async fn in_containers(config: &Config, asked: &[(usize, Vec<String>, &Backend)], stop: &Stop) -> Vec<(usize, Found)> {
    let mut found = Vec::new();
    // A container takes its time to start.
    if asked.is_empty() {
        return found;
    }
    // Why there is no container is said by the check of containers.
    let _said_elsewhere: Option<Trouble> = lodge(config, stop, async |state, lodging| {
        for (at, argv, backend) in asked {
            found.push((*at, in_image(state, lodging, backend, argv).await));
        }
        Ok(())
    })
    .await
    .err();
    found
}

async fn on_host(config: &Config, environment: &Environment, backend: &Backend, argv: &[String]) -> Found {
    let Ok(home) = tempfile::tempdir() else { return Found::Not("no directory for temporary files".to_owned()) };
    let mut command = tokio::process::Command::new(&argv[0]);
    command.args(&argv[1..]).env_clear().env("HOME", home.path()).stdin(Stdio::null()).kill_on_drop(true);
    command.envs(config.sandbox.env_allow.iter().filter_map(|name| Some((name, environment.get(name)?))));
    match tokio::time::timeout(WITHIN, command.output()).await {
        Err(_) => Found::Not(format!("{} does not answer within {} s", argv[0], WITHIN.as_secs())),
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => Found::Not(format!("{} is not installed", argv[0])),
        Ok(Err(error)) => Found::Not(format!("{} cannot be started: {error}", argv[0])),
        Ok(Ok(output)) => judge(backend, argv, output.status.success(), &String::from_utf8_lossy(&output.stdout)),
    }
}

async fn in_image(state: &Path, lodging: &Lodging, backend: &Backend, argv: &[String]) -> Found {
    let out = state.join("probe.out");
    let found = match lodging.run("probe", argv, (&out, &state.join("probe.err")), WITHIN).await {
        Err(error) => Found::Not(error.to_string()),
        Ok(ExitReport { end: End::NotStarted(_), .. }) => Found::Not(format!("{} is not in the image", argv[0])),
        Ok(report) => {
            let said = std::fs::read_to_string(&out).unwrap_or_default();
            judge(backend, argv, report.end == End::Exited(0), &said)
        }
    };
    // The next one appends to a file that is there.
    std::fs::remove_file(out).ok();
    found
}

fn judge(backend: &Backend, argv: &[String], succeeded: bool, said: &str) -> Found {
    match version_in(said) {
        Some(version) if succeeded => match backend.version() {
            Some(expected) if expected != version => Found::Not(format!("{} is {version}, and {expected} is expected", argv[0])),
            _ => Found::Version(version),
        },
        _ => Found::Not(format!("{} does not say its version", argv.join(" "))),
    }
}

/// The first thing in a text that reads as a version.
fn version_in(text: &str) -> Option<String> {
    let words = text.split(|c: char| c.is_whitespace() || "(),".contains(c));
    let mut words = words.map(|word| word.strip_prefix('v').unwrap_or(word));
    let is_version = |word: &&str| word.starts_with(|c: char| c.is_ascii_digit()) && word.split('.').count() >= 2;
    words.find(is_version).map(|word| word.trim_end_matches('.').to_owned())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::shipped;

    #[tokio::test]
    async fn no_container_is_started_to_ask_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = dir.path().join("state");
        let at = |path: &Path| path.to_str().expect("UTF-8").to_owned();
        let flags = [("worker.state_dir", at(&state)), ("container.socket", at(&dir.path().join("none")))];
        let config = shipped(&Environment::default(), &flags).expect("a configuration").config;
        let none = Registry::new(&BTreeMap::new()).expect("no backends");
        assert_eq!(in_image_alone(&config, &none, &Stop::default()).await, []);
        assert!(!state.exists(), "what a container needs was made");
    }

    #[test]
    fn a_version_is_found_in_what_agents_say() {
        let check = |said: &str, expected: Option<&str>| assert_eq!(version_in(said).as_deref(), expected, "{said}");
        check("2.1.197 (Claude Code)\n", Some("2.1.197"));
        check("codex-cli 0.169.0\n", Some("0.169.0"));
        check("This is mini-swe-agent version 2.4.6.\nCheck the v2 migration guide", Some("2.4.6"));
        check("Usage: mini [OPTIONS]", None);
    }
}
