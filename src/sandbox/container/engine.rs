//! Docker's API, as far as it is used here. Podman's socket answers to the same.
//!
//! The one rule: a container gets what is listed in [`Engine::create`], and nothing else of the host.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, io};

use bollard::errors::Error;
use bollard::models::{
    ContainerCreateBody, HealthConfig, HostConfig, Mount, MountBindOptions, MountBindOptionsPropagationEnum, MountType,
};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, ListContainersOptionsBuilder, ListNetworksOptionsBuilder, ListVolumesOptionsBuilder,
    LogsOptionsBuilder, RemoveContainerOptionsBuilder, RemoveVolumeOptions,
};
use bollard::{API_DEFAULT_VERSION, Docker};
use futures_util::StreamExt;
use tokio::time::sleep;

use super::error::ContainerError;
use super::inside;
use super::mounts::propagates;
use super::recipe::Blueprint;
use crate::sandbox::supervisor::INSIDE_SUBCOMMAND;

/// How long the engine may take to answer; and to make, start or remove a container, for which it waits until the disk has written
/// what others wrote: an overlay is not taken off before.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
const WORK_WITHIN: Duration = Duration::from_secs(300);

/// How long somebody else's removal of a container is waited for.
const REMOVED_WITHIN: Duration = Duration::from_secs(30);
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(20);

/// What the first process may do until it gives all of it up: close the way to the supervisor's directory, enter that, become the job's
/// user, and take these very privileges from itself and its children for good.
const FIRST_CAPABILITIES: [&str; 5] = ["CHOWN", "DAC_OVERRIDE", "SETGID", "SETPCAP", "SETUID"];

/// An engine, by its socket. No connection is held open.
#[derive(Debug, Clone)]
pub(super) struct Engine {
    docker: Docker,
    /// The same, with more time for what takes more.
    patient: Docker,
    socket: PathBuf,
}

/// An image that the engine has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Image {
    /// Its digest, which names this very content.
    pub(super) digest: String,
    /// What it sets in the environment of its programs.
    pub(super) env: Vec<(String, String)>,
    /// Its labels.
    pub(super) labels: HashMap<String, String>,
}

/// A container that carries a label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) name: String,
    pub(super) labels: HashMap<String, String>,
}

impl Engine {
    /// The engine at this socket, whether or not it answers now.
    pub(super) fn at(socket: &Path) -> Result<Self, ContainerError> {
        let unreachable = |why: String| ContainerError::Unreachable { socket: socket.to_owned(), why };
        let path = socket.to_str().ok_or_else(|| unreachable("its path is not UTF-8".to_owned()))?;
        // The client takes a socket in a directory that this user may not look into for none.
        if let Err(error) = fs::metadata(socket)
            && error.kind() == io::ErrorKind::PermissionDenied
        {
            return Err(unreachable(error.to_string()));
        }
        let docker = Docker::connect_with_unix(path, ANSWER_WITHIN.as_secs(), API_DEFAULT_VERSION);
        Ok(Self::with(docker.map_err(|error| unreachable(error.to_string()))?, socket.to_owned()))
    }

    fn with(docker: Docker, socket: PathBuf) -> Self {
        Self { patient: docker.clone().with_timeout(WORK_WITHIN), docker, socket }
    }

    /// The same, speaking a version of the API that it knows.
    pub(super) async fn greet(self) -> Result<Self, ContainerError> {
        let Self { docker, socket, .. } = self;
        match docker.negotiate_version().await {
            Ok(docker) => Ok(Self::with(docker, socket)),
            Err(Error::RequestTimeoutError) => {
                Err(ContainerError::Slow { socket, what: "tell its version".to_owned(), within: ANSWER_WITHIN })
            }
            Err(error) => Err(ContainerError::Unreachable { socket, why: error.to_string() }),
        }
    }

    /// Asks whether it is there.
    pub(super) async fn ping(&self) -> Result<(), ContainerError> {
        self.docker.ping().await.map(drop).map_err(|error| self.failed("answer".to_owned(), &error))
    }

    /// An image, by its tag or its digest.
    pub(super) async fn image(&self, name: &str) -> Result<Image, ContainerError> {
        let found = match self.docker.inspect_image(name).await {
            Ok(found) => found,
            Err(error) if status(&error) == Some(404) => return Err(ContainerError::NoImage { image: name.to_owned() }),
            Err(error) => return Err(self.failed(format!("look for image {name}"), &error)),
        };
        let config = found.config.unwrap_or_default();
        let (env, labels) = (config.env.unwrap_or_default(), config.labels.unwrap_or_default());
        let pair = |line: String| line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
        Ok(Image { digest: found.id.unwrap_or_default(), env: env.into_iter().filter_map(pair).collect(), labels })
    }

    /// Makes a container and starts it.
    pub(super) async fn create(&self, blueprint: &Blueprint<'_>) -> Result<(), ContainerError> {
        let options = CreateContainerOptionsBuilder::default().name(blueprint.name).build();
        match self.patient.create_container(Some(options), body(blueprint)).await {
            Ok(_) => {}
            Err(error) if status(&error) == Some(404) => {
                return Err(ContainerError::NoImage { image: blueprint.recipe.image.clone() });
            }
            Err(error) => return Err(self.failed_within(WORK_WITHIN, format!("make container {}", blueprint.name), &error)),
        }
        let started = self.patient.start_container(blueprint.name, None).await;
        started.map_err(|error| self.failed_within(WORK_WITHIN, format!("start container {}", blueprint.name), &error))
    }

    /// How it ended, where it does not run any more: its last words and its exit status.
    pub(super) async fn ended(&self, name: &str) -> Result<Option<String>, ContainerError> {
        let inspected = self.docker.inspect_container(name, None).await;
        let inspected = inspected.map_err(|error| self.failed(format!("look at container {name}"), &error))?;
        let state = inspected.state.unwrap_or_default();
        if state.running == Some(true) {
            return Ok(None);
        }
        let options = LogsOptionsBuilder::default().stdout(true).stderr(true).tail("5").build();
        let mut logs = self.docker.logs(name, Some(options));
        let mut said = String::new();
        while let Some(Ok(line)) = logs.next().await {
            said.push_str(&line.to_string());
        }
        let status = state.exit_code.map_or_else(|| "no status".to_owned(), |code| format!("status {code}"));
        Ok(Some(format!("it ended with {status}: {}{}", said.trim(), state.error.unwrap_or_default())))
    }

    /// Ends a container, with every process in it, and removes it. One that is not there is fine.
    pub(super) async fn remove(&self, name: &str) -> Result<(), ContainerError> {
        let begun = Instant::now();
        loop {
            let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
            match self.patient.remove_container(name, Some(options)).await {
                Ok(()) => return Ok(()),
                Err(error) if status(&error) == Some(404) => return Ok(()),
                // Somebody else removes it at this moment.
                Err(error) if status(&error) == Some(409) && begun.elapsed() < REMOVED_WITHIN => sleep(LOOK_AGAIN_AFTER).await,
                Err(error) => return Err(self.failed_within(WORK_WITHIN, format!("remove container {name}"), &error)),
            }
        }
    }

    /// All containers, running or not, with this label.
    pub(super) async fn labelled(&self, label: &str, value: &str) -> Result<Vec<Found>, ContainerError> {
        let filters = HashMap::from([("label".to_owned(), vec![format!("{label}={value}")])]);
        let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
        let listed = self.docker.list_containers(Some(options)).await;
        let listed = listed.map_err(|error| self.failed("list containers".to_owned(), &error))?;
        let found = listed.into_iter().filter_map(|one| {
            let name = one.names?.first()?.trim_start_matches('/').to_owned();
            Some(Found { name, labels: one.labels.unwrap_or_default() })
        });
        Ok(found.collect())
    }

    /// The networks with this label.
    pub(super) async fn networks(&self, label: &str, value: &str) -> Result<Vec<Found>, ContainerError> {
        let filters = HashMap::from([("label".to_owned(), vec![format!("{label}={value}")])]);
        let options = ListNetworksOptionsBuilder::default().filters(&filters).build();
        let listed = self.docker.list_networks(Some(options)).await;
        let listed = listed.map_err(|error| self.failed("list networks".to_owned(), &error))?;
        let found = listed.into_iter().filter_map(|one| Some(Found { name: one.name?, labels: one.labels.unwrap_or_default() }));
        Ok(found.collect())
    }

    /// Removes a network. One that is not there is fine.
    pub(super) async fn remove_network(&self, name: &str) -> Result<(), ContainerError> {
        match self.docker.remove_network(name).await {
            Err(error) if status(&error) != Some(404) => Err(self.failed(format!("remove network {name}"), &error)),
            _ => Ok(()),
        }
    }

    /// The volumes with this label.
    pub(super) async fn volumes(&self, label: &str, value: &str) -> Result<Vec<Found>, ContainerError> {
        let filters = HashMap::from([("label".to_owned(), vec![format!("{label}={value}")])]);
        let options = ListVolumesOptionsBuilder::default().filters(&filters).build();
        let listed = self.docker.list_volumes(Some(options)).await;
        let listed = listed.map_err(|error| self.failed("list volumes".to_owned(), &error))?.volumes.unwrap_or_default();
        Ok(listed.into_iter().map(|one| Found { name: one.name, labels: one.labels }).collect())
    }

    /// Removes a volume. One that is not there is fine.
    pub(super) async fn remove_volume(&self, name: &str) -> Result<(), ContainerError> {
        match self.docker.remove_volume(name, None::<RemoveVolumeOptions>).await {
            Err(error) if status(&error) != Some(404) => Err(self.failed(format!("remove volume {name}"), &error)),
            _ => Ok(()),
        }
    }

    /// The client itself, for what concerns images.
    pub(super) fn docker(&self) -> &Docker {
        &self.docker
    }

    /// Says that the engine did not do what was asked.
    pub(super) fn failed(&self, what: String, error: &Error) -> ContainerError {
        self.failed_within(ANSWER_WITHIN, what, error)
    }

    fn failed_within(&self, within: Duration, what: String, error: &Error) -> ContainerError {
        match error {
            Error::RequestTimeoutError => ContainerError::Slow { socket: self.socket.clone(), what, within },
            Error::DockerResponseServerError { message, .. } => ContainerError::Engine { what, why: message.clone() },
            Error::DockerStreamError { error } => ContainerError::Engine { what, why: error.clone() },
            other => ContainerError::Unreachable { socket: self.socket.clone(), why: other.to_string() },
        }
    }
}

/// The engine's answer, where it gave one.
fn status(error: &Error) -> Option<u16> {
    match error {
        Error::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

fn body(blueprint: &Blueprint<'_>) -> ContainerCreateBody {
    let Blueprint { recipe, user: (uid, gid), .. } = blueprint;
    let mut entrypoint = recipe.linkage.words();
    let orphan_after = blueprint.orphan_after.as_millis().to_string();
    entrypoint.extend([INSIDE_SUBCOMMAND.to_owned(), orphan_after, uid.to_string(), gid.to_string()]);
    // An image may set these for its own programs; what it names would be run by the supervisor before that gives up its privileges.
    let of_loader = ["LD_PRELOAD", "LD_AUDIT", "LD_LIBRARY_PATH", "LD_DEBUG", "GLIBC_TUNABLES"].map(|name| format!("{name}="));
    let env = of_loader.into_iter().chain([format!("SAWMILL_MARK={}", blueprint.supervisor_dir.display())]).collect();
    ContainerCreateBody {
        hostname: Some("sawmill".to_owned()),
        // Until it has settled; see `FIRST_CAPABILITIES`.
        user: Some("0:0".to_owned()),
        image: Some(recipe.image.clone()),
        entrypoint: Some(entrypoint),
        env: Some(env),
        working_dir: Some("/".to_owned()),
        labels: Some(blueprint.labels.clone().into_iter().collect()),
        healthcheck: Some(HealthConfig { test: Some(vec!["NONE".to_owned()]), ..HealthConfig::default() }),
        host_config: Some(HostConfig {
            mounts: Some(mounts(blueprint)),
            tmpfs: Some(scratch(blueprint)),
            readonly_rootfs: Some(true),
            cap_drop: Some(vec!["ALL".to_owned()]),
            cap_add: Some(FIRST_CAPABILITIES.map(str::to_owned).into()),
            security_opt: Some(vec!["no-new-privileges".to_owned()]),
            network_mode: Some(recipe.network.of_engine().to_owned()),
            ipc_mode: Some("private".to_owned()),
            memory: Some(recipe.limits.memory_bytes),
            // Memory and swap together: no swap.
            memory_swap: Some(recipe.limits.memory_bytes),
            nano_cpus: Some(recipe.limits.nano_cpus),
            cpu_shares: Some(recipe.limits.cpu_shares).filter(|shares| *shares > 0),
            pids_limit: Some(recipe.limits.pids),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    }
}

fn mounts(blueprint: &Blueprint<'_>) -> Vec<Mount> {
    let bind = |source: &Path, target: &str, read_only: bool| Mount {
        source: Some(source.to_string_lossy().into_owned()),
        target: Some(target.to_owned()),
        typ: Some(MountType::BIND),
        read_only: Some(read_only),
        ..Mount::default()
    };
    // A worktree that is mounted on the host later appears in the container too, where the host's mounts can propagate.
    // Where they cannot, it has none of them, lest it keep one that the host has taken away.
    let options = if propagates(blueprint.job_dir) {
        let propagation = Some(MountBindOptionsPropagationEnum::RSLAVE);
        MountBindOptions { propagation, ..MountBindOptions::default() }
    } else {
        let propagation = Some(MountBindOptionsPropagationEnum::RPRIVATE);
        MountBindOptions { propagation, non_recursive: Some(true), ..MountBindOptions::default() }
    };
    let job = Mount { bind_options: Some(options), ..bind(blueprint.job_dir, inside::WORKSPACE, false) };
    let objects = blueprint.recipe.objects.iter().map(|dir| bind(dir, &dir.to_string_lossy(), true));
    let program = blueprint.program.files.iter().map(|(file, within)| bind(file, within, true));
    let own = [bind(blueprint.supervisor_dir, inside::SUPERVISOR_DIR, false), job];
    own.into_iter().chain(program).chain(objects).collect()
}

/// What can be written in a container beside its slot.
fn scratch(blueprint: &Blueprint<'_>) -> HashMap<String, String> {
    let tmp = blueprint.recipe.limits.tmp_bytes;
    HashMap::from([
        ("/tmp".to_owned(), format!("rw,nosuid,nodev,exec,mode=1777,size={tmp}")),
        // Its supervisor makes it its own.
        (inside::PRIVATE.to_owned(), "rw,nosuid,nodev,noexec,mode=700,size=64k".to_owned()),
    ])
}
