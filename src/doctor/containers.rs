//! Whether jobs can run in containers here: the engine, the image, and a supervisor in it, tried out.

use std::time::Instant;

use super::checks::{EXECUTABLE, flawed, good};
use super::{Finding, State};
use crate::config::Config;
use crate::job::spec::ContainerMode;
use crate::sandbox::Roster;
use crate::sandbox::container::{Containers, ContainersSetup, Use, Wish, propagates};

const CHECK: &str = "containers";

/// Makes a container as a slot would, and removes it again.
pub(super) async fn check(config: &Config) -> Finding {
    if config.container.mode == ContainerMode::Off {
        return good(CHECK, "off: jobs that do not ask for one run on the host");
    }
    match try_one(config).await {
        Ok(seen) => good(CHECK, seen),
        Err(why) if config.container.mode == ContainerMode::On => {
            flawed(CHECK, State::Bad, why, "mend that, or set container.mode to \"auto\" or \"off\"")
        }
        Err(why) => {
            let seen = format!("jobs run on the host: {why}");
            flawed(CHECK, State::Warning, seen, "mend that, or set container.mode to \"off\"")
        }
    }
}

async fn try_one(config: &Config) -> Result<String, String> {
    let said = |error: std::io::Error| error.to_string();
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
    let taken = containers.take(&wish).await.map_err(|error| error.to_string());
    let took = begun.elapsed();
    let image = taken.map(|lodging| {
        let image = lodging.container.image().to_owned();
        containers.give_back(0, lodging.container, Use::Clean);
        image
    });
    containers.close().await;
    let mounts = match (propagates(&path), nix::unistd::geteuid().is_root()) {
        (true, _) => "",
        (false, true) => "; worktrees that are mounts are shown to each by this worker",
        (false, false) => "; worktrees that are mounts cannot be shown to them: share the mount that worker.state_dir is on",
    };
    let short = |digest: String| digest.chars().take(19).collect::<String>();
    Ok(format!("{} ({}) starts in {} ms{mounts}", config.container.image, short(image?), took.as_millis()))
}
