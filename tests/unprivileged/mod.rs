//! A worker that is not root mounts worktrees in a namespace of its own: the real program as the user nobody, on overlays.

mod caches;
mod clearing;
mod life;
mod rooms;
mod without;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sawmill::ids::JobId;
use serde_json::{Value, json};

use crate::container;
use crate::delivery::daemon::{Daemon, Seat};
use crate::delivery::host::{Host, Lodging, On, until};
use crate::delivery::remote::{Latch, publish};

/// A user that has nothing: nobody of Debian's.
const NOBODY: u32 = 65534;

/// A host whose worker is an ordinary user.
struct Scene {
    host: Host,
    remote: PathBuf,
    seat: Seat,
}

impl Scene {
    async fn set(lease: Duration) -> Self {
        Self::begun_by(lease, "").await
    }

    /// Where the worker's program is started by another one, which becomes the ordinary user.
    async fn begun_by(lease: Duration, before: &str) -> Self {
        // On PostgreSQL, because a file would belong to the test.
        Self::on(Host::new(On::Postgres, lease, 1).await, before, "--clear-groups")
    }

    /// Where jobs run in containers, of an engine that the user may use by a group of his.
    async fn in_containers(lease: Duration) -> Self {
        let host = Host::new(On::Postgres, lease, 1).await.lodge(Lodging::InContainers).await;
        let socket = fs::metadata(container::image::socket()).expect("the engine's socket");
        Self::on(host, "", &format!("--groups={}", socket.gid()))
    }

    fn on(mut host: Host, before: &str, groups: &str) -> Self {
        let root = host.root().to_owned();
        let remote = remote(&root);
        // The user may reach neither this program's directory nor write to what is root's.
        let program = root.join("sawmill");
        let built = env!("CARGO_BIN_EXE_sawmill");
        fs::hard_link(built, &program).or_else(|_| fs::copy(built, &program).map(drop)).expect("linked or copied");
        let begin = root.join("as-nobody");
        let become_nobody = format!("setpriv --reuid={NOBODY} --regid={NOBODY} {groups}");
        let script = format!("#!/bin/sh\nshift\nexec {before} {become_nobody} {} \"$@\"\n", program.display());
        fs::write(&begin, script).expect("written");
        for path in [&root, &program, &begin] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("rights");
        }
        chown(&root, Some(NOBODY), Some(NOBODY)).expect("given away");
        host.set("SAWMILL_GIT__SAFE_DIRECTORIES", &format!("[{:?}]", remote.display()));
        let seat = Seat { prefix: vec![begin.display().to_string()], ..Seat::of("a") };
        Self { host, remote, seat }
    }

    async fn start(&self) -> Daemon {
        let worker = self.host.start_at(&self.seat).await;
        let log = worker.log();
        assert!(log.contains("worktrees are made by overlay") && log.contains("in a namespace of this worker's own"), "{log}");
        worker
    }

    /// A worker that is killed once its job is held, and does not come back. Afterwards nothing of the job runs.
    async fn abandon(&self, held: &Latch) {
        let worker = self.start().await;
        held.reached().await;
        held.lift();
        worker.kill();
        until("the supervisor ends the job and itself", async || {
            self.host.processes("__supervise").is_empty() && self.host.processes("SAWMILL_JOB=").is_empty()
        })
        .await;
    }

    /// Enqueues a job that runs this, with the rest of its document.
    fn enqueue(&self, command: &str, rest: &Value) -> JobId {
        let mut spec = json!({ "repo": self.remote, "task": { "command": command } });
        let more = rest.as_object().expect("an object").clone();
        spec.as_object_mut().expect("an object").extend(more);
        self.host.enqueue(&spec)
    }

    /// A place at which the ordinary user's jobs are held.
    fn latch(&self) -> Latch {
        let latch = self.host.latch("stage");
        latch.close();
        let pipe = self.host.root().join("latch-stage.fifo");
        fs::set_permissions(pipe, fs::Permissions::from_mode(0o666)).expect("rights");
        latch
    }

    fn slot(&self) -> PathBuf {
        self.host.state_dir("a").join("slots/0")
    }
}

/// A repository in which everything can be done to a base, into which anybody may push.
fn remote(root: &Path) -> PathBuf {
    let seed = root.join("seed");
    for (path, text) in [
        ("README.md", "# A project\n"),
        ("gone.txt", "to be removed\n"),
        ("docs/old.md", "old\n"),
        ("docs/deep/older.md", "older\n"),
        ("src/lib.rs", "//! Nothing.\n"),
        ("src/deep/mod.rs", "//! Less.\n"),
        (".gitignore", "*.tmp\n"),
    ] {
        let path = seed.join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
        fs::write(path, text).expect("a file");
    }
    let remote = publish(&seed, &root.join("remote.git"));
    open_up(&remote);
    remote
}

fn open_up(path: &Path) {
    let about = fs::metadata(path).expect("it is there");
    if about.is_dir() {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).expect("rights");
        fs::read_dir(path).expect("readable").for_each(|entry| open_up(&entry.expect("an entry").path()));
    }
}
