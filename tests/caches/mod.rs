//! Caches from job to job, with real daemons: what a job finds, who leaves something to it, and what a kill leaves.

mod carried;
mod found;
mod killed;
mod shelf;
mod snapshot;
mod trust;

use std::fs;
use std::path::{Path, PathBuf};

use sawmill::git::Strategy;
use sawmill::ids::JobId;
use sawmill::job::Stream;
use serde_json::{Value, json};

use crate::crash::LONG;
use crate::delivery::host::{Host, Lodging, On, until};
use crate::delivery::remote::{git, small_remote};

/// A host whose project `app` has caches.
struct Scene {
    host: Host,
    remote: PathBuf,
}

impl Scene {
    async fn set(strategy: Strategy, lodging: Lodging, caches: &str) -> Self {
        let mut host = Host::new(On::Sqlite, LONG, 1).await.lodge(lodging).await;
        let remote = small_remote(host.root(), "remote.git");
        host.set("SAWMILL_WORKSPACE__STRATEGY", &strategy.to_string());
        host.set("SAWMILL_CACHES__REFRESH", "0s");
        for variable in ["SAWMILL_PROJECTS__APP__REPO", "SAWMILL_PROJECTS__OTHER__REPO"] {
            host.set(variable, remote.to_str().expect("UTF-8"));
        }
        for variable in ["SAWMILL_PROJECTS__APP__CACHES", "SAWMILL_PROJECTS__OTHER__CACHES"] {
            host.set(variable, caches);
        }
        Self { host, remote }
    }

    /// A job of the project that runs a script, which changes nothing of the commit unless `more` says otherwise.
    fn enqueue(&self, script: &str, more: &Value) -> JobId {
        let mut spec = json!({ "project": "app", "changes": "optional", "task": { "command": format!("set -e; {script}") } });
        spec.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        self.host.enqueue(&spec)
    }

    async fn run(&self, script: &str) -> JobId {
        self.run_with(script, json!({})).await
    }

    /// Runs a job that succeeds, and waits until its slot is empty: what it saves is saved then.
    async fn run_with(&self, script: &str, more: Value) -> JobId {
        let job = self.enqueue(script, &more);
        self.host.succeeded(job).await;
        self.emptied().await;
        job
    }

    async fn emptied(&self) {
        let run = self.state().join("slots/0/run");
        until("the slot is empty", async || !run.exists()).await;
    }

    fn state(&self) -> PathBuf {
        self.host.state_dir("a")
    }

    /// The caches that are saved, by their directories.
    fn saved(&self) -> Vec<PathBuf> {
        let below = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect::<Vec<_>>();
        let paths = below(&self.state().join("caches")).into_iter().flat_map(|project| below(&project));
        paths.flat_map(|path| below(&path)).filter(|dir| dir.join("cache.json").exists()).collect()
    }

    async fn said(&self, job: JobId) -> String {
        self.host.log(job, 1, Stream::System).await
    }

    /// Everything that the branches of jobs have.
    fn delivered(&self) -> String {
        let branches = git(&self.remote, &["for-each-ref", "--format=%(refname)", "refs/heads/sawmill/", "refs/sawmill/"]);
        branches.lines().map(|branch| git(&self.remote, &["ls-tree", "-r", "--name-only", branch]) + "\n").collect()
    }

    /// Commits a file to the remote's default branch.
    fn push(&self, path: &str, content: &str) {
        let clone = self.host.root().join(format!("clone-{}", uuid::Uuid::new_v4().simple()));
        git(self.host.root(), &["clone", "--quiet", self.remote.to_str().expect("UTF-8"), clone.to_str().expect("UTF-8")]);
        fs::write(clone.join(path), content).expect("a file");
        git(&clone, &["add", "--all"]);
        git(&clone, &["commit", "--quiet", "-m", path]);
        git(&clone, &["push", "--quiet", "origin", "HEAD:main"]);
        fs::remove_dir_all(clone).expect("removed");
    }
}

/// A test for each way in which caches come to be.
macro_rules! each_way {
    ($body:ident: $($name:ident($strategy:ident, $lodging:ident))*) => { $(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            $body(sawmill::git::Strategy::$strategy, crate::delivery::host::Lodging::$lodging).await;
        }
    )* };
}
use each_way;
