//! Remotes on this host, git as their owner runs it, and latches that hold processes.

use std::fs;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::libc::O_NONBLOCK;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::host::until;
use super::mark::in_a_slot;

/// A place at which processes are held while it is closed.
pub(crate) enum Latch {
    /// On the host, at this path.
    Outside(PathBuf),
    /// In what a job sees of its slot, below this directory of workers: closed for first attempts.
    Inside { workers: PathBuf, name: String },
}

impl Latch {
    pub(super) fn at(place: PathBuf) -> Self {
        Self::Outside(place)
    }

    pub(super) fn within(workers: &Path, name: &str) -> Self {
        Self::Inside { workers: workers.to_owned(), name: format!("latch-{name}") }
    }

    /// What a shell does at the latch of this path.
    pub(super) fn script(place: &str) -> String {
        format!("if [ -e \"{place}.closed\" ]; then : > \"{place}.reached\"; read -r line < \"{place}.fifo\" || :; fi")
    }

    /// What a shell does here.
    pub(crate) fn here(&self) -> String {
        match self {
            Self::Outside(place) => Self::script(place.to_str().expect("UTF-8")),
            Self::Inside { name, .. } => format!(
                "if [ \"$SAWMILL_ATTEMPT\" = 1 ]; then : > /workspace/{name}.reached; \
                 while [ ! -e /workspace/{name}.open ]; do sleep 0.02; done; fi"
            ),
        }
    }

    fn part(&self, part: &str) -> Option<PathBuf> {
        match self {
            Self::Outside(place) => Some(PathBuf::from(format!("{}.{part}", place.display()))),
            Self::Inside { workers, name } => {
                let reached = in_a_slot(workers, &format!("{name}.reached"));
                reached.map(|path| path.with_file_name(format!("{name}.{part}")))
            }
        }
    }

    pub(crate) fn close(&self) {
        if let Self::Outside(place) = self {
            let part = |part: &str| PathBuf::from(format!("{}.{part}", place.display()));
            mkfifo(&part("fifo"), Mode::S_IRUSR | Mode::S_IWUSR).expect("a fifo");
            fs::write(part("closed"), "").expect("a file");
        }
    }

    /// Waits until somebody is held here.
    pub(crate) async fn reached(&self) {
        until("the latch is reached", async || self.part("reached").is_some_and(|path| path.exists())).await;
    }

    /// Nobody is held any more who comes from now on; who is held stays so.
    pub(crate) fn lift(&self) {
        if let Self::Outside(place) = self {
            fs::remove_file(format!("{}.closed", place.display())).expect("it was closed");
        }
    }

    /// Lets those go on who are held.
    pub(crate) async fn release(&self) {
        until("somebody is held at the latch", async || self.let_go()).await;
    }

    /// Lets those go on who are held, if any.
    pub(crate) fn let_go(&self) -> bool {
        match self {
            Self::Outside(_) => {
                let fifo = self.part("fifo").expect("a path");
                fs::OpenOptions::new().write(true).custom_flags(O_NONBLOCK).open(fifo).is_ok()
            }
            Self::Inside { .. } => self.part("open").is_some_and(|path| fs::write(path, "").is_ok()),
        }
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

pub(crate) fn write_program(path: &Path, text: &str) {
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

pub(crate) fn find_git() -> PathBuf {
    let path = std::env::var_os("PATH").expect("a PATH");
    std::env::split_paths(&path).map(|dir| dir.join("git")).find(|git| git.is_file()).expect("git is installed")
}
