//! Remotes on this host, git as their owner runs it, and latches that hold processes.

use std::fs;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::libc::O_NONBLOCK;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::host::until;

/// A place at which processes are held while it is closed.
pub(crate) struct Latch {
    place: PathBuf,
}

impl Latch {
    pub(super) fn at(place: PathBuf) -> Self {
        Self { place }
    }

    /// What a shell does at the latch of this path.
    pub(super) fn script(place: &str) -> String {
        format!("if [ -e \"{place}.closed\" ]; then : > \"{place}.reached\"; read -r line < \"{place}.fifo\" || :; fi")
    }

    /// What a shell does here.
    pub(crate) fn here(&self) -> String {
        Self::script(self.place.to_str().expect("UTF-8"))
    }

    fn part(&self, part: &str) -> PathBuf {
        PathBuf::from(format!("{}.{part}", self.place.display()))
    }

    pub(crate) fn close(&self) {
        mkfifo(&self.part("fifo"), Mode::S_IRUSR | Mode::S_IWUSR).expect("a fifo");
        fs::write(self.part("closed"), "").expect("a file");
    }

    /// Waits until somebody is held here.
    pub(crate) async fn reached(&self) {
        until(&format!("{} is reached", self.place.display()), async || self.part("reached").exists()).await;
    }

    /// Nobody is held any more who comes from now on; who is held stays so.
    pub(crate) fn lift(&self) {
        fs::remove_file(self.part("closed")).expect("it was closed");
    }

    /// Lets those go on who are held.
    pub(crate) async fn release(&self) {
        until(&format!("somebody is held at {}", self.place.display()), async || self.let_go()).await;
    }

    /// Lets those go on who are held, if any.
    pub(crate) fn let_go(&self) -> bool {
        fs::OpenOptions::new().write(true).custom_flags(O_NONBLOCK).open(self.part("fifo")).is_ok()
    }
}

/// A bare repository at `name` with a few files.
pub(crate) fn small_remote(root: &Path, name: &str) -> PathBuf {
    let seed = root.join(format!("{name}-seed"));
    fs::create_dir_all(seed.join("src")).expect("directories");
    fs::write(seed.join("README.md"), "# A project\n").expect("a file");
    fs::write(seed.join("src/lib.rs"), "//! Nothing.\n").expect("a file");
    publish(&seed, &root.join(name))
}

/// Commits a directory and makes a bare repository of it.
pub(crate) fn publish(seed: &Path, remote: &Path) -> PathBuf {
    git(seed, &["init", "--quiet", "--initial-branch=main"]);
    git(seed, &["add", "--all", "--force"]);
    git(seed, &["commit", "--quiet", "-m", "seed"]);
    let (seed, bare) = (seed.to_str().expect("UTF-8"), remote.to_str().expect("UTF-8"));
    git(Path::new("/"), &["clone", "--quiet", "--bare", seed, bare]);
    remote.to_owned()
}

/// Holds pushes of branches to a remote at a latch; salvage passes.
pub(crate) fn hold_pushes(remote: &Path, latch: &Latch) {
    let script =
        format!("#!/bin/sh\nwhile read -r old new ref; do case $ref in refs/heads/*)\n{}\n;; esac; done\n", latch.here());
    fs::create_dir_all(remote.join("hooks")).expect("a directory");
    write_program(&remote.join("hooks/pre-receive"), &script);
}

pub(super) fn write_program(path: &Path, text: &str) {
    fs::write(path, text).expect("a file");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("rights");
}

/// git without anybody's configuration.
pub(crate) fn git_command(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new("git");
    command.args(args).current_dir(dir).env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
    command.envs([("GIT_AUTHOR_NAME", "A"), ("GIT_AUTHOR_EMAIL", "a@a"), ("GIT_COMMITTER_NAME", "A")]);
    command.env("GIT_COMMITTER_EMAIL", "a@a").env("LC_ALL", "C");
    command.envs([("GIT_CONFIG_COUNT", "1"), ("GIT_CONFIG_KEY_0", "gc.auto"), ("GIT_CONFIG_VALUE_0", "0")]);
    command
}

pub(crate) fn git(dir: &Path, args: &[&str]) -> String {
    let output = git_command(dir, args).output().expect("git runs");
    assert!(output.status.success(), "git {args:?} in {}: {}", dir.display(), String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

/// The refs of a repository that begin with `prefix`, each with its object.
pub(crate) fn refs(remote: &Path, prefix: &str) -> Vec<(String, String)> {
    let text = git(remote, &["for-each-ref", "--format=%(refname) %(objectname)", prefix]);
    let line = |line: &str| line.split_once(' ').map(|(name, id)| (name.to_owned(), id.to_owned()));
    text.lines().filter_map(line).collect()
}

/// Proves that a repository is whole.
pub(crate) fn fsck(repository: &Path) {
    git(repository, &["fsck", "--full", "--no-dangling", "--no-progress"]);
}

pub(super) fn find_git() -> PathBuf {
    let path = std::env::var_os("PATH").expect("a PATH");
    std::env::split_paths(&path).map(|dir| dir.join("git")).find(|git| git.is_file()).expect("git is installed")
}
