//! Leftovers of every sort, as killed daemons leave them.

use std::fs::{self, File};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use sawmill::ids::JobId;
use sawmill::janitor::Process;

use crate::delivery::remote::{git, git_command};

/// Longer ago than any git command may take.
pub(super) const OLD: Duration = Duration::from_secs(24 * 3600);

/// Makes a file that was last written to so long ago.
pub(super) fn file(path: &Path, age: Duration) -> PathBuf {
    fs::create_dir_all(path.parent().expect("a parent")).expect("made");
    let file = File::create(path).expect("made");
    file.set_modified(SystemTime::now() - age).expect("set");
    path.to_owned()
}

/// Makes a directory with something in it.
pub(super) fn directory(path: &Path) -> PathBuf {
    fs::create_dir_all(path).expect("made");
    fs::write(path.join("content"), "something").expect("written");
    path.to_owned()
}

/// A supervisor whose daemon is gone: nobody has ever spoken to it.
pub(super) fn supervisor(state: &Path, number: u32) -> PathBuf {
    let dir = state.join(format!("slots/{number}/sup"));
    fs::create_dir_all(&dir).expect("made");
    let mut command = Command::new(env!("CARGO_BIN_EXE_sawmill"));
    command.args(["__supervise", "600000"]).arg(&dir).arg(format!("worker=a slot={number} nonce=planted"));
    let started = command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    assert!(started.expect("it starts").success());
    dir
}

/// A socket at which nobody listens any more.
pub(super) fn socket(state: &Path, number: u32) -> PathBuf {
    let dir = state.join(format!("slots/{number}/sup"));
    fs::create_dir_all(&dir).expect("made");
    let path = dir.join("sock");
    drop(UnixListener::bind(&path).expect("bound"));
    path
}

/// An overlay that is mounted at a place without a worktree.
pub(super) fn mount(state: &Path, number: u32) -> PathBuf {
    let layers = state.parent().expect("the test's directory").join("layers");
    let [lower, upper, work] = ["lower", "upper", "work"].map(|part| layers.join(part));
    let at = state.join(format!("slots/{number}/job/tree"));
    for dir in [&lower, &upper, &work, &at] {
        fs::create_dir_all(dir).expect("made");
    }
    let options = format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
    let mounted = Command::new("mount").args(["-t", "overlay", "-o", &options, "sawmill"]).arg(&at).status();
    assert!(mounted.expect("mount runs").success(), "overlays can be mounted; run the tests as root");
    at
}

/// A base with the lease of a place in which there is no worktree.
pub(super) fn lease(state: &Path) -> PathBuf {
    let base = state.join("bases/app-0/0123456789-00000000");
    fs::create_dir_all(base.join("leases")).expect("made");
    fs::write(base.join("lock"), "").expect("written");
    let lease = base.join("leases/planted");
    fs::write(&lease, state.join("slots/99").to_str().expect("UTF-8")).expect("written");
    lease
}

/// Salvage of a job in a mirror, made at that time.
pub(super) fn salvage(mirror: &Path, job: JobId, date: &str) -> String {
    let message = format!("Salvage\n\nSawmill-Job: {job}\nSawmill-Attempt: 1\n");
    let tree = git(mirror, &["rev-parse", "main^{tree}"]);
    let mut command = git_command(mirror, &["commit-tree", &tree, "-m", &message]);
    let made = command.env("GIT_COMMITTER_DATE", date).env("GIT_AUTHOR_DATE", date).output().expect("git runs");
    let commit = String::from_utf8(made.stdout).expect("UTF-8");
    let name = format!("refs/sawmill/salvage/{job}/1");
    git(mirror, &["update-ref", &name, commit.trim()]);
    name
}

/// Has a process be the last master of a directory.
pub(super) fn master(state: &Path, process: &Process) {
    fs::create_dir_all(state).expect("made");
    fs::write(state.join("lock"), serde_json::to_vec(process).expect("JSON")).expect("written");
}
