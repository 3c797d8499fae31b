//! What there is of containers, networks and volumes with the labels of a state directory, and what explains each.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::engine::Found;
use super::error::ContainerError;
use super::labels;
use super::pool::Containers;
use super::visit::visits;
use crate::janitor::{Explained, Kind, Lease, Owned, Owner, Process, measure};

/// How much of a container's directory is counted: it has a socket and some reports.
const ENTRIES_MAX: u64 = 1000;

impl Containers {
    /// Every container, network and volume with the labels of the state directory, every directory of a container's supervisor, and
    /// what was tried out beside them, each with what explains it.
    ///
    /// # Errors
    /// The engine does not answer. Nothing is known of the directories then, either.
    pub async fn leftovers(&self, explained: &Explained) -> Result<Vec<Owned>, ContainerError> {
        let workshop = self.workshop();
        let (engine, state) = (workshop.engine().await?, workshop.state.to_string_lossy().into_owned());
        let explain = |dir: &Path, otherwise: &str| {
            if workshop.roster.has(dir) {
                return Lease::Held("it is ready for the next job of its slot, or has one".to_owned());
            }
            explained.of(dir, otherwise)
        };
        let (mut found, mut owners) = (Vec::new(), BTreeMap::new());
        for Found { name, labels } in engine.labelled(labels::STATE, &state).await? {
            let dir = labels::nonce(&labels).map(|nonce| workshop.places().join(nonce));
            let otherwise = "no job has it, and no slot keeps it ready";
            let lease = dir.as_deref().map_or_else(|| Lease::Over(otherwise.to_owned()), |dir| explain(dir, otherwise));
            let owner = labels::owner(&labels);
            owners.extend(dir.map(|dir| (dir, owner.clone())));
            found.push(Owned { kind: Kind::Container, name, owner, lease, bytes: None });
        }
        let nobody = || Lease::Over("no container of this worker needs it".to_owned());
        let engines = |kind, Found { name, labels }: Found| Owned {
            kind,
            name,
            owner: labels::owner(&labels),
            lease: nobody(),
            bytes: None,
        };
        found.extend(engine.networks(labels::STATE, &state).await?.into_iter().map(|one| engines(Kind::Network, one)));
        found.extend(engine.volumes(labels::STATE, &state).await?.into_iter().map(|one| engines(Kind::Volume, one)));
        let places = fs::read_dir(workshop.places()).into_iter().flatten().flatten().map(|entry| entry.path());
        // One whose container goes too goes after it, and one whose container stays, stays.
        found.extend(places.filter(|path| path.is_dir()).map(|dir| Owned {
            kind: Kind::ContainerDir,
            lease: explain(&dir, "no job has its container, and no slot keeps that ready"),
            bytes: Some(measure(&dir, ENTRIES_MAX).bytes),
            name: dir.display().to_string(),
            owner: owners.get(&dir).cloned().unwrap_or(Owner::Directory),
        }));
        for (dir, owner) in visits(&workshop.state) {
            for Found { name, labels } in engine.labelled(labels::STATE, &dir.to_string_lossy()).await? {
                let lease = Lease::Over("it was only tried out".to_owned());
                found.push(Owned { kind: Kind::Container, name, owner: labels::owner(&labels), lease, bytes: None });
            }
            found.push(visit(&dir, owner));
        }
        Ok(found)
    }

    /// Whether there is anything of containers in the state directory, so that the engine is worth asking.
    #[must_use]
    pub fn were_used(&self) -> bool {
        self.workshop().places().is_dir() || !visits(&self.workshop().state).is_empty()
    }

    /// Removes what [`Containers::leftovers`] listed; a container with every process in it. What is gone is fine.
    ///
    /// # Errors
    /// The engine does not do it, or the directory cannot be removed.
    pub async fn remove_left(&self, owned: &Owned) -> Result<(), ContainerError> {
        let engine = self.workshop().engine().await?;
        match owned.kind {
            Kind::Network => engine.remove_network(&owned.name).await,
            Kind::Volume => engine.remove_volume(&owned.name).await,
            Kind::ContainerDir => remove_dir(PathBuf::from(&owned.name)),
            _ => engine.remove(&owned.name).await,
        }
    }
}

fn visit(dir: &Path, owner: Option<Process>) -> Owned {
    let lease = match owner {
        Some(_) => Lease::Over("a container was only tried out in it".to_owned()),
        None => Lease::Unknown("it does not say who tries a container out in it".to_owned()),
    };
    Owned {
        kind: Kind::ContainerDir,
        name: dir.display().to_string(),
        owner: owner.map_or(Owner::Directory, Owner::Process),
        lease,
        bytes: Some(measure(dir, ENTRIES_MAX).bytes),
    }
}

fn remove_dir(dir: PathBuf) -> Result<(), ContainerError> {
    match fs::remove_dir_all(&dir) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(crate::sandbox::SandboxError::Directory { path: dir, source }.into())
        }
        _ => Ok(()),
    }
}
