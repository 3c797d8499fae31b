//! Worktrees as copies of a subvolume, on a Btrfs of the tests' own.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use bytesize::ByteSize;
use sawmill::git::{GitError, Provisioner, Strategy, Worktree, is_subvolume};
use sawmill::janitor::measure;
use sawmill::workspace::Trash;
use tempfile::TempDir;

use super::bases::{assert_like_a_clone, provision};
use super::fixture::{Place, committed, run, unmount_below, write};

/// A filesystem on a loop device, which goes with it.
pub(crate) struct Btrfs {
    scratch: TempDir,
    /// Where else one of its kind was mounted.
    elsewhere: Mutex<Vec<PathBuf>>,
}

impl Btrfs {
    pub(crate) fn make() -> Self {
        let scratch = TempDir::with_prefix("sawmill-btrfs-").expect("a directory");
        let disk = Self { scratch, elsewhere: Mutex::default() };
        let at = disk.path();
        fs::create_dir(&at).expect("made");
        disk.mount(&at);
        disk
    }

    /// Makes one more of its kind, which is mounted elsewhere until whoever asks unmounts it, or this goes.
    pub(crate) fn mount(&self, at: &Path) {
        let image = self.scratch.path().join(format!("image-{}", uuid::Uuid::new_v4().simple()));
        // With as much room as a worker wants to stay free; it takes what is written only.
        fs::File::create(&image).and_then(|file| file.set_len(4 << 30)).expect("an image");
        ran(Command::new("mkfs.btrfs").args(["-q", "--nodiscard"]).arg(&image));
        ran(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(at));
        self.elsewhere.lock().expect("nobody panicked").push(at.to_owned());
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.scratch.path().join("disk")
    }

    /// How many subvolumes there are, beside the filesystem's own.
    fn subvolumes(&self) -> usize {
        subvolumes(&self.path())
    }
}

impl Drop for Btrfs {
    fn drop(&mut self) {
        for at in self.elsewhere.lock().map(|mut all| std::mem::take(&mut *all)).unwrap_or_default() {
            unmount_below(&at);
        }
        unmount_below(self.scratch.path());
    }
}

/// How many subvolumes there are where one is mounted, beside the filesystem's own.
pub(crate) fn subvolumes(at: &Path) -> usize {
    ran(Command::new("btrfs").args(["subvolume", "list"]).arg(at)).lines().count()
}

fn ran(command: &mut Command) -> String {
    let output = command.output().expect("make test installs what this needs (tests/prepare.sh)");
    assert!(output.status.success(), "{command:?} (this test must run as root): {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn snapshots(place: &Place) -> Provisioner {
    Provisioner::open(&place.git, Strategy::Snapshot, ByteSize::gib(1)).expect("it is on Btrfs")
}

#[tokio::test]
async fn a_copy_of_a_base_is_a_worktree_like_any_other() {
    let disk = Btrfs::make();
    let place = Place::within(&disk.path());
    let provisioner = snapshots(&place);
    let first = place.seed(|seed| write(seed, "deep/er/file", "text\n"));
    let (one, two) = (provision(&place, &provisioner, &first, "1").await, provision(&place, &provisioner, &first, "2").await);
    let index = |tree: &Path| fs::read(tree.join(".git/index")).expect("an index");
    for worktree in [&one, &two] {
        assert!(is_subvolume(worktree.tree()));
        let before = index(worktree.tree());
        assert_like_a_clone(&place, worktree.tree(), &first);
        assert!(before == index(worktree.tree()), "no file had to be read");
    }
    let inode = |tree: &Path| tree.join("deep/er/file").metadata().expect("a file").ino();
    assert_eq!(inode(one.tree()), inode(two.tree()), "nothing was checked out");
    write(one.tree(), "README.md", "# One\n");
    fs::remove_dir_all(one.tree().join("deep")).expect("removed");
    assert_eq!(run(one.tree(), ["status", "--porcelain"]), " M README.md\n D deep/er/file");
    assert_eq!(run(two.tree(), ["status", "--porcelain"]), "");
    assert_eq!(committed(&one).await.diff.files, 2);

    // The base goes on; those that were copied from it stay as they are, and are found again.
    let second = place.seed(|seed| write(seed, "README.md", "# Two\n"));
    let three = provision(&place, &provisioner, &second, "3").await;
    assert_like_a_clone(&place, three.tree(), &second);
    assert_eq!(provisioner.bases().expect("there are some").list().expect("listed").len(), 1, "one base, moved forward");
    assert_eq!(disk.subvolumes(), 4);
    drop(two);
    let two = Worktree::open(&place.git, &place.slot("2")).expect("it is all on disk");
    assert_like_a_clone(&place, two.tree(), &first);

    let trash = Trash::new(place.trash());
    for worktree in [one, two, three] {
        worktree.discard(trash.dir()).await.expect("discarded");
    }
    trash.empty_once().expect("emptied");
    assert_eq!((disk.subvolumes(), fs::read_dir(trash.dir()).expect("the trash").count()), (1, 0), "the base is left");
}

#[tokio::test]
async fn a_subvolume_with_others_in_it_is_deleted_all_the_same() {
    let disk = Btrfs::make();
    let place = Place::within(&disk.path());
    let base = place.seed(|_| {});
    let worktree = provision(&place, &snapshots(&place), &base, "1").await;
    ran(Command::new("btrfs").args(["subvolume", "create"]).arg(worktree.tree().join("own")));
    write(worktree.tree(), "own/file", "a job's\n");
    let trash = Trash::new(place.trash());
    worktree.discard(trash.dir()).await.expect("discarded");
    trash.empty_once().expect("emptied");
    assert_eq!(fs::read_dir(trash.dir()).expect("the trash").count(), 0);
    assert_eq!(disk.subvolumes(), 1);
}

/// A subvolume with a file in it, as a job makes one.
fn own_subvolume(at: &Path) {
    ran(Command::new("btrfs").args(["subvolume", "create"]).arg(at));
    write(at, "file", vec![1; 1 << 20]);
}

fn make_read_only(subvolume: &Path) {
    ran(Command::new("btrfs").args(["property", "set", "-t", "subvol"]).arg(subvolume).args(["ro", "true"]));
}

#[tokio::test]
async fn read_only_subvolumes_of_a_job_leave_its_slot_and_the_trash() {
    let disk = Btrfs::make();
    let place = Place::within(&disk.path());
    let base = place.seed(|_| {});
    let worktree = provision(&place, &snapshots(&place), &base, "1").await;
    let (tree, home) = (worktree.tree().to_owned(), place.slot("1").join("job/home"));
    fs::create_dir(&home).expect("made");
    let all = [tree.join("own/deeper"), tree.join("own"), home.join("closed/deeper"), home.join("closed")];
    all.iter().rev().for_each(|at| own_subvolume(at));
    all.iter().chain([&tree]).for_each(|at| make_read_only(at));
    let trash = Trash::new(place.trash());
    worktree.discard(trash.dir()).await.expect("discarded");
    trash.take(&home.join("closed")).expect("taken");
    assert_eq!(trash.empty_once().expect("emptied"), 3, "the host's side, the tree, and what was beside it");
    assert_eq!(fs::read_dir(trash.dir()).expect("the trash").count(), 0);
    assert_eq!(disk.subvolumes(), 1, "the base is left");
}

#[test]
fn what_a_job_has_in_subvolumes_counts_and_what_is_mounted_does_not() {
    let (disk, other) = (Btrfs::make(), Btrfs::make());
    let dir = disk.path().join("job");
    fs::create_dir_all(dir.join("mounted")).expect("made");
    let before = measure(&dir, 100);
    for at in [dir.join("own"), dir.join("own/deeper")] {
        own_subvolume(&at);
        fs::hard_link(at.join("file"), at.join("again")).expect("linked");
    }
    write(&other.path(), "file", vec![1; 1 << 20]);
    ran(Command::new("mount").arg("--bind").arg(other.path()).arg(dir.join("mounted")));
    let found = measure(&dir, 100);
    // Files in two subvolumes have the same numbers, and what something is mounted over is not met.
    assert_eq!((before.entries, found.entries), (2, 1 + 6));
    let more = found.bytes - before.bytes;
    assert!((2 << 20..(2 << 20) + (64 << 10)).contains(&more), "{more}");
}

#[tokio::test]
async fn elsewhere_snapshots_are_an_error_or_something_else_is_chosen() {
    let place = Place::new();
    let open = |strategy| Provisioner::open(&place.git, strategy, ByteSize::gib(1));
    match open(Strategy::Snapshot) {
        Err(GitError::NoSnapshots { why }) => assert!(why.ends_with("is not on Btrfs"), "{why}"),
        // The directory for temporary files may be on one.
        made => assert!(is_subvolume(Path::new("/")) || made.is_ok(), "{made:?}"),
    }
    let chosen = open(Strategy::Auto).expect("there is always a way").strategy();
    assert_ne!(chosen, Strategy::Auto);
}
