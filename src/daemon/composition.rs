//! The rooms put together, as the configuration says.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use tokio_util::sync::CancellationToken;

use crate::api::{self, Policy, Project};
use crate::artifacts::Artifacts;
use crate::backends::Registry;
use crate::caches::ProjectCaches;
use crate::config::{Config, Environment, Loaded, ProjectConfig};
use crate::critic::Critics;
use crate::git::{Git, GitError, Mounting, Provisioner};
use crate::store::Store;
use crate::worker::{Daemon, Setup, Shutdown, reap_loop};

/// This build: version and git revision.
pub const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("SAWMILL_REVISION"), ")");

/// What can be made from a configuration.
pub struct Composition {
    loaded: Loaded,
    environment: Environment,
    mounting: Mounting,
}

impl Composition {
    /// What can be made from this one, by a process that was made ready to mount, or could not be.
    #[must_use]
    pub const fn new(loaded: Loaded, environment: Environment, mounting: Mounting) -> Self {
        Self { loaded, environment, mounting }
    }

    /// The configuration.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.loaded.config
    }

    /// The environment that jobs are given parts of.
    #[must_use]
    pub const fn environment(&self) -> &Environment {
        &self.environment
    }

    /// How worktrees are made on this host. Blocks for some milliseconds.
    ///
    /// # Errors
    /// They cannot be made as the configuration says.
    pub fn provisioner(&self, git: &Git) -> Result<Provisioner, GitError> {
        let config = &self.config().workspace;
        Provisioner::open_where(git, config.strategy, config.bases, &self.mounting)
    }

    /// Opens the database, and brings it to this build's schema.
    ///
    /// # Errors
    /// What the store says.
    pub async fn store(&self) -> anyhow::Result<Store> {
        Ok(Store::connect(&self.config().queue).await?)
    }

    /// The API over a database. Streams end when `shutdown` is cancelled.
    pub fn router(&self, store: Store, shutdown: CancellationToken) -> axum::Router {
        let (config, environment) = (self.config(), self.environment.variables());
        let artifacts = Artifacts::new(&config.artifacts, &config.worker.state_dir, environment);
        api::router(api::State { store, policy: Arc::new(self.policy()), artifacts, shutdown })
    }

    /// What of the API needs no database.
    pub fn configuration_router(&self) -> axum::Router {
        api::configuration_alone(&self.policy())
    }

    /// A worker that is ready to claim.
    ///
    /// # Errors
    /// What the worker cannot have.
    pub async fn worker(&self, store: Store) -> anyhow::Result<Daemon> {
        let config = self.config().clone();
        let setup = Setup {
            config: config.worker,
            attempt: config.attempt,
            queue: config.queue,
            git: config.git,
            mounting: self.mounting.clone(),
            workspace: config.workspace,
            caches: config.caches,
            project_caches: project_caches(&config.projects),
            sandbox: config.sandbox,
            container: config.container,
            logs: config.logs,
            artifacts: config.artifacts,
            backends: Registry::new(&config.backends)?,
            critics: Critics::new(&config.critics)?,
            environment: self.environment.variables().clone(),
            executable: executable()?,
            version: VERSION.to_owned(),
        };
        Ok(Daemon::start(setup, store).await?)
    }

    /// Runs the API until it is told to stop.
    ///
    /// # Errors
    /// It cannot listen, or the database cannot be opened.
    pub async fn serve(&self, shutdown: Shutdown) -> anyhow::Result<()> {
        let store = self.store().await?;
        self.limit_projects(&store).await?;
        let listener = api::listen(&self.config().server).await?;
        let router = self.router(store.clone(), shutdown.drain.clone());
        // Where there is no worker, integrators' leases end all the same, and jobs that have waited too long.
        let ended = shutdown.drain.clone();
        let reaping = tokio::spawn(reap_loop(store.clone(), self.config().queue.poll, ended));
        api::serve(listener, router, self.config().server.drain, shutdown.drain).await?;
        reaping.await?;
        store.close().await;
        Ok(())
    }

    /// Runs a worker until it is told to stop and its jobs have ended.
    ///
    /// # Errors
    /// What the worker says.
    pub async fn work(&self, shutdown: Shutdown) -> anyhow::Result<()> {
        let store = self.store().await?;
        // A worker's configuration need not know of projects; then it has no say about them.
        if !self.config().projects.is_empty() {
            self.limit_projects(&store).await?;
        }
        self.worker(store.clone()).await?.run(shutdown).await?;
        store.close().await;
        Ok(())
    }

    /// Runs the API and a worker. The API goes on until the worker has drained, so that its jobs can be watched.
    ///
    /// # Errors
    /// What either says; the other is then stopped.
    pub async fn up(&self, shutdown: Shutdown) -> anyhow::Result<()> {
        let store = self.store().await?;
        self.limit_projects(&store).await?;
        let listener = api::listen(&self.config().server).await?;
        let daemon = self.worker(store.clone()).await?;
        let drained = CancellationToken::new();
        let router = self.router(store.clone(), drained.clone());
        let serving = api::serve(listener, router, self.config().server.drain, drained.clone());
        let working = async {
            let worked = daemon.run(shutdown.clone()).await;
            drained.cancel();
            worked
        };
        let (served, worked) = tokio::join!(
            async {
                let served = serving.await;
                shutdown.drain.cancel();
                served
            },
            working
        );
        store.close().await;
        served?;
        worked?;
        Ok(())
    }

    /// Writes down, for all workers, how many jobs of each project may run at once and how much they may use; takes
    /// away the limits of every other project.
    async fn limit_projects(&self, store: &Store) -> anyhow::Result<()> {
        let running =
            self.config().projects.iter().filter_map(|(name, project)| Some((name.clone(), project.limits.running?.get())));
        store.set_project_limits(&running.collect()).await?;
        let budgets = self.config().projects.iter().filter_map(|(name, project)| Some((name.clone(), project.budget.clone()?)));
        Ok(store.set_project_budgets(&budgets.collect()).await?)
    }

    fn policy(&self) -> Policy {
        let config = self.config();
        Policy {
            projects: config.projects.iter().map(|(name, project)| (name.clone(), project_policy(project))).collect(),
            backends: config.backends.keys().cloned().collect(),
            default_backend: config.default_backend.clone(),
            attempts: config.queue.retry.attempts,
            branch: config.workspace.branch.clone(),
            checks: config.checks.clone(),
            critics: config.critics.keys().cloned().collect(),
            default_critics: config.default_critics.clone(),
            version: VERSION.to_owned(),
            configuration: crate::config::settings(&self.loaded),
        }
    }
}

/// What caches projects have, where they have any.
fn project_caches(projects: &BTreeMap<String, ProjectConfig>) -> BTreeMap<String, ProjectCaches> {
    let with_some = projects.iter().filter(|(_, project)| !project.caches.is_empty());
    let of = |project: &ProjectConfig| ProjectCaches { base: project.base.clone(), entries: project.caches.clone() };
    with_some.map(|(name, project)| (name.clone(), of(project))).collect()
}

fn project_policy(project: &ProjectConfig) -> Project {
    Project {
        repo: project.repo.clone(),
        base: project.base.clone(),
        backend: project.backend.clone(),
        timeout: project.timeout,
        attempts: project.attempts,
        retry_from: project.retry_from,
        revisions: project.revisions,
        gates: project.gates.clone(),
        critics: project.critics.clone(),
        checks: project.checks.clone(),
        limits: project.limits.clone(),
    }
}

/// This program, by a path that stays right when its file is replaced by an upgrade; elsewhere, where it is now.
///
/// # Errors
/// The system does not tell.
pub fn executable() -> anyhow::Result<PathBuf> {
    let own = Path::new("/proc/self/exe");
    if own.exists() {
        return Ok(own.to_owned());
    }
    std::env::current_exe().context("cannot find this program's own file")
}
