//! The ways to a worktree: ours, and what tools usually do.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use sawmill::git::{Change, Config, Git, GitError, Mirror, Provisioner, Strategy, Worktree, set_aside};
use sawmill::ids::ObjectId;
use sawmill::workspace::Trash;

use crate::repository::Sample;
use crate::{Figures, git, git_command};

/// By which name a strategy's figures go.
const fn name_of(strategy: Strategy) -> &'static str {
    match strategy {
        Strategy::Auto => "auto",
        Strategy::Overlay => "overlay",
        Strategy::Snapshot => "snapshot",
        Strategy::Recycled => "recycled",
        Strategy::Checkout => "checkout",
    }
}

/// Our own worktrees, by one strategy.
pub(crate) struct Ours {
    name: &'static str,
    strategy: Strategy,
    state: PathBuf,
    mirror: Mirror,
    provisioner: Provisioner,
    changed: String,
}

impl Ours {
    pub(crate) fn open(sample: &Sample, strategy: Strategy) -> Self {
        Self::at(&sample.place, name_of(strategy), strategy, sample.changed())
    }

    /// As [`Ours::open`], in the place of a sample in which `changed` is to be changed.
    pub(crate) fn at(place: &Path, name: &'static str, strategy: Strategy, changed: String) -> Self {
        let state = place.join(name);
        let executable = Path::new(env!("CARGO_BIN_EXE_sawmill"));
        let git = Git::open(&config(), executable, &state.join("mirrors")).expect("git is installed");
        let provisioner = Provisioner::open(&git, strategy, ByteSize::gib(4)).expect("this host has it");
        let mirror = git.mirror(&Sample::remote_in(place).display().to_string().parse().expect("a path"));
        Self { name, strategy, state, mirror, provisioner, changed }
    }

    pub(crate) const fn name(&self) -> &'static str {
        self.name
    }

    /// Clones the mirror and makes the base, and answers what the first worktree took after that.
    pub(crate) async fn warm_up(&self) -> f64 {
        let base = self.base(1).await;
        let started = Instant::now();
        let worktree = self.provision(base, 0).await.expect("a worktree");
        let took = ms(started);
        self.remove(worktree, 0).await;
        self.empty_trash();
        took
    }

    /// One worktree, from nothing to nothing.
    pub(crate) async fn round(&self, round: usize, figures: &mut Figures) {
        let base = self.base(round).await;
        let mut note = |step, started| figures.entry((self.name(), step)).or_default().push(ms(started));
        let started = Instant::now();
        let worktree = self.provision(base, 0).await.expect("a worktree");
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
        self.remove(worktree, 0).await;
        note("removed", started);
        self.empty_trash();
    }

    /// Eight worktrees at a time: how long it took, and how many failed.
    pub(crate) async fn eight_at_once(&self) -> (f64, usize) {
        let base = self.base(0).await;
        let started = Instant::now();
        let made = futures_util::future::join_all((0..8).map(|slot| self.provision(base.clone(), slot))).await;
        let took = ms(started);
        let mut failed = 0;
        for (slot, result) in made.into_iter().enumerate() {
            match result {
                Ok(worktree) => self.remove(worktree, slot).await,
                Err(error) => {
                    println!("    FAILED: {error}");
                    failed += 1;
                }
            }
        }
        self.empty_trash();
        (took, failed)
    }

    async fn provision(&self, base: ObjectId, slot: usize) -> Result<Worktree, GitError> {
        let (mirror, provisioner, slot) = (self.mirror.clone(), self.provisioner.clone(), self.slot(slot));
        let provisioning = tokio::spawn(async move { mirror.provision(&base, &branch(), &slot, &provisioner).await });
        provisioning.await.expect("it does not panic")
    }

    /// Removes it as far as the job sees that.
    async fn remove(&self, worktree: Worktree, slot: usize) {
        if self.strategy == Strategy::Recycled {
            assert!(set_aside(&self.slot(slot), &self.state.join("trash")).expect("set aside"), "it can be used again");
        } else {
            worktree.discard(&self.state.join("trash")).await.expect("discarded");
        }
    }

    fn empty_trash(&self) {
        let trash = self.state.join("trash");
        fs::create_dir_all(&trash).expect("made");
        Trash::new(trash).empty_once().expect("emptied");
    }

    /// What a recycled tree is moved to is twenty commits away each time.
    async fn base(&self, round: usize) -> ObjectId {
        let name = if self.strategy == Strategy::Recycled && round % 2 == 1 { "later" } else { "main" };
        self.mirror.resolve(name).await.expect("it is there")
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

/// Copying a checkout whose files share what is in them, by two processes.
pub(crate) fn reflinks(sample: &Sample, figures: &mut Figures) {
    let (base, copy) = (sample.place.join("reflink-base"), sample.place.join("reflink-copy"));
    if !base.exists() {
        git(&bare_clone(sample), &["worktree", "add", "--quiet", "--detach", text(&base), "main"]);
    }
    let entries: Vec<PathBuf> = fs::read_dir(&base).expect("a directory").flatten().map(|entry| entry.path()).collect();
    fs::create_dir(&copy).expect("made");
    let started = Instant::now();
    let children: Vec<_> = entries
        .chunks(entries.len().div_ceil(2))
        .map(|part| {
            std::process::Command::new("cp").args(["-a", "--reflink=always"]).args(part).arg(&copy).spawn().expect("cp runs")
        })
        .collect();
    for mut child in children {
        assert!(child.wait().expect("an end").success(), "cp copies");
    }
    figures.entry(("cp --reflink", "ready")).or_default().push(ms(started));
    fs::remove_dir_all(&copy).expect("removed");
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
        prune: Duration::ZERO,
        mirror_ttl: Duration::ZERO,
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
