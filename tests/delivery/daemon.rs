//! A daemon of a test: a process of its own, and where it runs.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::host::until;

/// Where a worker runs, and how it reaches the database.
#[derive(Debug, Clone)]
pub(crate) struct Seat {
    pub(crate) worker: String,
    /// Its own address of the database, where that is not the one that the test uses.
    pub(crate) url: Option<String>,
    /// What its program is started with, before its own name.
    pub(crate) prefix: Vec<String>,
}

impl Seat {
    /// A place that is like that of the test itself.
    pub(crate) fn of(worker: &str) -> Self {
        Self { worker: worker.to_owned(), url: None, prefix: Vec::new() }
    }
}

/// A daemon's process. It is killed when this goes.
pub(crate) struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts a program, whose complaints go to a file.
    pub(super) fn spawn(name: &str, mut command: Command, log: PathBuf) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log).expect("a log"));
        Self { name: name.to_owned(), child: command.spawn().expect("the daemon starts"), log }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("the daemon is there");
    }

    /// Stops it, and answers when it stands.
    pub(crate) fn stop(&self) {
        stop(self.pid());
    }

    /// Kills it, and nothing else.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("a child");
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child")
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).expect("a log")
    }

    pub(crate) async fn exit(&mut self) -> ExitStatus {
        let mut status = None;
        until(&format!("worker {} exits", self.name), async || {
            status = self.ended();
            status.is_some()
        })
        .await;
        status.expect("it has exited")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Stops a process where it is there, and answers when all its threads stand: one that is in a call of the system, of a lock for one, is
/// through with it only then.
pub(crate) fn stop(pid: Pid) {
    if kill(pid, Signal::SIGSTOP).is_err() {
        return;
    }
    let stands = |stat: String| stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['T', 'Z', 'X']));
    let all_stand = || {
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        threads.map(|thread| std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default()).all(stands)
    };
    let give_up = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !all_stand() {
        assert!(std::time::Instant::now() < give_up, "process {pid} does not stop");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}
