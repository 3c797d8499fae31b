//! Where the commands of an attempt run: in a container, or on the host.
//!
//! The one rule: an attempt runs in one place to its end, and its log says in which and why. What differs between them is here and
//! in [`super::environment`]: who is asked to run a command, and by which names the job knows its files.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tracing::{error, warn};

use super::egress;
use super::execute;
use super::halt::Halt;
use super::in_time::in_time;
use super::open::Attempt;
use crate::git::Worktree;
use crate::job::attempt::RunsOn;
use crate::job::spec::ContainerMode;
use crate::job::{Deadline, OutcomeClass};
use crate::sandbox::container::{Container, ContainerError, Containers, Lodging, Start, Use, WORKSPACE, Wish};
use crate::sandbox::{SandboxError, Supervisor};
use crate::workspace::SlotDir;

/// How long an engine may be away before a job that needs a container is given back; and how long it may answer that it cannot do what
/// it is asked, which on a busy host passes; and how long it may be slow altogether.
const ENGINE_RETURNS_WITHIN: Duration = Duration::from_secs(60);
const ENGINE_RECOVERS_WITHIN: Duration = Duration::from_secs(10);
const ENGINE_KEEPS_UP_WITHIN: Duration = Duration::from_secs(300);
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// How long a container that nobody removes may take to end by itself.
const GONE_WITHIN: Duration = Duration::from_secs(5);

/// Where programs in a container have their temporary files.
pub(super) const CONTAINER_TMP: &str = "/tmp";

/// Where the commands of an attempt run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// As processes of the host.
    Host,
    /// In this container.
    Container {
        /// The container.
        container: Box<Container>,
        /// What its image sets in the environment of its programs.
        env: Vec<(String, String)>,
    },
}

impl Place {
    /// As it is put on record.
    pub(super) fn runs_on(&self) -> RunsOn {
        match self {
            Self::Host => RunsOn::Host,
            Self::Container { container, .. } => RunsOn::Container { image: container.image().to_owned() },
        }
    }
}

/// When it was decided where the commands of an attempt run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chosen {
    /// The journal has it: what was made for that place is of use.
    Before,
    Now,
}

/// Decides where the commands run, and makes that ready. An attempt that was taken up stays where it is.
pub(super) async fn choose(attempt: &mut Attempt) -> Result<Chosen, Halt> {
    if attempt.journal.place.is_some() {
        return Ok(Chosen::Before);
    }
    let place = match asked(attempt) {
        Asked::Host => Place::Host,
        Asked::Container => insist(attempt).await?,
        Asked::Either => match lodge(attempt).await? {
            Ok(place) => place,
            // The network of the host is no place for who was to have none of it; and an engine that is there is not gone because it is
            // slow, which a job can bring about.
            Err(error @ (ContainerError::Open { .. } | ContainerError::Slow { .. })) => return Err(unlodged(&error)),
            Err(error) => {
                attempt.say(&format!("on the host, and not in a container: {error}"));
                Place::Host
            }
        },
    };
    attempt.journal.place = Some(place);
    egress::open(attempt).await?;
    Ok(Chosen::Now)
}

/// Where the commands of an attempt are to run.
enum Asked {
    Host,
    Container,
    /// In a container where there is one to be had.
    Either,
}

fn asked(attempt: &Attempt) -> Asked {
    let spec = &attempt.claimed.job.spec;
    match spec.container.unwrap_or_else(|| attempt.tools.containers.mode()) {
        ContainerMode::Off => Asked::Host,
        ContainerMode::On => Asked::Container,
        // A job that names an image is not to run anywhere else.
        ContainerMode::Auto if spec.image.is_some() => Asked::Container,
        ContainerMode::Auto => Asked::Either,
    }
}

/// Whether the commands of an attempt may come to run in a container, before that is decided.
pub(super) async fn may_be_container(attempt: &Attempt) -> bool {
    match asked(attempt) {
        Asked::Host => false,
        Asked::Container => true,
        Asked::Either => attempt.tools.containers.has_image().await,
    }
}

/// Finds a container, and waits for an engine that is away for a moment, because it is being restarted, or has trouble.
async fn insist(attempt: &Attempt) -> Result<Place, Halt> {
    let begun = Instant::now();
    let mut said = false;
    loop {
        let error = match lodge(attempt).await? {
            Ok(place) => return Ok(place),
            Err(error) => error,
        };
        let patience = match &error {
            ContainerError::Unreachable { .. } => ENGINE_RETURNS_WITHIN,
            ContainerError::Engine { .. } => ENGINE_RECOVERS_WITHIN,
            ContainerError::Slow { .. } => ENGINE_KEEPS_UP_WITHIN,
            _ => Duration::ZERO,
        };
        if begun.elapsed() >= patience {
            return Err(unlodged(&error));
        }
        if !said {
            attempt.say(&format!("waiting for the engine of containers: {error}"));
            said = true;
        }
        tokio::select! {
            reason = attempt.stop.stopped() => return Err(Halt::Stopped(reason)),
            () = tokio::time::sleep(ASK_AGAIN_AFTER) => {}
        }
        if attempt.deadline().work_until() <= attempt.now() {
            return Err(Halt::failed(OutcomeClass::Infrastructure, format!("the deadline was met while {error}")));
        }
    }
}

/// Finds a container. On the host its slot's supervisor is left the will that the container's cannot do.
async fn lodge(attempt: &Attempt) -> Result<Result<Place, ContainerError>, Halt> {
    let worktree = Worktree::open(&attempt.tools.git, attempt.slot_root())?;
    let wish = Wish {
        slot: attempt.slot.number(),
        job_dir: attempt.slot.job(),
        tree: attempt.slot.tree(),
        image: attempt.claimed.job.spec.image.clone(),
        objects: worktree.borrowed_objects(),
    };
    let begun = Instant::now();
    let late = || Halt::failed(OutcomeClass::Infrastructure, "the deadline was met before there was a container");
    let taking = attempt.tools.containers.take(&wish);
    let taken = in_time(attempt, Deadline::work_left, taking).await.map_err(|cut| cut.or(late))?;
    let Lodging { container, env, start } = match taken {
        Ok(lodging) => lodging,
        Err(error) => return Ok(Err(error)),
    };
    let how = match start {
        Start::Warm => "ready before".to_owned(),
        Start::Cold => format!("made in {} ms", begun.elapsed().as_millis()),
    };
    attempt.say(&format!("in container {} of image {}, {how}", container.name, container.image()));
    attempt.supervisor.bequeath(&execute::will_id(attempt), &execute::will(attempt)).await?;
    Ok(Ok(Place::Container { container: Box::new(container), env }))
}

fn unlodged(error: &ContainerError) -> Halt {
    let class = match error {
        ContainerError::NoImage { .. } => OutcomeClass::Invalid,
        _ => OutcomeClass::Infrastructure,
    };
    Halt::failed(class, error.to_string())
}

/// Has an attempt's container see the job's own files again, where those of gates were shown over them.
pub(super) async fn uncover(attempt: &Attempt) -> Result<(), Halt> {
    let Some(Place::Container { container, .. }) = &attempt.journal.place else { return Ok(()) };
    let covered = [Path::new(WORKSPACE), Path::new(CONTAINER_TMP)];
    let uncovered = attempt.tools.containers.uncover(container, &covered).await;
    uncovered.map_err(|error| Halt::infrastructure("the job's own files cannot be seen again", &error))
}

/// The names by which a job knows its files.
pub(super) struct Paths {
    pub(super) tree: PathBuf,
    pub(super) spec: PathBuf,
    pub(super) result: PathBuf,
    pub(super) usage: PathBuf,
    pub(super) order: PathBuf,
    pub(super) events: PathBuf,
    pub(super) home: PathBuf,
    pub(super) tmp: PathBuf,
}

impl Paths {
    /// The files of a slot, or of what is laid out as one, on the host.
    pub(super) fn on_host(files: &SlotDir) -> Self {
        Self {
            tree: files.tree(),
            spec: files.spec(),
            result: files.result(),
            usage: files.usage(),
            order: files.order(),
            events: files.events(),
            home: files.home(),
            tmp: files.tmp(),
        }
    }

    /// The same in a container whose workspace is the directory `shown` of the host.
    pub(super) fn in_container(files: &SlotDir, shown: &Path) -> Self {
        let within = |path: PathBuf| Path::new(WORKSPACE).join(path.strip_prefix(shown).unwrap_or(&path));
        let Self { tree, spec, result, usage, order, events, home, tmp } = Self::on_host(files);
        Self {
            tree: within(tree),
            spec: within(spec),
            result: within(result),
            usage: within(usage),
            order: within(order),
            events: within(events),
            home: within(home),
            tmp: within(tmp),
        }
    }
}

impl Attempt {
    /// Who runs its commands.
    pub(super) fn runner(&self) -> Supervisor {
        match &self.journal.place {
            Some(Place::Container { container, .. }) => container.supervisor(),
            Some(Place::Host) | None => self.supervisor.clone(),
        }
    }

    /// Where the job finds its files.
    pub(super) fn paths(&self) -> Paths {
        let slot = &self.slot;
        match &self.journal.place {
            Some(Place::Container { .. }) => Paths { tmp: CONTAINER_TMP.into(), ..Paths::in_container(slot, &slot.job()) },
            Some(Place::Host) | None => Paths::on_host(slot),
        }
    }

    /// Makes sure that no process of the attempt lives. A container whose supervisor cannot see to that is ended whole.
    pub(super) async fn end_processes(&mut self) -> Processes {
        let ended = super::close::end_command(&self.runner()).await;
        let of_itself = ended.is_ok();
        let failed = match (&self.journal.place, ended) {
            (_, Ok(())) => None,
            (Some(Place::Container { container, .. }), Err(error)) => {
                warn!("container {} is removed with what may run in it: {error}", container.name);
                // Whether or not the engine answers: with the supervisor, its first process, all others have ended.
                let gone = self.tools.containers.destroy(container).await || container.wait_until_gone(GONE_WITHIN).await;
                // Nothing is to be given back.
                self.journal.place = None;
                if gone { None } else { Some("the engine does not remove its container".to_owned()) }
            }
            // What it left running its successor ends, before it serves.
            (_, Err(SandboxError::Gone { .. })) => Supervisor::launch(&self.launch).await.err().map(|error| error.to_string()),
            (_, Err(error)) => Some(error.to_string()),
        };
        // That of a container has no will: the slot's has it.
        let failed = failed.or(self.supervisor.let_leave().await.err().map(|error| error.to_string()));
        if let Some(why) = failed {
            error!("cannot make sure that the processes of job {} have ended: {why}", self.claimed.claim.job);
            return Processes::Unknown;
        }
        if of_itself { Processes::Ended } else { Processes::Unknown }
    }

    /// The container that is to be given back when everything else of the attempt is done.
    pub(super) fn lodged(&self) -> Option<Lodged> {
        match &self.journal.place {
            Some(Place::Container { container, .. }) => {
                let (containers, slot) = (self.tools.containers.clone(), self.slot.number());
                Some(Lodged { containers, slot, container: container.clone() })
            }
            Some(Place::Host) | None => None,
        }
    }
}

/// What is known of a job's processes when it is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Processes {
    /// Their supervisor says that the kernel knows none any more.
    Ended,
    /// Their supervisor was gone, or could not be asked, whatever was done about them since.
    Unknown,
}

/// A container in which nothing of its attempt runs any more.
pub(super) struct Lodged {
    containers: Containers,
    slot: u32,
    container: Box<Container>,
}

impl Lodged {
    pub(super) fn supervisor(&self) -> Supervisor {
        self.container.supervisor()
    }

    /// Gives it back.
    pub(super) fn leave(self) {
        self.containers.give_back(self.slot, *self.container, Use::Clean);
    }
}
