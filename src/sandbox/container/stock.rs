//! The stock of a worker: what containers there are ready for the next job of each slot, and the making of those that lack.
//!
//! The one rule: a container is on a shelf, or in the hands of one job, or on its way out; nothing is put on a shelf once the worker
//! leaves.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::config::{Config, Network};
use super::engine::Image;
use super::error::ContainerError;
use super::kinds::Kinds;
use super::lodging::{Lodging, Start, Wish};
use super::program::Linkage;
use super::recipe::{Limits, Recipe, inodes};
use super::shelf::Shelf;
use super::workshop::{Container, Owned, Workshop};

/// How long the engine's word on an image holds. A tag may come to mean another one.
const IMAGE_HOLDS: Duration = Duration::from_secs(5);

/// The stock of a worker.
#[derive(Debug)]
pub(super) struct Stock {
    pub(super) config: Config,
    pub(super) workshop: Workshop,
    shelves: Mutex<BTreeMap<u32, Shelf>>,
    /// Held while a shelf is filled: one container is made at a time, so that making them takes little from the jobs.
    filling: AsyncMutex<()>,
    images: Mutex<HashMap<String, (Instant, Image)>>,
    /// The kinds of jobs that the worker has had last, in whichever slot.
    pub(super) kinds: Arc<Kinds>,
    /// Whether the last container that was to be made ahead could not be.
    ailing: AtomicBool,
    job_dirs: Mutex<BTreeMap<u32, PathBuf>>,
    /// The containers that jobs have now and that come back, by their slots: nothing is made meanwhile in their place.
    lent: Mutex<BTreeMap<u32, String>>,
    /// Of each slot: held while a container that is used again comes back to its shelf.
    returning: Mutex<BTreeMap<u32, Arc<AsyncMutex<()>>>>,
    /// The worker leaves.
    pub(super) closing: CancellationToken,
}

impl Stock {
    pub(super) fn new(config: Config, workshop: Workshop) -> Self {
        let kinds = Arc::new(Kinds::below(&workshop.places(), config.warm as usize));
        Self {
            config,
            workshop,
            kinds,
            ailing: AtomicBool::new(false),
            shelves: Mutex::default(),
            filling: AsyncMutex::default(),
            images: Mutex::default(),
            job_dirs: Mutex::default(),
            lent: Mutex::default(),
            returning: Mutex::default(),
            closing: CancellationToken::new(),
        }
    }

    /// A container of a slot's shelf that works, after one that is on its way back; `gone` hears of those that do not.
    pub(super) async fn take_ready(&self, slot: u32, recipe: &Recipe, gone: impl Fn(Container)) -> Option<Container> {
        let _come_back = self.returning(slot).lock_owned().await;
        loop {
            let container = self.shelves().entry(slot).or_default().take(recipe, self.config.warm as usize)?;
            if self.workshop.is_ready(&container).await {
                return Some(container);
            }
            warn!("container {} of slot {slot} is gone; another one is used", container.name);
            gone(container);
        }
    }

    /// Has the next job of a slot wait for a container that comes back to its shelf, until what this answers is dropped.
    pub(super) fn expect_back(&self, slot: u32) -> Option<OwnedMutexGuard<()>> {
        self.returning(slot).try_lock_owned().ok()
    }

    /// Where the files of a slot's jobs are.
    pub(super) fn has_jobs_in(&self, slot: u32, dir: &Path) {
        self.job_dirs().insert(slot, dir.to_owned());
    }

    /// Takes everything off the shelves, with what is being made just now.
    pub(super) async fn clear(&self) -> Vec<Container> {
        let _filled = self.filling.lock().await;
        self.shelves().values_mut().flat_map(Shelf::clear).collect()
    }

    pub(super) fn shelves(&self) -> MutexGuard<'_, BTreeMap<u32, Shelf>> {
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn job_dirs(&self) -> MutexGuard<'_, BTreeMap<u32, PathBuf>> {
        self.job_dirs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hears that a container does not come back any more, or has.
    pub(super) fn is_back(&self, name: &str) {
        self.lent().retain(|_, lent| lent != name);
    }

    /// The slots of which the next job gets the container that the last one has.
    pub(super) fn lent(&self) -> MutexGuard<'_, BTreeMap<u32, String>> {
        self.lent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn returning(&self, slot: u32) -> Arc<AsyncMutex<()>> {
        self.returning.lock().unwrap_or_else(PoisonError::into_inner).entry(slot).or_default().clone()
    }

    /// Whether a container is there for another job after the one that it has, unless that one spoils it.
    pub(super) fn comes_back(&self, container: &Container) -> bool {
        !container.mounted && container.jobs < self.config.reuse && self.config.warm > 0
    }

    pub(super) fn recipe(&self, image: &Image, wish: &Wish, linkage: Linkage) -> Recipe {
        Recipe {
            asked: wish.image.as_ref().unwrap_or(&self.config.image).clone(),
            image: image.digest.clone(),
            network: self.config.network,
            egress: self.config.egress.clone(),
            limits: Limits::of(&self.config),
            objects: wish.objects.clone(),
            objects_inodes: inodes(&wish.objects),
            build: self.workshop.build.clone(),
            linkage,
        }
    }

    pub(super) async fn make_aside(&self, dir: &Path) -> Result<Lodging, ContainerError> {
        let image = self.image(&self.config.image).await?;
        let linkage = self.workshop.program().await?.linkage;
        let wish = Wish { slot: 0, job_dir: dir.to_owned(), tree: dir.to_owned(), image: None, objects: Vec::new() };
        let of_job = self.recipe(&image, &wish, linkage);
        let recipe = Recipe { network: Network::None, limits: of_job.limits.clone().behind_all(), ..of_job };
        let _alone = self.filling.lock().await;
        let container = self.workshop.make(wish.slot, dir, &recipe).await?;
        // A later daemon that finds it is not to keep it ready for a job.
        if let Err(error) = container.mark_used() {
            self.workshop.destroy(&container).await;
            return Err(error.into());
        }
        Ok(Lodging { container, env: image.env, start: Start::Cold })
    }

    /// What the engine has under this name now, or had a moment ago.
    pub(super) async fn image(&self, name: &str) -> Result<Image, ContainerError> {
        let known = self.images.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        if let Some((asked, image)) = known
            && asked.elapsed() < IMAGE_HOLDS
        {
            return Ok(image);
        }
        self.look_up(name).await
    }

    /// What the engine has under this name now.
    pub(super) async fn look_up(&self, name: &str) -> Result<Image, ContainerError> {
        let image = self.workshop.engine().await?.image(name).await?;
        self.images.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), (Instant::now(), image.clone()));
        Ok(image)
    }

    /// Has a container ready for the next job of its slot; hands it back once the worker leaves.
    pub(super) fn shelve(&self, slot: u32, container: Container) -> Option<Container> {
        // Who empties the shelves has said before that the worker leaves.
        let mut shelves = self.shelves();
        if self.closing.is_cancelled() {
            return Some(container);
        }
        shelves.entry(slot).or_default().put(container);
        None
    }

    /// Makes what a slot's shelf lacks, and removes what it does not want.
    pub(super) async fn fill_once(&self, slot: u32) {
        let _alone = self.filling.lock().await;
        let unwanted = self.shelves().entry(slot).or_default().unwanted();
        for container in unwanted {
            self.workshop.destroy(&container).await;
        }
        let lacking = self.shelves().entry(slot).or_default().lacking();
        let Some(job_dir) = self.job_dirs().get(&slot).cloned() else { return };
        for recipe in lacking {
            if self.closing.is_cancelled() {
                return;
            }
            match self.workshop.make(slot, &job_dir, &recipe).await {
                Ok(container) => {
                    self.shelves().entry(slot).or_default().put(container);
                    self.ailing.store(false, Ordering::Relaxed);
                }
                Err(error) => self.lacks(slot, &recipe, &error),
            }
        }
    }

    /// Hears that a container could not be made ahead. Where that may pass, it is still wanted, and who tends the stock tries again.
    fn lacks(&self, slot: u32, recipe: &Recipe, error: &ContainerError) {
        if self.ailing.swap(true, Ordering::Relaxed) {
            debug!("no container is ready for the next job of slot {slot}: {error}");
        } else {
            warn!("no container is ready for the next job of slot {slot}: {error}");
        }
        let passes =
            matches!(error, ContainerError::Unreachable { .. } | ContainerError::Slow { .. } | ContainerError::Engine { .. });
        if !passes {
            self.forget(|other| other.image == recipe.image);
        }
    }

    /// Wants those no more, in no slot, that are no longer of use.
    pub(super) fn forget(&self, goes: impl Fn(&Recipe) -> bool) {
        self.kinds.forget(&goes);
        self.shelves().values_mut().for_each(|shelf| shelf.forget(&goes));
    }

    pub(super) async fn take_up(&self, in_use: &BTreeSet<String>, slots: &BTreeSet<u32>) -> Result<(), ContainerError> {
        for Owned { name, container } in self.workshop.owned().await? {
            match container {
                Some((_, container)) if in_use.contains(&name) => {
                    info!("container {name} goes on with its job");
                    self.workshop.roster.add(&container.dir);
                }
                Some((slot, container))
                    if slots.contains(&slot) && self.is_free(&container) && self.workshop.is_ready(&container).await =>
                {
                    self.workshop.roster.add(&container.dir);
                    let mut shelves = self.shelves();
                    let shelf = shelves.entry(slot).or_default();
                    shelf.want(&container.recipe, self.config.warm as usize);
                    shelf.put(container);
                }
                // Nobody's: the janitor finds it, and proves that first.
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether a container that an earlier daemon made had no job, and is what this one makes.
    fn is_free(&self, container: &Container) -> bool {
        !container.is_used() && self.config.warm > 0 && self.makes(&container.recipe)
    }

    /// Whether a container of this recipe would be made as things are configured now.
    pub(super) fn makes(&self, recipe: &Recipe) -> bool {
        let Recipe { network, egress, limits, build, .. } = recipe;
        let config = &self.config;
        let same_network = *network == config.network && *egress == config.egress;
        same_network && *limits == Limits::of(config) && *build == self.workshop.build
    }
}
