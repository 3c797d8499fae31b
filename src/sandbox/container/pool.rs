//! The containers of a worker: given for one job, from the stock where that has one, and replaced off every job's path.
//!
//! The one rule: what a job leaves behind in a container ends with it. A container is used again only where the configuration asks
//! for that, and only when no process is left in it.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{OnceCell, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::config::{Config, DiskShare, Network};
use super::error::ContainerError;
use super::lodging::{Lodging, Start, Use, Wish};
use super::program::build_of;
use super::stock::Stock;
use super::workshop::{Container, Workshop};
use crate::job::spec::ContainerMode;
use crate::sandbox::egress::{Proxy, Refused};
use crate::sandbox::{Roster, SandboxError};

/// How long after a job's start the container for the next one is made: the job's own start has the processors first.
const REFILL_AFTER: Duration = Duration::from_millis(200);

/// How long an engine that does not answer holds up the daemon's start, and who asks whether it is there.
const GREET_WITHIN: Duration = Duration::from_secs(10);

/// How often it is tried to remove what could not be removed, and how often when the worker leaves.
const PURGE_EVERY: Duration = Duration::from_secs(5);
const PURGE_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// How long the engine may take when the worker leaves. It may be at something that it has minutes for.
const CLOSE_WITHIN: Duration = Duration::from_secs(30);

/// The containers of a worker. All clones are the same.
#[derive(Debug, Clone)]
pub struct Containers {
    stock: Arc<Stock>,
    tasks: TaskTracker,
}

/// What the containers of a worker are made with.
#[derive(Debug)]
pub struct ContainersSetup {
    /// `[container]`.
    pub config: Config,
    /// The worker's name.
    pub worker: String,
    /// Its state directory.
    pub state: PathBuf,
    /// This executable.
    pub executable: PathBuf,
    /// How long a supervisor goes on without hearing from a daemon.
    pub orphan_after: Duration,
    /// Who is to hear that the daemon lives.
    pub roster: Roster,
}

impl Containers {
    /// Makes ready to make containers. The engine is not asked yet.
    ///
    /// # Errors
    /// The program's own file cannot be looked at.
    pub fn open(setup: ContainersSetup) -> io::Result<Self> {
        let ContainersSetup { config, worker, state, executable, orphan_after, roster } = setup;
        let (build, socket) = (build_of(&executable)?, config.socket.clone());
        let (engine, installed, condemned) = (OnceCell::new(), OnceCell::new(), Mutex::default());
        let workshop = Workshop { socket, engine, worker, state, executable, build, installed, orphan_after, roster, condemned };
        Ok(Self { stock: Arc::new(Stock::new(config, workshop)), tasks: TaskTracker::new() })
    }

    /// Whether jobs that do not say run in containers.
    #[must_use]
    pub fn mode(&self) -> ContainerMode {
        self.stock.config.mode
    }

    /// What the files of a job in a container may take of the disk.
    #[must_use]
    pub fn disk_share(&self) -> DiskShare {
        DiskShare { bytes: self.stock.config.disk, files: self.stock.config.files }
    }

    /// The digest of the image of jobs that name none, as the engine has it now.
    ///
    /// # Errors
    /// There is no engine, or no such image.
    pub async fn image_digest(&self) -> Result<String, ContainerError> {
        Ok(self.stock.image(&self.stock.config.image).await?.digest)
    }

    /// Has something done in a container of that image which no job will get: without a network, and behind all jobs in line for the
    /// processors. It sees `dir` as its workspace. It is removed afterwards, also where nobody waits for this any more; where the worker
    /// leaves meanwhile, what is done in it is cut off.
    ///
    /// # Errors
    /// There is no engine, no such image, or no supervisor in it; or the worker leaves.
    pub async fn aside<T: Send + 'static, F: Future<Output = T> + Send>(
        &self,
        dir: PathBuf,
        visit: impl FnOnce(Arc<Lodging>) -> F + Send + 'static,
    ) -> Result<T, ContainerError> {
        let stock = self.stock.clone();
        let cut = |why: &str| ContainerError::Engine { what: "use a container beside the jobs".to_owned(), why: why.to_owned() };
        let visited = self.tasks.spawn(async move {
            let lodging = Arc::new(stock.make_aside(&dir).await?);
            let visited = stock.closing.run_until_cancelled(visit(lodging.clone())).await;
            stock.workshop.destroy(&lodging.container).await;
            visited.ok_or_else(|| cut("the worker leaves"))
        });
        visited.await.unwrap_or_else(|_| Err(cut("the worker panicked")))
    }

    /// Whether there is an engine with the image of jobs that name none.
    pub async fn has_image(&self) -> bool {
        self.image_digest().await.is_ok()
    }

    /// Asks the engine whether it is there. One that is slow may be, and is.
    ///
    /// # Errors
    /// [`ContainerError::Unreachable`]: no container can be had.
    pub async fn reach(&self) -> Result<(), ContainerError> {
        let asked = async { self.stock.workshop.engine().await?.ping().await };
        match timeout(GREET_WITHIN, asked).await {
            Ok(Err(error @ ContainerError::Unreachable { .. })) => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Takes up what an earlier daemon left: containers that are ready for jobs of these `slots` are used, those whose jobs still run
    /// (`in_use`, by their names) are left to them. All others are in nobody's hands: see [`Containers::leftovers`].
    pub async fn take_up(&self, in_use: &BTreeSet<String>, slots: &BTreeSet<u32>) {
        match timeout(GREET_WITHIN, self.stock.take_up(in_use, slots)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!("no containers of an earlier daemon are looked for: {error}"),
            Err(_) => warn!("the engine at {} does not answer", self.stock.config.socket.display()),
        }
    }

    pub(super) fn workshop(&self) -> &Workshop {
        &self.stock.workshop
    }

    pub(super) const fn stock(&self) -> &Arc<Stock> {
        &self.stock
    }

    /// Does something in the background that is finished before the worker has left.
    pub(super) fn spawn<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        self.tasks.spawn(task)
    }

    /// Gives a container to a job: one that is ready where there is one, else one that is made now. Who no longer waits for it leaves
    /// nothing behind.
    ///
    /// # Errors
    /// There is no engine, no such image, or no supervisor in it.
    pub async fn take(&self, wish: &Wish) -> Result<Lodging, ContainerError> {
        let (containers, wish) = (self.clone(), wish.clone());
        let slot = wish.slot;
        let (give, given) = oneshot::channel();
        let mut waiting = Waiting { containers: containers.clone(), slot, given };
        self.tasks.spawn(async move {
            if let Err(Ok(lodging)) = give.send(containers.provide(wish).await) {
                containers.give_back(slot, lodging.container, Use::Clean);
            }
        });
        let lost = |_| ContainerError::Engine { what: "provide a container".to_owned(), why: "the worker panicked".to_owned() };
        (&mut waiting.given).await.map_err(lost)?
    }

    async fn provide(&self, wish: Wish) -> Result<Lodging, ContainerError> {
        let stock = &self.stock;
        let name = wish.image.as_deref().unwrap_or(&stock.config.image);
        let image = stock.image(name).await?;
        let recipe = stock.recipe(&image, &wish, stock.workshop.program().await?.linkage);
        stock.has_jobs_in(wish.slot, &wish.job_dir);
        stock.kinds.note(&recipe);
        let (mut container, start) = match stock.take_ready(wish.slot, &recipe, |gone| self.destroy_later(gone)).await {
            Some(container) => (container, Start::Warm),
            None => (stock.workshop.make(wish.slot, &wish.job_dir, &recipe).await?, Start::Cold),
        };
        container.jobs += 1;
        let shown = match container.mark_used() {
            Ok(()) => stock.workshop.show_tree(&mut container, &wish.job_dir, &wish.tree).await,
            Err(error) => Err(error.into()),
        };
        if let Err(error) = shown {
            self.destroy_later(container);
            return Err(error);
        }
        let comes_back = self.stock.comes_back(&container);
        if comes_back {
            self.stock.lent().insert(wish.slot, container.name.clone());
        }
        self.refill_soon((!comes_back).then_some(wish.slot));
        Ok(Lodging { container, env: image.env, start })
    }

    /// Has a container see a directory of the host, with what is mounted in it, over what it sees at `target` now. It is for this job
    /// only from then on.
    ///
    /// # Errors
    /// This process is not root, or the container is gone.
    pub async fn show(&self, container: &mut Container, source: &Path, target: &Path) -> Result<(), ContainerError> {
        self.stock.workshop.show(container, source, target).await
    }

    /// Has a container see at these places again what it saw there before anything was shown over it. Doing it twice comes to the same.
    ///
    /// # Errors
    /// This process is not root, or the container is gone.
    pub async fn uncover(&self, container: &Container, targets: &[&Path]) -> Result<(), ContainerError> {
        self.stock.workshop.uncover(container, targets).await
    }

    /// Opens the way out of a container whose job reaches what is listed; none is opened where it has no network at all, or one of
    /// its own. The way is closed when the proxy is dropped. A later daemon may open it again: the job finds it at the same address.
    /// `heard` is told of everything that is refused.
    ///
    /// # Errors
    /// Its supervisor is gone.
    pub async fn open_egress(
        &self,
        container: &Container,
        heard: impl Fn(&Refused) + Send + Sync + 'static,
    ) -> Result<Option<Proxy>, SandboxError> {
        if container.recipe.network != Network::AllowList {
            return Ok(None);
        }
        let supervisor = container.supervisor();
        let failed = |source| SandboxError::Directory { path: supervisor.dir().to_owned(), source };
        let opened = Proxy::open(supervisor.listen().await?, container.recipe.egress.clone(), heard);
        opened.map(Some).map_err(failed)
    }

    /// Hears that a job no longer needs its container. What is to be done then is done in the background.
    pub fn give_back(&self, slot: u32, container: Container, left: Use) {
        let containers = self.clone();
        // The slot's next job waits for it, if it comes at once.
        let again = left == Use::Clean && self.stock.comes_back(&container);
        let returning = again.then(|| self.stock.expect_back(slot)).flatten();
        self.tasks.spawn(async move {
            let (stock, name) = (&containers.stock, container.name.clone());
            let ready = again && stock.workshop.is_ready(&container).await;
            let over = if ready { stock.shelve(slot, container) } else { Some(container) };
            stock.is_back(&name);
            drop(returning);
            if let Some(container) = over {
                stock.workshop.destroy(&container).await;
            }
            stock.fill_once(slot).await;
        });
    }

    /// Ends a container at once, with every process in it. False when the engine does not do it.
    pub async fn destroy(&self, container: &Container) -> bool {
        self.stock.is_back(&container.name);
        self.stock.workshop.destroy(container).await
    }

    /// Removes what could not be removed before, again and again until `ended`.
    pub async fn purge_loop(self, ended: CancellationToken) {
        while ended.run_until_cancelled(tokio::time::sleep(PURGE_EVERY)).await.is_some() {
            self.stock.workshop.purge_once().await;
        }
    }

    fn destroy_later(&self, container: Container) {
        let stock = self.stock.clone();
        self.tasks.spawn(async move { stock.workshop.destroy(&container).await });
    }

    /// Has what a slot lacks made, where its container is not to come back, and then what slots lack that have had no job yet.
    fn refill_soon(&self, slot: Option<u32>) {
        let stock = self.stock.clone();
        self.tasks.spawn(async move {
            if stock.closing.run_until_cancelled(tokio::time::sleep(REFILL_AFTER)).await.is_none() {
                return;
            }
            if let Some(slot) = slot {
                stock.fill_once(slot).await;
            }
            stock.spread().await;
        });
    }

    /// Removes what is ready, and waits until everything that was to be removed is, for half a minute at most.
    pub async fn close(&self) {
        self.close_within(CLOSE_WITHIN).await;
    }

    async fn close_within(&self, limit: Duration) {
        self.stock.closing.cancel();
        if timeout(limit, self.remove_all()).await.is_err() {
            warn!("containers may be left, which the engine does not remove; the next daemon of this worker does");
        }
    }

    async fn remove_all(&self) {
        for container in self.stock.clear().await {
            self.destroy_later(container);
        }
        self.tasks.close();
        self.tasks.wait().await;
        while !self.stock.workshop.purge_once().await {
            // For as long as closing may take.
            tokio::time::sleep(PURGE_AGAIN_AFTER).await;
        }
    }
}

/// Who waits for a container. What has come when they go is given back.
struct Waiting {
    containers: Containers,
    slot: u32,
    given: oneshot::Receiver<Result<Lodging, ContainerError>>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.given.close();
        if let Ok(Ok(lodging)) = self.given.try_recv() {
            self.containers.give_back(self.slot, lodging.container, Use::Clean);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::Instant;

    use axum::Router;
    use axum::http::Uri;
    use bytesize::ByteSize;
    use tempfile::TempDir;
    use tokio::net::UnixListener;

    use super::*;
    use crate::sandbox::container::engine::Image;
    use crate::sandbox::container::program::Linkage;
    use crate::sandbox::egress::Rules;

    fn open(dir: &TempDir, executable: &Path) -> io::Result<Containers> {
        let (size, socket) = (ByteSize::gib(1), dir.path().join("socket"));
        let config = Config {
            mode: ContainerMode::Off,
            image: "tools".to_owned(),
            image_ttl: Duration::ZERO,
            socket,
            warm: 1,
            reuse: 1,
            memory: size,
            cpus: 1.0,
            pids: 100,
            tmp: size,
            disk: size,
            files: 0,
            network: Network::None,
            egress: Rules::default(),
        };
        Containers::open(ContainersSetup {
            config,
            worker: "a".to_owned(),
            state: dir.path().to_owned(),
            executable: executable.to_owned(),
            orphan_after: Duration::from_secs(1),
            roster: Roster::default(),
        })
    }

    #[tokio::test]
    async fn how_this_program_is_started_in_containers_is_not_asked_where_there_are_none() {
        let dir = tempfile::tempdir().expect("a directory");
        open(&dir, Path::new("/etc/passwd")).expect("no program is needed").close().await;
    }

    #[tokio::test]
    async fn an_engine_that_hangs_does_not_hold_up_a_leaving_worker() {
        let dir = tempfile::tempdir().expect("a directory");
        let listener = UnixListener::bind(dir.path().join("socket")).expect("a socket");
        let answer = async |uri: Uri| {
            if uri.path().ends_with("/version") { r#"{"ApiVersion":"1.47"}"# } else { std::future::pending().await }
        };
        tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await });
        let containers = open(&dir, &std::env::current_exe().expect("this program")).expect("opened");
        containers.stock.workshop.engine().await.expect("it answers");
        let wish = Wish { slot: 0, job_dir: PathBuf::new(), tree: PathBuf::new(), image: None, objects: Vec::new() };
        let image = Image { digest: "tools".to_owned(), env: Vec::new(), labels: HashMap::new() };
        let recipe = containers.stock.recipe(&image, &wish, Linkage::Static);
        let container = Container { name: "one".to_owned(), dir: dir.path().join("one"), recipe, jobs: 1, mounted: false };
        containers.give_back(0, container, Use::Spoilt);
        let begun = Instant::now();
        containers.close_within(Duration::from_millis(200)).await;
        assert!(begun.elapsed() < CLOSE_WITHIN, "{:?}", begun.elapsed());
    }
}
