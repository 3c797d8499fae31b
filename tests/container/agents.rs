//! What the default image brings, as `sawmill doctor` says it to who has configured nothing of it.

use std::fs::File;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};

use crate::delivery::host::{Host, Lodging, On};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn doctor_asks_the_agents_of_the_default_image_that_are_not_configured() {
    let mut host = Host::new(On::Sqlite, Duration::from_secs(600), 1).await.lodge(Lodging::InContainers).await;
    // As an operator has it who has changed nothing; other tests build the image too.
    host.unset("SAWMILL_CONTAINER__IMAGE");
    let lock = File::create(std::env::temp_dir().join("sawmill-test-agents.lock")).expect("a lock");
    let lock = tokio::task::spawn_blocking(|| Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error));
    let lock = lock.await.expect("waited").expect("locked");
    host.sawmill(&["images", "build"]);
    drop(lock);

    let told = |host: &Host| {
        let doctor = host.sawmill(&["doctor"]);
        let found = doctor.as_array().into_iter().flatten().find(|one| one["check"] == "agents").cloned();
        let found = found.unwrap_or_else(|| panic!("{doctor}"));
        assert_eq!(found["state"], "ready", "{doctor}");
        found["seen"].as_str().expect("a sentence").to_owned()
    };
    let pinned = |pin: &str| {
        let dockerfile = include_str!("../../docker/Dockerfile");
        dockerfile.split_once(&format!("ARG {pin}=")).and_then(|(_, rest)| rest.lines().next()).expect("a version")
    };
    let all = [
        ("claude_code", "CLAUDE_CODE"),
        ("openai_codex", "CODEX"),
        ("miniswe", "MINI_SWE_AGENT"),
        ("openhands", "OPENHANDS_SDK"),
    ];
    let seen = told(&host);
    for (kind, pin) in all {
        assert!(seen.contains(&format!("{kind} {}", pinned(pin))), "{seen}");
    }
    host.set("SAWMILL_BACKENDS__MINE__KIND", "claude_code");
    let seen = told(&host);
    assert!(!seen.contains("claude_code") && seen.contains("miniswe"), "{seen}");
    host.close(Vec::new()).await;
}
