//! Base checkouts and the overlays over them, whatever the other tests' strategy is.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bytesize::ByteSize;
use sawmill::git::{BaseUse, Git, GitError, Provisioner, Strategy, Worktree, release, relocate, revive};
use sawmill::ids::ObjectId;
use sawmill::janitor::{Lease, Space};

use super::fixture::{Place, branch, committed, config, mounts_below, parts, run, sawmill, unmount_below, write};

/// What mounts overlays, with so much room for bases.
fn overlays(place: &Place, budget: ByteSize) -> Provisioner {
    Provisioner::open(&place.git, Strategy::Overlay, budget).expect("overlays can be mounted here, by root")
}

pub(super) async fn provision(place: &Place, provisioner: &Provisioner, base: &ObjectId, slot: &str) -> Worktree {
    let base = place.mirror.resolve(base.as_str()).await.expect("it is there");
    place.mirror.provision(&base, &branch(&format!("job/{slot}")), &place.slot(slot), provisioner).await.expect("a worktree")
}

fn bases(provisioner: &Provisioner) -> Vec<BaseUse> {
    provisioner.bases().expect("overlays stand on bases").list().expect("listed")
}

fn commits(provisioner: &Provisioner) -> Vec<ObjectId> {
    let mut commits: Vec<_> = bases(provisioner).into_iter().map(|base| base.commit).collect();
    commits.sort();
    commits
}

/// All files of a tree but git's own, with contents and modes.
pub(super) fn contents(tree: &Path) -> Vec<(PathBuf, u32, Vec<u8>)> {
    let mut found = Vec::new();
    let mut left = vec![tree.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(&dir).expect("a directory").flatten() {
            let (path, meta) = (entry.path(), entry.metadata().expect("an entry"));
            if entry.file_name() == ".git" {
                continue;
            } else if meta.is_dir() {
                left.push(path);
            } else {
                let text = if meta.is_symlink() { Vec::new() } else { fs::read(&path).expect("a file") };
                found.push((path.strip_prefix(tree).expect("below").to_owned(), meta.mode(), text));
            }
        }
    }
    found.sort();
    found
}

/// Holds a tree against a plain clone's, and its index against the files.
pub(super) fn assert_like_a_clone(place: &Place, tree: &Path, commit: &ObjectId) {
    let plain = place.root.path().join("plain");
    if plain.exists() {
        fs::remove_dir_all(&plain).expect("removed");
    }
    run(place.root.path(), ["clone", "--quiet", "--no-checkout", "remote.git", "plain"]);
    run(&plain, ["checkout", "--quiet", "--detach", commit.as_str()]);
    assert_eq!(contents(tree), contents(&plain));
    assert_eq!(run(tree, ["status", "--porcelain"]), "");
    assert_eq!(run(tree, ["rev-parse", "HEAD"]), commit.as_str());
    assert_eq!(run(tree, ["write-tree"]), run(tree, ["rev-parse", "HEAD^{tree}"]));
    run(tree, ["diff-files", "--quiet"]);
}

#[tokio::test]
async fn worktrees_at_one_commit_share_a_base_and_see_nothing_of_each_other() {
    let place = Place::new();
    let provisioner = overlays(&place, ByteSize::gib(1));
    let main = place.seed(|_| {});
    let (one, two) = (provision(&place, &provisioner, &main, "1").await, provision(&place, &provisioner, &main, "2").await);
    assert_eq!(one.base_dir(), two.base_dir());
    write(one.tree(), "README.md", "# One\n");
    fs::remove_dir_all(one.tree().join("src")).expect("removed");
    fs::rename(two.tree().join("src"), two.tree().join("moved")).expect("a directory of the base can be renamed");
    assert_eq!(committed(&one).await.diff.files, 3);
    assert_eq!(committed(&two).await.diff.files, 4);
    assert_eq!(fs::read_to_string(two.tree().join("README.md")).expect("a file"), "# A project\n");
    let list = bases(&provisioner);
    let mut leases = list[0].leases.clone();
    leases.sort();
    assert_eq!((list.len(), leases), (1, vec![place.slot("1"), place.slot("2")]));
    assert!(list[0].bytes > 4 * 4096, "{list:?}");
    let third = provision(&place, &provisioner, &main, "3").await;
    assert_like_a_clone(&place, third.tree(), &main);
}

#[tokio::test]
async fn a_base_is_brought_forward_where_nobody_stands_on_it_and_kept_where_somebody_does() {
    let place = Place::new();
    let provisioner = overlays(&place, ByteSize::gib(1));
    let first = place.seed(|seed| (0..50).for_each(|n| write(seed, &format!("many/{n}"), format!("{n}\n"))));
    let worktree = provision(&place, &provisioner, &first, "1").await;
    let second = place.seed(|seed| {
        write(seed, "many/7", "changed\n");
        fs::remove_file(seed.join("many/8")).expect("removed");
        fs::remove_dir_all(seed.join("src")).expect("removed");
        write(seed, "src", "a file in a directory's place\n");
    });
    let other = provision(&place, &provisioner, &second, "2").await;
    assert_like_a_clone(&place, other.tree(), &second);
    assert_like_a_clone(&place, worktree.tree(), &first);
    assert_eq!(bases(&provisioner).len(), 2, "the first is leased");

    let inode = |tree: &Path| fs::metadata(tree.join("many/9")).expect("a file").ino();
    let before = inode(other.tree());
    other.discard(&place.trash()).await.expect("discarded");
    let third = place.seed(|seed| write(seed, "many/9b", "new\n"));
    let other = provision(&place, &provisioner, &third, "2").await;
    assert_like_a_clone(&place, other.tree(), &third);
    assert_eq!(inode(other.tree()), before, "the file was not written again");
    let mut expected = vec![first, third];
    expected.sort();
    assert_eq!(commits(&provisioner), expected);
}

#[tokio::test]
async fn a_base_of_another_branch_stays_and_attributes_that_change_are_obeyed() {
    let place = Place::new();
    let provisioner = overlays(&place, ByteSize::gib(1));
    let first = place.seed(|seed| {
        write(seed, ".gitattributes", "*.txt text\n");
        write(seed, "a.txt", "one\ntwo\n");
    });
    provision(&place, &provisioner, &first, "1").await.discard(&place.trash()).await.expect("discarded");
    let second = place.seed(|seed| write(seed, ".gitattributes", "*.txt text eol=crlf\n"));
    let worktree = provision(&place, &provisioner, &second, "1").await;
    assert_eq!(fs::read(worktree.tree().join("a.txt")).expect("a file"), b"one\r\ntwo\r\n", "as a fresh checkout has it");
    worktree.discard(&place.trash()).await.expect("discarded");
    let worktree = provision(&place, &provisioner, &first, "1").await;
    assert_like_a_clone(&place, worktree.tree(), &first);
    let mut expected = vec![first, second];
    expected.sort();
    assert_eq!(commits(&provisioner), expected, "the second does not go on to the first");
}

#[tokio::test]
async fn bases_go_when_they_take_too_much_and_never_while_leased() {
    let place = Place::new();
    let provisioner = overlays(&place, ByteSize::b(0));
    let first = place.seed(|_| {});
    let one = provision(&place, &provisioner, &first, "1").await;
    let second = place.seed(|seed| write(seed, "more", "more"));
    let two = provision(&place, &provisioner, &second, "2").await;
    assert_eq!(bases(&provisioner).len(), 2, "both are leased");
    let shrink = || provisioner.bases().expect("bases").shrink_once(Space::default()).expect("shrunk");
    assert_eq!(shrink(), [""; 0].map(PathBuf::from));
    let base = one.base_dir().expect("a base").to_owned();
    one.discard(&place.trash()).await.expect("discarded");
    assert_eq!(shrink(), [base]);
    assert_eq!(commits(&provisioner), [second]);
    assert_eq!(fs::read_to_string(two.tree().join("more")).expect("a file"), "more");
    // Within the budget nothing goes, unless the disk lacks room.
    two.discard(&place.trash()).await.expect("discarded");
    let provisioner = overlays(&place, ByteSize::gib(1));
    let roomy = provisioner.bases().expect("bases");
    assert_eq!(roomy.list().expect("listed").len(), 1);
    let three = provision(&place, &provisioner, &commits(&provisioner)[0], "3").await;
    assert_eq!(roomy.shrink_once(Space::of_bytes(1)).expect("shrunk").len(), 0, "it is leased");
    three.discard(&place.trash()).await.expect("discarded");
    let judged = roomy.judged(Space::of_bytes(1)).expect("judged");
    assert!(matches!(&judged[0].1, Lease::Over(why) if why.starts_with("the disk lacks 1 B")), "{judged:?}");
    assert!(matches!(&roomy.judged(Space::default()).expect("judged")[0].1, Lease::Held(_)));
    assert_eq!(roomy.shrink_once(Space::of_bytes(1)).expect("shrunk").len(), 1);
    assert_eq!(roomy.list().expect("listed").len(), 0);
}

#[tokio::test]
async fn what_a_killed_process_left_of_a_base_does_not_stop_the_next() {
    let place = Place::new();
    let provisioner = overlays(&place, ByteSize::gib(1));
    let main = place.seed(|_| {});
    let worktree = provision(&place, &provisioner, &main, "1").await;
    let base = worktree.base_dir().expect("a base").to_owned();
    worktree.discard(&place.trash()).await.expect("discarded");
    fs::remove_file(base.join("base.json")).expect("not yet whole");
    fs::rename(&base, base.with_file_name(".new-1")).expect("not yet named");
    let worktree = provision(&place, &provisioner, &main, "1").await;
    assert_like_a_clone(&place, worktree.tree(), &main);
    let names = fs::read_dir(base.parent().expect("a directory")).expect("read").flatten();
    let names: Vec<_> = names.map(|entry| entry.file_name()).filter(|name| name != ".lock").collect();
    assert_eq!(names, [base.file_name().expect("a name")]);
}

#[tokio::test]
async fn a_base_of_an_earlier_boot_is_not_used_and_goes() {
    let place = Place::new();
    let main = place.seed(|_| {});
    let provisioner = overlays(&place, ByteSize::gib(1));
    let worktree = provision(&place, &provisioner, &main, "1").await;
    let base = worktree.base_dir().expect("a base").to_owned();
    worktree.discard(&place.trash()).await.expect("discarded");
    let earlier = base.with_file_name(format!("{main}-00000000"));
    fs::rename(&base, &earlier).expect("of another boot");
    assert!(!bases(&provisioner)[0].usable);
    let worktree = provision(&place, &provisioner, &main, "1").await;
    assert_eq!(worktree.base_dir(), Some(base.as_path()));
    assert!(!earlier.exists(), "it went when the next was made");
}

#[tokio::test]
async fn after_a_start_of_the_host_a_worktree_is_mounted_again_with_all_that_was_written() {
    let place = Place::new();
    let main = place.seed(|_| {});
    let worktree = provision(&place, &overlays(&place, ByteSize::gib(1)), &main, "1").await;
    write(worktree.tree(), "new", "new");
    fs::remove_file(worktree.tree().join("README.md")).expect("removed");
    fs::rename(worktree.tree().join("src"), worktree.tree().join("moved")).expect("renamed");
    let tree = worktree.tree().to_owned();
    drop(worktree);
    unmount_below(&tree);
    assert!(fs::read_dir(&tree).expect("the place of the mount").next().is_none());
    for round in 0..2 {
        let again = Worktree::open(&place.git, &place.slot("1")).expect("mounted again");
        assert_eq!(mounts_below(&tree), [tree.as_path()], "once, in round {round}");
        let made = committed(&again).await;
        assert_eq!(made.diff.files, 6, "{:?}", made.diff);
    }
    // A job that was root put something else into its place.
    unmount_below(&tree);
    fs::remove_dir(&tree).expect("removed");
    std::os::unix::fs::symlink("/etc", &tree).expect("a link");
    let again = Worktree::open(&place.git, &place.slot("1")).expect("mounted again");
    assert_eq!(committed(&again).await.diff.files, 6);
}

#[tokio::test]
async fn a_worktree_that_is_kept_stays_what_it_was_with_its_base() {
    let place = Place::new();
    let provisioner = overlays(&place, ByteSize::b(0));
    let main = place.seed(|_| {});
    let worktree = provision(&place, &provisioner, &main, "1").await;
    write(worktree.tree(), "new", "new");
    drop(worktree);
    let kept = place.root.path().join("state/kept/1");
    relocate(&place.slot("1"), &kept, &place.trash()).expect("kept");
    assert_eq!(parts(&place.slot("1")), ["job"]);
    assert_eq!(bases(&provisioner)[0].leases, std::slice::from_ref(&kept));
    assert_eq!(provisioner.bases().expect("bases").shrink_once(Space::default()).expect("shrunk").len(), 0);
    assert_eq!(run(&kept.join("job/tree"), ["status", "--porcelain"]), "?? new");
    // The slot serves the next job, and the host is started again.
    provision(&place, &provisioner, &main, "1").await;
    unmount_below(&kept);
    revive(&kept, &place.trash()).expect("mounted again");
    let found = Worktree::open(&place.git, &kept).expect("a worktree");
    assert_eq!(committed(&found).await.diff.files, 1);
    release(&kept).expect("unmounted");
    assert_eq!(mounts_below(&kept), [""; 0].map(PathBuf::from));
}

#[tokio::test]
async fn a_worktree_that_somebody_still_uses_goes_all_the_same() {
    let place = Place::new();
    let provisioner = overlays(&place, ByteSize::gib(1));
    let main = place.seed(|_| {});
    let worktree = provision(&place, &provisioner, &main, "1").await;
    let tree = worktree.tree().to_owned();
    let mut stranger = Command::new("cat").current_dir(&tree).stdin(Stdio::piped()).spawn().expect("a process");
    worktree.discard(&place.trash()).await.expect("discarded");
    assert_eq!(mounts_below(&tree), [""; 0].map(PathBuf::from));
    let next = provision(&place, &provisioner, &main, "1").await;
    assert_like_a_clone(&place, next.tree(), &main);
    drop(stranger.stdin.take());
    stranger.wait().expect("it ends");
}

#[tokio::test]
async fn where_overlays_cannot_be_had_worktrees_are_recycled_and_it_is_said_why() {
    let place = Place::new();
    let main = place.seed(|_| {});
    // An overlay cannot write into another one.
    let worktree = provision(&place, &overlays(&place, ByteSize::gib(1)), &main, "1").await;
    let git = Git::open(&config(), sawmill(), &worktree.tree().join("state/mirrors")).expect("git");
    let open = |strategy| Provisioner::open(&git, strategy, ByteSize::gib(1));
    let error = open(Strategy::Overlay).expect_err("there are none");
    assert!(matches!(error, GitError::NoOverlays { .. }));
    insta::assert_snapshot!(error, @"cannot make worktrees by overlay: the kernel mounts none for this user on this filesystem (invalid argument); set workspace.strategy to auto or checkout");
    let provisioner = open(Strategy::Auto).expect("there is always a way");
    assert_eq!(provisioner.strategy(), Strategy::Recycled);
    insta::assert_snapshot!(provisioner.reason(), @"no overlays: the kernel mounts none for this user on this filesystem (invalid argument); no snapshots: the state directory is not on Btrfs");
    let mirror = git.mirror(place.mirror.remote());
    let base = mirror.resolve("main").await.expect("main");
    let made = mirror.provision(&base, &branch("b"), &worktree.tree().join("state/slots/1"), &provisioner).await;
    let made = made.expect("a worktree");
    assert_eq!(made.base_dir(), None);
    assert_like_a_clone(&place, made.tree(), &main);
}
