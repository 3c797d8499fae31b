//! Making containers and taking them apart again.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::{getegid, geteuid};
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;
use tokio::time::sleep;
use tracing::{debug, warn};
use uuid::Uuid;

use super::config::Network;
use super::engine::{Engine, Found};
use super::error::ContainerError;
use super::guard;
use super::inside::WORKSPACE;
use super::labels::{self, Tag};
use super::mounts;
use super::program::{Linkage, Program};
use super::recipe::{Blueprint, Recipe};
use crate::namespace;
use crate::sandbox::client::Mood;
use crate::sandbox::supervisor::LOCK;
use crate::sandbox::{Roster, SandboxError, Status, Supervisor};

/// How long a container may take from its start until its supervisor answers.
const READY_WITHIN: Duration = Duration::from_secs(120);
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(2);
const GONE_LOOK_AFTER: Duration = Duration::from_millis(20);
/// How often the engine is asked meanwhile whether it runs at all.
const ASK_ENGINE_EVERY: Duration = Duration::from_millis(250);

/// A container with its supervisor, by what is needed to find both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// Its name with the engine.
    pub name: String,
    /// The directory of its supervisor, on the host.
    pub dir: PathBuf,
    /// Of what it was made.
    pub(super) recipe: Recipe,
    /// How many jobs it has had, the one that it has now included.
    pub jobs: u32,
    /// Whether a worktree was mounted into it, which stays there to its end.
    pub(super) mounted: bool,
}

/// The file in a container's directory that says that it was a job's.
const USED: &str = "used";

impl Container {
    /// Notes that it is a job's from now on, for a later daemon: when the job has ended it looks like one that never had any.
    pub(super) fn mark_used(&self) -> Result<(), SandboxError> {
        let path = self.dir.join(USED);
        let marked = File::create(&path).and_then(|file| file.sync_all());
        marked.map_err(|source| SandboxError::Directory { path, source })
    }

    /// Whether it was some job's.
    pub(super) fn is_used(&self) -> bool {
        self.dir.join(USED).exists()
    }

    /// The digest of its image.
    #[must_use]
    pub fn image(&self) -> &str {
        &self.recipe.image
    }

    /// The words by which its supervisor starts this program for a job, before the program's own arguments.
    #[must_use]
    pub fn program(&self) -> Vec<String> {
        match self.recipe.linkage {
            // Wherever it was mounted when the container was made.
            Linkage::Static => vec!["/proc/self/exe".to_owned()],
            // The supervisor's executable is the loader there.
            Linkage::Dynamic => self.recipe.linkage.words(),
        }
    }

    /// Whether the program has its libraries with it there, because it is not linked statically.
    #[must_use]
    pub fn brings_libraries(&self) -> bool {
        self.recipe.linkage == Linkage::Dynamic
    }

    /// Waits until its supervisor is gone, and with that every process in it. False when it is not within that time.
    pub async fn wait_until_gone(&self, within: Duration) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < within {
            // It holds the lock for as long as it lives.
            let Ok(file) = File::open(self.dir.join(LOCK)) else { return true };
            if Flock::lock(file, FlockArg::LockExclusiveNonblock).is_ok() {
                return true;
            }
            sleep(GONE_LOOK_AFTER).await;
        }
        false
    }

    /// Its supervisor, whether or not that still lives.
    #[must_use]
    pub fn supervisor(&self) -> Supervisor {
        Supervisor::at(&self.dir)
    }
}

/// A container that carries our label.
pub(super) struct Owned {
    pub(super) name: String,
    /// Its slot, and the container, where its labels can be read.
    pub(super) container: Option<(u32, Container)>,
}

/// Where containers are made: whose they are, and of what program.
#[derive(Debug)]
pub(super) struct Workshop {
    /// The engine's socket.
    pub(super) socket: PathBuf,
    pub(super) engine: OnceCell<Engine>,
    pub(super) worker: String,
    /// The worker's state directory.
    pub(super) state: PathBuf,
    /// This executable.
    pub(super) executable: PathBuf,
    /// Which build that is.
    pub(super) build: String,
    /// Where it is for containers, once one was made.
    pub(super) installed: OnceCell<Program>,
    pub(super) orphan_after: Duration,
    pub(super) roster: Roster,
    /// Containers that the engine did not remove when it was asked.
    pub(super) condemned: Mutex<Vec<Container>>,
}

impl Workshop {
    /// The engine, once it has answered.
    pub(super) async fn engine(&self) -> Result<&Engine, ContainerError> {
        self.engine.get_or_try_init(async || Engine::at(&self.socket)?.greet().await).await
    }

    /// Where the directories of containers' supervisors are.
    pub(super) fn places(&self) -> PathBuf {
        self.state.join("containers")
    }

    /// The program where containers find it. Only who makes containers needs the room for it.
    pub(super) async fn program(&self) -> Result<&Program, ContainerError> {
        self.installed
            .get_or_try_init(async || {
                let (executable, build, dir) = (self.executable.clone(), self.build.clone(), self.places());
                private_dir(&dir)?;
                let installed = tokio::task::spawn_blocking(move || Program::install(&executable, &dir, &build)).await;
                let installed = installed.unwrap_or_else(|panic| Err(io::Error::other(panic)));
                installed.map_err(|error| ContainerError::Program { dir: self.places(), why: error.to_string() })
            })
            .await
    }

    /// Makes a container for a slot, and waits until its supervisor answers.
    pub(super) async fn make(&self, slot: u32, job_dir: &Path, recipe: &Recipe) -> Result<Container, ContainerError> {
        let nonce = Uuid::new_v4().simple().to_string();
        let name = format!("sawmill-{}-{slot}-{}", plain(&self.worker), &nonce[..12]);
        let dir = self.places().join(&nonce);
        let (engine, program) = (self.engine().await?, self.program().await?);
        // First, so that nobody takes the directory for one that an earlier daemon left.
        self.roster.add(&dir);
        if let Err(error) = private_dir(&dir) {
            self.roster.remove(&dir);
            return Err(error.into());
        }
        let tag = Tag { slot, nonce, recipe: recipe.clone() };
        let blueprint = Blueprint {
            name: &name,
            recipe,
            labels: labels::write(&self.worker, &self.state, &tag),
            job_dir,
            supervisor_dir: &dir,
            program,
            user: (geteuid().as_raw(), getegid().as_raw()),
            orphan_after: self.orphan_after,
        };
        let container = Container { name: name.clone(), dir: dir.clone(), recipe: recipe.clone(), jobs: 0, mounted: false };
        let made = match engine.create(&blueprint).await {
            Ok(()) => self.wait_until_ready(&container).await,
            Err(error) => Err(error),
        };
        let made = match made {
            // Before it is anybody's: no job has ever been in a container that is open.
            Ok(()) if recipe.network == Network::Bridge => guard::close(&container.supervisor(), &recipe.egress).await,
            made => made,
        };
        match made {
            Ok(()) => {
                debug!("container {name} is ready");
                Ok(container)
            }
            Err(error) => {
                self.destroy(&container).await;
                Err(error)
            }
        }
    }

    /// Has a container see the worktree that is mounted on the host now, where one is and it does not by itself.
    pub(super) async fn show_tree(&self, container: &mut Container, job_dir: &Path, tree: &Path) -> Result<(), ContainerError> {
        let failed = |why: String| {
            let what = format!("show the worktree to container {}", container.name);
            ContainerError::Engine { what, why }
        };
        if !mounts::is_mounted(tree).map_err(|error| failed(error.to_string()))? {
            return Ok(());
        }
        if namespace::is_private() {
            return Err(failed("it is mounted in a namespace of this worker's own, which the engine does not see".to_owned()));
        }
        if mounts::propagates(job_dir) {
            return Ok(());
        }
        let within = Path::new(WORKSPACE).join(tree.strip_prefix(job_dir).unwrap_or(tree));
        let pid = container.supervisor().pid().await?;
        let shown = mounts::show(tree, pid, &within)
            .map_err(|error| failed(format!("{error}; only root can, where mounts of {} are not shared", job_dir.display())));
        container.mounted = true;
        shown
    }

    /// Has a container see a directory of the host, with what is mounted in it, over what it sees at `target` now.
    pub(super) async fn show(&self, container: &mut Container, source: &Path, target: &Path) -> Result<(), ContainerError> {
        let pid = container.supervisor().pid().await?;
        let shown = mounts::show(source, pid, target);
        // Who may not enter the container has mounted nothing there.
        container.mounted |= shown.as_ref().err().is_none_or(|error| error.kind() != io::ErrorKind::PermissionDenied);
        shown.map_err(|error| ContainerError::Engine {
            what: format!("show {} to container {}", source.display(), container.name),
            why: format!("{error}; only root can"),
        })
    }

    /// Has a container see at these places what it saw there before anything was shown over it.
    pub(super) async fn uncover(&self, container: &Container, targets: &[&Path]) -> Result<(), ContainerError> {
        if !container.mounted {
            return Ok(());
        }
        let pid = container.supervisor().pid().await?;
        targets.iter().try_for_each(|target| mounts::uncover(pid, target)).map_err(|error| ContainerError::Engine {
            what: format!("take off what was shown to container {}", container.name),
            why: format!("{error}; only root can"),
        })
    }

    async fn wait_until_ready(&self, container: &Container) -> Result<(), ContainerError> {
        let begun = Instant::now();
        let mut asked = begun;
        loop {
            match Supervisor::attach(&container.dir).await {
                Ok(Some(_)) => return Ok(()),
                Ok(None) => {}
                Err(error) => return Err(error.into()),
            }
            if asked.elapsed() > ASK_ENGINE_EVERY {
                asked = Instant::now();
                match self.engine().await?.ended(&container.name).await {
                    Ok(Some(why)) => return Err(ContainerError::NeverReady { image: container.image().to_owned(), why }),
                    // Whether it runs is the supervisor's to say, then.
                    Ok(None) | Err(ContainerError::Slow { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            if begun.elapsed() > READY_WITHIN {
                // It runs: that is no fault of its image.
                return Err(ContainerError::Engine {
                    what: format!("use container {}", container.name),
                    why: format!("it runs, and its supervisor does not answer within {READY_WITHIN:?}"),
                });
            }
            sleep(LOOK_AGAIN_AFTER).await;
        }
    }

    /// Ends everything in a container and removes it, with what is left of it on the host. When this returns true, no process of it
    /// lives.
    pub(super) async fn destroy(&self, container: &Container) -> bool {
        self.roster.remove(&container.dir);
        let removed = async { self.engine().await?.remove(&container.name).await };
        if let Err(error) = removed.await {
            warn!("{error}; it is tried again");
            self.condemned().push(container.clone());
            return false;
        }
        match fs::remove_dir_all(&container.dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                warn!("cannot remove {}: {error}", container.dir.display());
            }
            _ => {}
        }
        true
    }

    /// Tries once more to remove what could not be removed. False when something is still left.
    pub(super) async fn purge_once(&self) -> bool {
        let condemned = std::mem::take(&mut *self.condemned());
        let mut all = true;
        for container in condemned {
            all &= self.destroy(&container).await;
        }
        all
    }

    fn condemned(&self) -> MutexGuard<'_, Vec<Container>> {
        self.condemned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a container that was made ahead, or by an earlier daemon, can take a job.
    pub(super) async fn is_ready(&self, container: &Container) -> bool {
        match Supervisor::attach_for(&container.dir, self.orphan_after).await {
            Ok(Some((supervisor, Mood::Serving))) => matches!(supervisor.status().await, Ok(Status::Idle)),
            _ => false,
        }
    }

    /// All containers of this worker, also those that an earlier daemon made, each with its slot. What they are made of is not known
    /// of those that another build made; they are only to be removed.
    pub(super) async fn owned(&self) -> Result<Vec<Owned>, ContainerError> {
        let found = self.engine().await?.labelled(labels::STATE, &self.state.to_string_lossy()).await?;
        let known = found.into_iter().map(|Found { name, labels }| {
            let container = labels::read(&labels).map(|Tag { slot, nonce, recipe }| {
                (slot, Container { name: name.clone(), dir: self.places().join(nonce), recipe, jobs: 0, mounted: false })
            });
            Owned { name, container }
        });
        Ok(known.collect())
    }
}

fn private_dir(dir: &Path) -> Result<(), SandboxError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|source| SandboxError::Directory { path: dir.to_owned(), source })
}

/// A text as part of a container's name.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(32).collect()
}
