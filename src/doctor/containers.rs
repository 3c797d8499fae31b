//! Whether jobs can run in containers here: the engine, the image, and a supervisor in it, tried out.

use std::path::Path;
use std::time::{Duration, Instant};

use super::checks::{EXECUTABLE, flawed, good};
use super::{Finding, State, Stop};
use crate::config::Config;
use crate::job::spec::ContainerMode;
use crate::namespace;
use crate::sandbox::Roster;
use crate::sandbox::container::{
    ContainerError, Containers, ContainersSetup, Freshness, Images, Lodging, Network, Use, Visit, Wish, propagates,
};

const CHECK: &str = "containers";

/// Makes a container as a slot would, and removes it again.
pub(super) async fn check(config: &Config, stop: &Stop) -> Finding {
    if config.container.mode == ContainerMode::Off {
        return good(CHECK, "off: jobs that do not ask for one run on the host");
    }
    match try_one(config, stop).await {
        Ok(seen) => with_freshness(config, seen).await,
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

/// Says that the image is stale, where it was built here and is.
async fn with_freshness(config: &Config, seen: String) -> Finding {
    let judged = async { Images::connect(&config.container.socket).await?.freshness(&config.container.image).await };
    match judged.await {
        Ok(Some(Freshness::Stale { base })) => {
            let seen = format!("{seen}; the image is stale: another one would be built today");
            let remedy = format!("build it anew with {}", Freshness::command(base.as_deref()));
            flawed(CHECK, State::Warning, seen, &remedy)
        }
        // A container of it has just been made.
        _ => good(CHECK, seen),
    }
}

/// Why a job would get no container here.
pub(super) enum Trouble {
    /// There is none to be had.
    NoContainer(String),
    /// Its network could not be closed as is configured.
    Open(String),
}

/// How long a program in a container may take to answer.
pub(super) const EXPECTED_TO_ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// Makes a container as a slot would, has something done with it and with the directory that it is of, and removes both again; at once
/// where all is to stop.
pub(super) async fn lodge<T>(
    config: &Config,
    stop: &Stop,
    visit: impl AsyncFnOnce(&Path, &Lodging) -> Result<T, Trouble>,
) -> Result<T, Trouble> {
    let said = |error: std::io::Error| Trouble::NoContainer(error.to_string());
    let stopped = || Trouble::NoContainer("somebody asked for the end of this".to_owned());
    // Goes after everything that is made here.
    let _lodges = stop.lodge().await;
    // Beside the slots, because the engine must see the very disk that they are on.
    std::fs::create_dir_all(&config.worker.state_dir).map_err(said)?;
    let place = Visit::begin(&config.worker.state_dir).map_err(said)?;
    let path = place.path().to_owned();
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
    let wish = Wish { slot: 0, tree: job_dir.clone(), job_dir, image: None, objects: Vec::new() };
    let taken = tokio::select! {
        taken = containers.take(&wish) => taken.map_err(|error| match error {
            ContainerError::Open { .. } => Trouble::Open(error.to_string()),
            _ => Trouble::NoContainer(error.to_string()),
        }),
        () = stop.asked() => Err(stopped()),
    };
    let tried = match taken {
        Ok(lodging) => {
            let visited = async {
                let opened = containers.open_egress(&lodging.container, |_| ()).await;
                let _open = opened.map_err(|error| Trouble::Open(error.to_string()))?;
                visit(&path, &lodging).await
            };
            let visited = tokio::select! {
                visited = visited => visited,
                () = stop.asked() => Err(stopped()),
            };
            containers.give_back(0, lodging.container, Use::Clean);
            visited
        }
        Err(trouble) => Err(trouble),
    };
    containers.close().await;
    if let Err(error) = place.end() {
        tracing::warn!("{} stays, until somebody reconciles: {error}", path.display());
    }
    tried
}

async fn try_one(config: &Config, stop: &Stop) -> Result<String, Trouble> {
    let begun = Instant::now();
    let (shared, container, took) =
        lodge(config, stop, async |state, lodging| Ok((propagates(state), lodging.container.clone(), begun.elapsed()))).await?;
    let listed = config.container.egress.iter().count();
    let network = match config.container.network {
        Network::None => "no network".to_owned(),
        Network::AllowList => format!("no network but a way to the {listed} that container.egress lists"),
        Network::Bridge => format!("a bridge, closed to private addresses but for {listed} in container.egress"),
    };
    let mounts = match (shared, nix::unistd::geteuid().is_root()) {
        _ if namespace::is_private() => "; worktrees of jobs in them are recycled, since they do not see what this worker mounts",
        (true, _) => "",
        (false, true) => "; worktrees that are mounts are shown to each by this worker",
        (false, false) => "; worktrees that are mounts cannot be shown to them: share the mount that worker.state_dir is on",
    };
    let program = if container.brings_libraries() { "with this host's C library" } else { "linked statically" };
    let digest = container.image().chars().take(19).collect::<String>();
    let name = &config.container.image;
    Ok(format!(
        "{name} ({digest}) starts in {} ms, with {network}{mounts}; its supervisor is this program, {program}",
        took.as_millis()
    ))
}
