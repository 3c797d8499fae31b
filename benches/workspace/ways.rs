//! The ways to a worktree: ours, and what tools usually do.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use sawmill::git::{Change, Config, Git, Mirror, Provisioner, Strategy};
use sawmill::ids::ObjectId;

use crate::repository::Sample;
use crate::{Figures, git, git_command};

/// Our own worktrees, by one strategy.
pub(crate) struct Ours {
    name: &'static str,
    state: PathBuf,
    mirror: Mirror,
    provisioner: Provisioner,
    changed: String,
}

impl Ours {
    pub(crate) fn open(sample: &Sample, strategy: Strategy) -> Self {
        let name = if strategy == Strategy::Overlay { "overlay" } else { "checkout" };
        Self::at(&sample.place, name, strategy, sample.changed())
    }

    /// As [`Ours::open`], in the place of a sample in which `changed` is to be changed.
    pub(crate) fn at(place: &Path, name: &'static str, strategy: Strategy, changed: String) -> Self {
        let state = place.join(name);
        let executable = Path::new(env!("CARGO_BIN_EXE_sawmill"));
        let git = Git::open(&config(), executable, &state.join("mirrors")).expect("git is installed");
        let provisioner = Provisioner::open(&git, strategy, ByteSize::gib(4)).expect("overlays need root");
        let mirror = git.mirror(&Sample::remote_in(place).display().to_string().parse().expect("a path"));
        Self { name, state, mirror, provisioner, changed }
    }

    /// Clones the mirror and makes the base, and answers what the first worktree took after that.
    pub(crate) async fn warm_up(&self) -> f64 {
        let base = self.base().await;
        let started = Instant::now();
        let worktree = self.mirror.provision(&base, &branch(), &self.slot(0), &self.provisioner).await.expect("a worktree");
        let took = ms(started);
        worktree.discard(&self.state.join("trash")).await.expect("discarded");
        took
    }

    /// One worktree, from nothing to nothing.
    pub(crate) async fn round(&self, round: usize, figures: &mut Figures) {
        let base = self.base().await;
        let mut note = |step, started| figures.entry((self.name, step)).or_default().push(ms(started));
        let started = Instant::now();
        let worktree = self.mirror.provision(&base, &branch(), &self.slot(0), &self.provisioner).await.expect("a worktree");
        note("ready", started);
        let started = Instant::now();
        git(worktree.tree(), &["status", "--porcelain"]);
        note("first status", started);
        change(worktree.tree(), &self.changed, round);
        let started = Instant::now();
        let change = worktree.commit("A change\n").await.expect("committed");
        note("commit", started);
        assert!(matches!(change, Change::Commit(made) if made.diff.files == 2), "two files were changed");
        let started = Instant::now();
        worktree.discard(&self.state.join("trash")).await.expect("discarded");
        note("removed", started);
        fs::remove_dir_all(self.state.join("trash")).expect("emptied");
    }

    /// Eight worktrees at a time.
    pub(crate) async fn eight_at_once(&self) -> f64 {
        let base = self.base().await;
        let started = Instant::now();
        let mut tasks = tokio::task::JoinSet::new();
        for slot in 0..8 {
            let (mirror, provisioner, base, slot) =
                (self.mirror.clone(), self.provisioner.clone(), base.clone(), self.slot(slot));
            tasks.spawn(async move { mirror.provision(&base, &branch(), &slot, &provisioner).await.expect("a worktree") });
        }
        let made = tasks.join_all().await;
        let took = ms(started);
        for worktree in made {
            worktree.discard(&self.state.join("trash")).await.expect("discarded");
        }
        fs::remove_dir_all(self.state.join("trash")).expect("emptied");
        took
    }

    async fn base(&self) -> ObjectId {
        self.mirror.resolve("main").await.expect("main is there")
    }

    fn slot(&self, number: usize) -> PathBuf {
        self.state.join("slots").join(number.to_string())
    }
}

/// `git worktree add`, and what goes with it.
pub(crate) fn worktree_add(sample: &Sample, round: usize, figures: &mut Figures) {
    let (clone, tree) = (bare_clone(sample), sample.place.join("worktree"));
    let mut timed = |step, work: &dyn Fn()| {
        let started = Instant::now();
        work();
        figures.entry(("git worktree", step)).or_default().push(ms(started));
    };
    timed("ready", &|| git(&clone, &["worktree", "add", "--quiet", "--detach", text(&tree), "main"]));
    timed("first status", &|| git(&tree, &["status", "--porcelain"]));
    change(&tree, &sample.changed(), round);
    timed("commit", &|| {
        git(&tree, &["add", "-A"]);
        git(&tree, &["commit", "--quiet", "-m", "A change"]);
    });
    timed("removed", &|| git(&clone, &["worktree", "remove", "--force", text(&tree)]));
}

/// `git clone --shared`.
pub(crate) fn clone_shared(sample: &Sample, round: usize, figures: &mut Figures) {
    let (clone, tree) = (bare_clone(sample), sample.place.join(format!("shared-{round}")));
    let started = Instant::now();
    git(&sample.place, &["clone", "--quiet", "--shared", text(&clone), text(&tree)]);
    figures.entry(("git clone --shared", "ready")).or_default().push(ms(started));
    let started = Instant::now();
    fs::remove_dir_all(&tree).expect("removed");
    figures.entry(("git clone --shared", "removed")).or_default().push(ms(started));
}

/// The limit of any checkout: the files' contents, from memory, by two threads.
pub(crate) fn bare_writing(sample: &Sample, round: usize, figures: &mut Figures) {
    let tree = sample.place.join(format!("bare-{round}"));
    let started = Instant::now();
    std::thread::scope(|scope| {
        for part in sample.files.chunks(sample.files.len().div_ceil(2)) {
            let tree = &tree;
            scope.spawn(move || {
                let mut last = PathBuf::new();
                for (path, contents) in part {
                    let path = tree.join(path);
                    let parent = path.parent().expect("a parent");
                    if parent != last {
                        fs::create_dir_all(parent).expect("made");
                        last = parent.to_owned();
                    }
                    fs::write(path, contents).expect("written");
                }
            });
        }
    });
    figures.entry(("bare writing", "ready")).or_default().push(ms(started));
    let started = Instant::now();
    fs::remove_dir_all(&tree).expect("removed");
    figures.entry(("bare writing", "removed")).or_default().push(ms(started));
}

/// Eight at a time; how many fail.
pub(crate) fn eight_worktree_adds(sample: &Sample) -> usize {
    let clone = bare_clone(sample);
    let trees: Vec<PathBuf> = (0..8).map(|number| sample.place.join(format!("at-once-{number}"))).collect();
    let add = |tree: &PathBuf| git_command(&clone, &["worktree", "add", "--quiet", "--detach", text(tree), "main"]).spawn();
    let children: Vec<_> = trees.iter().map(|tree| add(tree).expect("git runs")).collect();
    let ends = children.into_iter().map(|mut child| child.wait().expect("an end").success());
    let failed = ends.filter(|ended| !ended).count();
    for tree in trees.iter().filter(|tree| tree.exists()) {
        fs::remove_dir_all(tree).expect("removed");
    }
    failed
}

/// A bare clone to make worktrees from, as a tool would keep one.
fn bare_clone(sample: &Sample) -> PathBuf {
    let clone = sample.place.join("clone.git");
    if !clone.exists() {
        git(&sample.place, &["clone", "--quiet", "--bare", text(&sample.remote), text(&clone)]);
    }
    clone
}

/// What a small job does: one file changed, one made.
fn change(tree: &Path, path: &str, round: usize) {
    fs::write(tree.join(path), format!("changed in round {round}\n")).expect("written");
    fs::write(tree.join("CHANGED.txt"), format!("made in round {round}\n")).expect("written");
}

fn config() -> Config {
    Config {
        program: PathBuf::from("git"),
        search_path: "/usr/local/bin:/usr/bin:/bin".to_owned(),
        environment: BTreeMap::new(),
        safe_directories: Vec::new(),
        author_name: "bench".to_owned(),
        author_email: "bench@localhost".to_owned(),
        local_timeout: Duration::from_secs(120),
        network_timeout: Duration::from_secs(120),
        maintenance: Duration::ZERO,
        maximum_file: ByteSize::gib(2),
    }
}

fn branch() -> sawmill::job::BranchName {
    "job/bench".parse().expect("a branch name")
}

fn ms(started: Instant) -> f64 {
    started.elapsed().as_secs_f64() * 1e3
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}
