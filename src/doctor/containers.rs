//! Whether jobs can run in containers here: the engine, the image, and a supervisor in it, tried out.

use std::time::Instant;

use super::checks::{EXECUTABLE, flawed, good};
use super::{Finding, State};
use crate::config::Config;
use crate::job::spec::ContainerMode;
use crate::sandbox::Roster;
use crate::sandbox::container::{ContainerError, Containers, ContainersSetup, Network, Use, Wish, propagates};

const CHECK: &str = "containers";

/// Makes a container as a slot would, and removes it again.
pub(super) async fn check(config: &Config) -> Finding {
    if config.container.mode == ContainerMode::Off {
        return good(CHECK, "off: jobs that do not ask for one run on the host");
    }
    match try_one(config).await {
        Ok(seen) => good(CHECK, seen),
        Err(Trouble::Open(why)) => {
            flawed(CHECK, State::Bad, why, "no job runs in containers until then, and none on the host instead")
        }
        Err(Trouble::NoContainer(why)) if config.container.mode == ContainerMode::On => {
            flawed(CHECK, State::Bad, why, "mend that, or set container.mode to \"auto\" or \"off\"")
        }
        Err(Trouble::NoContainer(why)) => {
            let seen = format!("jobs run on the host: {why}");
            flawed(CHECK, State::Warning, seen, "mend that, or set container.mode to \"off\"")
        }
    }
}

/// Why a job would get no container here.
enum Trouble {
    /// There is none to be had.
    NoContainer(String),
    /// Its network could not be closed as is configured.
    Open(String),
}

async fn try_one(config: &Config) -> Result<String, Trouble> {
    let said = |error: std::io::Error| Trouble::NoContainer(error.to_string());
    // Beside the slots, because the engine must see the very disk that they are on.
    std::fs::create_dir_all(&config.worker.state_dir).map_err(said)?;
    let state = tempfile::Builder::new().prefix("doctor-").tempdir_in(&config.worker.state_dir).map_err(said)?;
    let path = state.path().canonicalize().map_err(said)?;
    let job_dir = path.join("job");
    std::fs::create_dir(&job_dir).map_err(said)?;
    let mut settings = config.container.clone();
    settings.warm = 0;
    let containers = Containers::open(ContainersSetup {
        config: settings,
        worker: "doctor".to_owned(),
        state: path.clone(),
        executable: EXECUTABLE.into(),
        orphan_after: config.queue.lease,
        roster: Roster::default(),
    });
    let containers = containers.map_err(said)?;
    let begun = Instant::now();
    let wish = Wish { slot: 0, tree: job_dir.clone(), job_dir, image: None, objects: Vec::new() };
    let taken = containers.take(&wish).await.map_err(|error| match error {
        ContainerError::Open { .. } => Trouble::Open(error.to_string()),
        _ => Trouble::NoContainer(error.to_string()),
    });
    let took = begun.elapsed();
    let tried = match taken {
        Ok(lodging) => {
            let opened = containers.open_egress(&lodging.container, |_| ()).await;
            let image = lodging.container.image().to_owned();
            containers.give_back(0, lodging.container, Use::Clean);
            opened.map(|_| image).map_err(|error| Trouble::Open(error.to_string()))
        }
        Err(trouble) => Err(trouble),
    };
    containers.close().await;
    let image = tried?;
    let listed = config.container.egress.iter().count();
    let network = match config.container.network {
        Network::None => "no network".to_owned(),
        Network::AllowList => format!("no network but a way to the {listed} that container.egress lists"),
        Network::Bridge => format!("a bridge, closed to private addresses but for {listed} in container.egress"),
    };
    let mounts = match (propagates(&path), nix::unistd::geteuid().is_root()) {
        (true, _) => "",
        (false, true) => "; worktrees that are mounts are shown to each by this worker",
        (false, false) => "; worktrees that are mounts cannot be shown to them: share the mount that worker.state_dir is on",
    };
    let short = |digest: String| digest.chars().take(19).collect::<String>();
    let name = &config.container.image;
    Ok(format!("{name} ({}) starts in {} ms, with {network}{mounts}", short(image), took.as_millis()))
}
