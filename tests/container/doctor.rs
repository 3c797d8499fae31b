//! `sawmill doctor` makes a container, and leaves none.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use bollard::query_parameters::ListContainersOptionsBuilder;
use nix::sys::signal::Signal;

use super::image;
use crate::crash::LONG;
use crate::delivery::daemon::Seat;
use crate::delivery::host::{Host, Lodging, On, until};

/// The directories below a state directory in which a doctor is at work.
fn places(state: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(state).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("doctor-"))).collect()
}

/// The containers that a doctor made below a state directory.
async fn made_below(state: &Path) -> Vec<String> {
    let filters = HashMap::from([("label".to_owned(), vec!["sawmill.worker=doctor".to_owned()])]);
    let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
    let found = image::docker().await.list_containers(Some(options)).await.expect("containers can be listed");
    let below = |one: &bollard::models::ContainerSummary| {
        one.labels.as_ref().and_then(|labels| labels.get("sawmill.state")).is_some_and(|of| Path::new(of).starts_with(state))
    };
    found.into_iter().filter(below).filter_map(|one| one.names?.first().cloned()).collect()
}

/// A host with a backend whose program takes for ever to answer.
async fn host() -> Host {
    let mut host = Host::new(On::Sqlite, LONG, 1).await.lodge(Lodging::InContainers).await;
    host.set("SAWMILL_BACKENDS__SLOW__KIND", "claude_code");
    host.set("SAWMILL_BACKENDS__SLOW__COMMAND", r#"["sh", "-c", "sleep 1000"]"#);
    host
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_doctor_that_is_interrupted_leaves_no_container_and_no_directory() {
    let host = host().await;
    let state = host.state_dir("a");
    for (args, signal) in
        [(["doctor"].as_slice(), Signal::SIGINT), (&["doctor"], Signal::SIGTERM), (&["backends", "list"], Signal::SIGINT)]
    {
        let mut doctor = host.spawn_at(&Seat::of("a"), args);
        until("the program is asked in a container", async || {
            assert_eq!(doctor.ended(), None, "{}", doctor.log());
            places(&state).iter().any(|place| place.join("probe.out").exists())
        })
        .await;
        assert_eq!(made_below(&state).await.len(), 1);
        doctor.signal(signal);
        assert_eq!(doctor.exit().await.code(), Some(130), "{args:?} {signal}");
        assert_eq!((made_below(&state).await, places(&state)), (Vec::new(), Vec::new()), "{args:?} {signal}");
    }
    host.close(Vec::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_doctor_leaves_that_is_killed_goes_when_somebody_reconciles() {
    let host = host().await;
    let state = host.state_dir("a");
    let doctor = host.spawn_at(&Seat::of("a"), &["doctor"]);
    until("the program is asked in a container", async || places(&state).iter().any(|place| place.join("probe.out").exists()))
        .await;
    let fates = |args: &[&str]| {
        let found = host.sawmill_at("a", &[&["reconcile"], args].concat());
        let findings = found["findings"].as_array().expect("a list").iter().map(|one| {
            let word = |key: &str| one[key].as_str().expect("a word").to_owned();
            (word("kind"), word("fate"))
        });
        findings.filter(|(kind, _)| kind.starts_with("container")).collect::<Vec<_>>()
    };
    let both = |fate: &str| ["container", "container_dir"].map(|kind| (kind.to_owned(), fate.to_owned())).to_vec();
    assert_eq!(fates(&[]), both("stays"), "it lives");
    doctor.kill();
    assert_eq!(fates(&["--apply"]), both("removed"));
    assert_eq!((made_below(&state).await, places(&state)), (Vec::new(), Vec::new()));
    host.close(Vec::new()).await;
}
