//! The supervisor, proven from outside: the real binary, real processes.
//!
//! A [`Slot`] fails its test when a process of it is left.
#![expect(clippy::unwrap_used, reason = "what cannot be prepared has failed")]

mod daemon;
mod ends;
mod measure;
mod orphan;
mod start;
mod strangers;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sawmill::sandbox::{CommandSpec, ExitReport, Launch, Mark, Supervisor};
use tempfile::TempDir;
use uuid::Uuid;

/// How long anything here may take on a machine that is busy with something else.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where jobs find their programs.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// A directory with a supervisor. Everything that runs for it carries its tag in the environment.
struct Slot {
    root: TempDir,
    tag: String,
    orphan_after: Duration,
    supervisor: Supervisor,
}

impl Slot {
    async fn open() -> Self {
        Self::open_with(Duration::from_secs(600)).await
    }

    async fn open_with(orphan_after: Duration) -> Self {
        let root = tempfile::tempdir().unwrap();
        let tag = format!("test-{}", Uuid::new_v4().simple());
        let supervisor = Supervisor::launch(&launch(root.path(), &tag, orphan_after)).await.unwrap();
        Self { root, tag, orphan_after, supervisor }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn sup(&self) -> PathBuf {
        self.path("sup")
    }

    fn launch(&self) -> Launch {
        launch(self.root.path(), &self.tag, self.orphan_after)
    }

    /// A shell script as a command, in the slot's own directory.
    fn script(&self, id: &str, script: &str) -> CommandSpec {
        script_in(self.root.path(), &self.tag, id, script)
    }

    async fn run(&self, script: &str) -> ExitReport {
        self.run_command(&self.script(&Uuid::new_v4().to_string(), script)).await
    }

    async fn run_command(&self, command: &CommandSpec) -> ExitReport {
        self.supervisor.start(command).await.unwrap();
        tokio::time::timeout(PATIENCE, self.supervisor.wait(&command.id)).await.expect("the command ends").unwrap()
    }

    fn output(&self) -> String {
        fs::read_to_string(self.path("out")).unwrap()
    }

    /// The supervisor's process.
    fn supervisor_pid(&self) -> i32 {
        let mark = format!("SAWMILL_MARK=worker={} ", self.tag);
        let found = processes(&mark);
        assert_eq!(found.len(), 1, "one supervisor carries the mark");
        found[0]
    }

    /// The processes of jobs.
    fn job_processes(&self) -> Vec<i32> {
        processes(&format!("SAWMILL_TEST={}", self.tag))
    }

    /// No process of a job exists.
    fn assert_ended(&self) {
        let left = self.job_processes();
        assert!(left.is_empty(), "the report was made while these ran: {left:?}");
    }

    /// Everything that runs for this slot.
    fn all_processes(&self) -> Vec<i32> {
        processes(&self.tag)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        for pid in processes(&format!("SAWMILL_MARK=worker={} ", self.tag)) {
            // It may have ended meanwhile.
            kill(Pid::from_raw(pid), Signal::SIGTERM).ok();
        }
        let give_up = Instant::now() + PATIENCE;
        while !self.all_processes().is_empty() && Instant::now() < give_up {
            thread::sleep(Duration::from_millis(5));
        }
        let left = self.all_processes();
        for pid in &left {
            kill(Pid::from_raw(*pid), Signal::SIGKILL).ok();
        }
        assert!(left.is_empty() || thread::panicking(), "the test left processes behind: {left:?}");
    }
}

fn launch(root: &Path, tag: &str, orphan_after: Duration) -> Launch {
    Launch {
        executable: env!("CARGO_BIN_EXE_sawmill").into(),
        dir: root.join("sup"),
        mark: Mark { worker: tag.to_owned(), slot: "0".to_owned() },
        orphan_after,
    }
}

fn script_in(root: &Path, tag: &str, id: &str, script: &str) -> CommandSpec {
    let env = [("PATH", PATH), ("SAWMILL_TEST", tag)];
    CommandSpec {
        id: id.to_owned(),
        argv: ["/bin/sh", "-c", script].map(str::to_owned).into(),
        env: env.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        cwd: root.to_owned(),
        stdin: None,
        stdout: root.join("out"),
        stderr: root.join("err"),
        grace: Duration::from_secs(5),
        deadline: None,
        will: None,
    }
}

/// The living processes whose environment contains `text`.
fn processes(text: &str) -> Vec<i32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &i32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.windows(text.len()).any(|window| window == text.as_bytes())
    })
    .collect()
}

/// The fields of `/proc/<pid>/status`.
fn status_of(pid: i32) -> BTreeMap<String, String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    text.lines().filter_map(|line| line.split_once(':')).map(|(key, value)| (key.to_owned(), value.trim().to_owned())).collect()
}

/// Copies a program that is run then. A process of its own does it: what other tests start while this process wrote it would hold it open for
/// writing, and no program runs that somebody may be writing.
fn copy_program(from: &Path, to: &Path) {
    assert!(std::process::Command::new("cp").args([from, to]).status().unwrap().success());
}

/// Waits for something that can be seen.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let give_up = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < give_up, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn private_dir(path: &Path) {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).unwrap();
}
