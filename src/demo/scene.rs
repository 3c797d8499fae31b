//! The scene of the demonstration: a scratch directory, a remote, a database, a worker.

use std::path::{Path, PathBuf};

use anyhow::Context;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::sample;
use crate::cli::{Client, DemoArgs, talk};
use crate::config::{Environment, shipped};
use crate::daemon::{Composition, executable};
use crate::git::{Git, PlainClone};
use crate::store::Store;
use crate::worker::{Shutdown, WorkerError};

/// Everything that the demonstration works with.
pub(super) struct Scene {
    scratch: TempDir,
    git: Git,
    store: Store,
    client: Client,
    shutdown: Shutdown,
    worker: JoinHandle<Result<(), WorkerError>>,
}

impl Scene {
    /// Sets the scene: the remote is the sample repository, or a copy of the one that the caller names.
    pub(super) async fn set(args: &DemoArgs, environment: Environment) -> anyhow::Result<Self> {
        let scratch = tempfile::Builder::new().prefix("sawmill-demo-").tempdir().context("cannot make a scratch directory")?;
        let path = |name: &str| scratch.path().join(name).to_string_lossy().into_owned();
        let flags = [
            ("queue.url", format!("sqlite:{}", path("queue.db"))),
            ("queue.retry.backoff", "500ms".to_owned()),
            ("worker.state_dir", path("worker")),
            ("worker.name", "demo".to_owned()),
            ("worker.slots", "4".to_owned()),
            // It is small, and nobody would see what it waits for.
            ("worker.admission.memory_available", "0 B".to_owned()),
            ("worker.admission.memory_stalled_percent", "0".to_owned()),
            ("worker.admission.disk_free", "0 B".to_owned()),
            ("worker.admission.inodes_free", "0".to_owned()),
            ("sandbox.grace", "1s".to_owned()),
            ("container.mode", args.container.as_str().to_owned()),
            ("logs.cap", "1 MiB".to_owned()),
            ("logs.tail", "64 KiB".to_owned()),
        ];
        let composition = Composition::new(shipped(&environment, &flags)?, environment, Ok(()));
        let store = composition.store().await?;
        let daemon = composition.worker(store.clone()).await?;
        let git = Git::open(&composition.config().git, &executable()?, &scratch.path().join("worker/mirrors"))?;
        make_remote(&git, args, &scratch.path().join("remote.git")).await?;

        let shutdown = Shutdown::default();
        let client = Client::InProcess(composition.router(store.clone(), CancellationToken::new()));
        let worker = tokio::spawn(daemon.run(shutdown.clone()));
        Ok(Self { scratch, git, store, client, shutdown, worker })
    }

    pub(super) fn dir(&self) -> &Path {
        self.scratch.path()
    }

    pub(super) fn remote(&self) -> PathBuf {
        self.scratch.path().join("remote.git")
    }

    pub(super) const fn client(&self) -> &Client {
        &self.client
    }

    /// A clone of the remote, as an integrator has one.
    pub(super) async fn clone_remote(&self) -> anyhow::Result<PlainClone> {
        Ok(PlainClone::make(&self.git, &self.remote(), &self.scratch.path().join("integrator")).await?)
    }

    /// Stops the jobs that still run.
    pub(super) fn interrupt(&self) {
        self.shutdown.drain.cancel();
        self.shutdown.abort.cancel();
    }

    /// Stops the worker in good order, and removes the scratch directory unless it is to be kept.
    pub(super) async fn strike(self, keep: bool) -> anyhow::Result<()> {
        self.shutdown.drain.cancel();
        self.worker.await.context("the worker panicked")??;
        self.store.close().await;
        if keep {
            talk(&format!("kept {}", self.scratch.keep().display()));
        }
        Ok(())
    }
}

async fn make_remote(git: &Git, args: &DemoArgs, remote: &Path) -> anyhow::Result<()> {
    match &args.repo {
        Some(repo) => PlainClone::copy_bare(git, repo, remote).await.with_context(|| format!("cannot copy {}", repo.display())),
        None => PlainClone::seed_bare(git, remote, &sample::FILES).await.context("cannot make the sample repository"),
    }
}
