//! A remote with some content, a daemon's state directory, and git as an ordinary user would run it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use bytesize::ByteSize;
use sawmill::git::{Change, Committed, Config, Git, GitError, Mirror, Provisioner, Remote, Strategy, Worktree};
use sawmill::ids::ObjectId;
use sawmill::job::BranchName;
use tempfile::TempDir;

pub(crate) fn config() -> Config {
    Config {
        program: PathBuf::from("git"),
        search_path: "/usr/local/bin:/usr/bin:/bin".to_owned(),
        environment: BTreeMap::new(),
        safe_directories: Vec::new(),
        author_name: "Sawmill".to_owned(),
        author_email: "sawmill@example.com".to_owned(),
        local_timeout: Duration::from_secs(60),
        network_timeout: Duration::from_secs(120),
        maintenance: Duration::ZERO,
        prune: Duration::ZERO,
        mirror_ttl: Duration::ZERO,
        maximum_file: ByteSize::gib(2),
    }
}

/// The program that what talks to a remote is tethered by.
pub(crate) fn sawmill() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_sawmill"))
}

/// Everything that one test needs, below one directory that is removed with it.
pub(crate) struct Place {
    pub(crate) root: TempDir,
    pub(crate) git: Git,
    pub(crate) mirror: Mirror,
    pub(crate) provisioner: Provisioner,
}

/// Which worktrees the tests make: what `SAWMILL_TEST_STRATEGY` says, overlays where it says nothing.
pub(crate) fn strategy() -> Strategy {
    match std::env::var("SAWMILL_TEST_STRATEGY").as_deref() {
        Err(_) | Ok("overlay") => Strategy::Overlay,
        // As TMPDIR has to be on Btrfs for it.
        Ok("snapshot") => Strategy::Snapshot,
        Ok("recycled") => Strategy::Recycled,
        Ok("checkout") => Strategy::Checkout,
        Ok(other) => panic!("SAWMILL_TEST_STRATEGY is {other:?}, which is no strategy"),
    }
}

/// What makes worktrees in a test. Overlays need root, and a filesystem that can carry them, which a test that fails here says.
pub(crate) fn provisioner(git: &Git) -> Provisioner {
    Provisioner::open(git, strategy(), ByteSize::gib(1)).expect("worktrees can be made as the tests are to make them")
}

impl Drop for Place {
    fn drop(&mut self) {
        unmount_below(self.root.path());
    }
}

/// Takes off whatever is mounted below a directory of a test that is to be removed.
pub(crate) fn unmount_below(dir: &Path) {
    for at in mounts_below(dir).into_iter().rev() {
        nix::mount::umount2(&at, nix::mount::MntFlags::MNT_DETACH).expect("unmounted");
    }
}

/// What is mounted below a directory, the outer before the inner.
pub(crate) fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("the list of mounts");
    let at = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    at.filter(|at| at.starts_with(dir)).collect()
}

impl Place {
    /// A remote whose branch `main` has a few files.
    pub(crate) fn new() -> Self {
        Self::within(&std::env::temp_dir())
    }

    /// The same, below another directory than that of temporary files.
    pub(crate) fn within(dir: &Path) -> Self {
        let place = Self::made(&config(), dir);
        place.seed(|seed| {
            write(seed, "README.md", "# A project\n");
            write(seed, "src/main.rs", "fn main() {}\n");
            write(seed, "src/lib.rs", "//! Nothing.\n");
            write(seed, ".gitignore", "/target/\n*.tmp\n");
        });
        place
    }

    /// A remote without a commit.
    pub(crate) fn with_config(config: &Config) -> Self {
        Self::made(config, &std::env::temp_dir())
    }

    fn made(config: &Config, dir: &Path) -> Self {
        let root = TempDir::with_prefix_in("sawmill-git-", dir).expect("a temporary directory");
        run(root.path(), ["init", "--quiet", "--bare", "--initial-branch=main", "remote.git"]);
        run(root.path(), ["init", "--quiet", "--initial-branch=main", "seed"]);
        let git = Git::open(config, sawmill(), &root.path().join("state/mirrors")).expect("git is installed");
        let remote = root.path().join("remote.git").display().to_string().parse::<Remote>().expect("a path");
        let mirror = git.mirror(&remote);
        let provisioner = provisioner(&git);
        Self { root, git, mirror, provisioner }
    }

    /// Changes the seed, commits everything in it and pushes it as `main`.
    pub(crate) fn seed(&self, edit: impl FnOnce(&Path)) -> ObjectId {
        let seed = self.seed_dir();
        edit(&seed);
        run(&seed, ["add", "-A"]);
        run(&seed, ["commit", "--quiet", "--allow-empty", "-m", "seed"]);
        run(&seed, ["push", "--quiet", self.remote_dir().to_str().expect("UTF-8"), "HEAD:refs/heads/main"]);
        id(&seed, "HEAD")
    }

    pub(crate) fn seed_dir(&self) -> PathBuf {
        self.root.path().join("seed")
    }

    pub(crate) fn remote_dir(&self) -> PathBuf {
        self.root.path().join("remote.git")
    }

    pub(crate) fn slot(&self, name: &str) -> PathBuf {
        self.root.path().join("state/slots").join(name)
    }

    pub(crate) fn trash(&self) -> PathBuf {
        self.root.path().join("state/trash")
    }

    /// A worktree at the tip of `main`, in a slot of this name.
    pub(crate) async fn worktree(&self, slot: &str) -> Worktree {
        let base = self.mirror.resolve("main").await.expect("main is there");
        self.mirror
            .provision(&base, &branch(&format!("job/{slot}")), &self.slot(slot), &self.provisioner)
            .await
            .expect("a worktree")
    }
}

pub(crate) fn branch(name: &str) -> BranchName {
    name.parse().expect("a branch name")
}

pub(crate) fn write(dir: &Path, path: &str, contents: impl AsRef<[u8]>) {
    let path = dir.join(path);
    fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
    fs::write(path, contents).expect("a file");
}

pub(crate) fn make_executable(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("rights");
}

/// git as a user without any configuration runs it.
pub(crate) fn git_command<S: AsRef<OsStr>>(dir: &Path, args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new("git");
    command.args(args).current_dir(dir).env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
    command.envs([("GIT_AUTHOR_NAME", "A"), ("GIT_AUTHOR_EMAIL", "a@a"), ("GIT_COMMITTER_NAME", "A")]);
    command.env("GIT_COMMITTER_EMAIL", "a@a").env("LC_ALL", "C");
    for (index, (key, value)) in [("protocol.file.allow", "always"), ("core.quotePath", "false")].iter().enumerate() {
        command.env(format!("GIT_CONFIG_KEY_{index}"), key).env(format!("GIT_CONFIG_VALUE_{index}"), value);
    }
    command.env("GIT_CONFIG_COUNT", "2");
    command
}

pub(crate) fn try_run<S: AsRef<OsStr>>(dir: &Path, args: impl IntoIterator<Item = S>) -> Output {
    git_command(dir, args).output().expect("git runs")
}

pub(crate) fn run<S: AsRef<OsStr>>(dir: &Path, args: impl IntoIterator<Item = S>) -> String {
    let output = try_run(dir, args);
    assert!(output.status.success(), "git failed in {}: {}", dir.display(), String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

pub(crate) fn id(dir: &Path, revision: &str) -> ObjectId {
    run(dir, ["rev-parse", "--verify", revision]).parse().expect("an object id")
}

/// Paths with their modes, as `git ls-tree -r` lists them.
pub(crate) fn list_tree(dir: &Path, tree: &ObjectId) -> Vec<String> {
    let text = run(dir, ["ls-tree", "-r", "--format=%(objectmode) %(path)", tree.as_str()]);
    text.lines().map(str::to_owned).collect()
}

pub(crate) fn show(dir: &Path, spec: &str) -> Vec<u8> {
    let output = try_run(dir, ["cat-file", "blob", spec]);
    assert!(output.status.success(), "{spec}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// The commit that must have been made.
pub(crate) async fn committed(worktree: &Worktree) -> Committed {
    match worktree.commit("A change\n").await {
        Ok(Change::Commit(committed)) => committed,
        other => panic!("no commit: {other:?}"),
    }
}

/// The path and the reason of a refusal that must have been given.
pub(crate) async fn refused(worktree: &Worktree) -> (String, String) {
    match worktree.commit("A change\n").await {
        Err(GitError::Refused { path, why }) => (path, why),
        other => panic!("not refused: {other:?}"),
    }
}

/// What is in a directory of the host's that a commit could have left behind.
pub(crate) fn leftovers(slot: &Path) -> Vec<String> {
    let entries = fs::read_dir(slot.join("host.git")).expect("the host's git directory");
    let names = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
    names.filter(|name| name.contains("lock") || name.starts_with("stage-")).collect()
}

/// What there is in a slot and in what its job sees, which itself stays.
pub(crate) fn parts(slot: &Path) -> Vec<String> {
    let names = |dir: &Path, before: &str| -> Vec<String> {
        let entries = fs::read_dir(dir).expect("it is there");
        entries.map(|entry| format!("{before}{}", entry.expect("readable").file_name().display())).collect()
    };
    let mut parts = names(slot, "");
    parts.extend(names(&slot.join("job"), "job/"));
    parts.sort_unstable();
    parts
}
