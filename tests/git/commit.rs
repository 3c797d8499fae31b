//! The tree as the job left it, in every shape that a job leaves trees in.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use bytesize::ByteSize;
use sawmill::git::{Change, Git, GitError, Provisioner, Strategy, Worktree};
use sawmill::job::OutcomeClass;

use super::fixture::{
    Place, branch, committed, config, leftovers, list_tree, make_executable, provisioner, refused, run, sawmill, show,
    unmount_below, write,
};

#[tokio::test]
async fn links_modes_and_names_survive() {
    let place = Place::new();
    let worktree = place.worktree("1").await;
    let tree = worktree.tree();
    symlink("nowhere", tree.join("dangling")).expect("a link");
    symlink("/etc", tree.join("outside")).expect("a link");
    symlink("../../..", tree.join("src/up")).expect("a link");
    write(tree, "run.sh", "#!/bin/sh\n");
    make_executable(&tree.join("run.sh"));
    make_executable(&tree.join("README.md"));
    fs::write(tree.join(OsStr::from_bytes(b"caf\xe9\xff")), "latin").expect("a file");
    write(tree, "tab\tand\nnewline \"quoted\"", "odd");
    write(tree, "-dash", "dash");
    write(tree, "dos.txt", "a\r\nb\r\n");
    let made = committed(&worktree).await;
    let mirror = place.mirror.directory();
    let raw = super::fixture::try_run(mirror, ["ls-tree", "-rz", made.tree.as_str()]).stdout;
    // `<mode> blob <id>\t<path>`, 53 bytes before the path.
    let lines = raw.split(|byte| *byte == 0).filter(|entry| !entry.is_empty());
    let mut entries: Vec<Vec<u8>> = lines.map(|entry| [&entry[..7], &entry[53..]].concat()).collect();
    entries.sort();
    let expected: [&[u8]; 12] = [
        b"100644 -dash",
        b"100644 .gitignore",
        b"100644 caf\xe9\xff",
        b"100644 dos.txt",
        b"100644 src/lib.rs",
        b"100644 src/main.rs",
        b"100644 tab\tand\nnewline \"quoted\"",
        b"100755 README.md",
        b"100755 run.sh",
        b"120000 dangling",
        b"120000 outside",
        b"120000 src/up",
    ];
    assert_eq!(entries, expected);
    assert_eq!(show(mirror, &format!("{}:outside", made.commit)), b"/etc");
    assert_eq!(show(mirror, &format!("{}:dos.txt", made.commit)), b"a\r\nb\r\n");
    assert_eq!(made.diff.files, 9);
}

#[tokio::test]
async fn files_and_directories_may_take_each_others_place() {
    let place = Place::new();
    let worktree = place.worktree("1").await;
    let tree = worktree.tree();
    fs::remove_dir_all(tree.join("src")).expect("removed");
    write(tree, "src", "now a file\n");
    fs::remove_file(tree.join("README.md")).expect("removed");
    write(tree, "README.md/inside", "now a directory\n");
    let made = committed(&worktree).await;
    let expected = ["100644 .gitignore", "100644 README.md/inside", "100644 src"];
    assert_eq!(list_tree(place.mirror.directory(), &made.tree), expected);
}

#[tokio::test]
async fn a_tree_may_become_empty() {
    let place = Place::new();
    let worktree = place.worktree("1").await;
    for entry in fs::read_dir(worktree.tree()).expect("the tree").flatten() {
        let path = entry.path();
        if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.expect("removed");
    }
    let made = committed(&worktree).await;
    assert_eq!(made.tree.as_str(), "4b825dc642cb6eb9a060e54bf8d69288fbee4904");
    assert_eq!(made.diff.files, 4);
    assert_eq!((made.diff.insertions, made.diff.deletions), (0, 5));
}

#[tokio::test]
async fn only_the_repositorys_own_rules_ignore() {
    let place = Place::new();
    let worktree = place.worktree("1").await;
    let tree = worktree.tree();
    write(tree, ".git/info/exclude", "*\n");
    run(tree, ["config", "core.excludesFile", "/dev/stdin"]);
    write(tree, "kept.log", "log\n");
    write(tree, "left.tmp", "tmp\n");
    let made = committed(&worktree).await;
    assert_eq!(made.diff.per_file.iter().map(|file| file.path.as_str()).collect::<Vec<_>>(), ["kept.log"]);
}

#[tokio::test]
async fn nothing_that_a_job_configures_is_run() {
    let place = Place::new();
    let worktree = place.worktree("1").await;
    let tree = worktree.tree();
    let proof = place.root.path().join("proof");
    let touch = format!("touch {} #", proof.display());
    for key in
        ["core.fsmonitor", "filter.evil.clean", "filter.evil.process", "core.sshCommand", "diff.evil.textconv", "gpg.program"]
    {
        run(tree, ["config", key, &touch]);
    }
    run(tree, ["config", "commit.gpgSign", "true"]);
    for hook in ["pre-commit", "post-commit", "pre-push", "post-index-change", "reference-transaction"] {
        let path = tree.join(".git/hooks").join(hook);
        write(tree, &format!(".git/hooks/{hook}"), format!("#!/bin/sh\n{touch}\n"));
        make_executable(&path);
    }
    write(tree, ".gitattributes", "* filter=evil diff=evil merge=evil\n");
    write(tree, "a.txt", "plain\n");
    let made = committed(&worktree).await;
    assert_eq!(show(place.mirror.directory(), &format!("{}:a.txt", made.commit)), b"plain\n");
    worktree.push(&made.commit, &branch("b")).await.expect("pushed");
    assert!(!proof.exists(), "something ran");
}

#[tokio::test]
async fn a_nested_repository_is_refused_and_never_entered() {
    let place = Place::new();
    let worktree = place.worktree("1").await;
    let tree = worktree.tree();
    let proof = place.root.path().join("proof");
    fs::create_dir(tree.join("sub")).expect("a directory");
    run(tree, ["init", "--quiet", "sub"]);
    write(tree, "sub/file", "x");
    let (path, why) = refused(&worktree).await;
    assert_eq!(path, "sub");
    insta::assert_snapshot!(why, @"it is a repository of its own; remove its .git to deliver its files");
    run(&tree.join("sub"), ["add", "-A"]);
    run(&tree.join("sub"), ["commit", "--quiet", "-m", "x"]);
    run(&tree.join("sub"), ["config", "core.fsmonitor", &format!("touch {} #", proof.display())]);
    for _ in 0..2 {
        assert_eq!(refused(&worktree).await.0, "sub");
    }
    assert!(!proof.exists(), "the nested repository's configuration ran");
    assert_eq!(leftovers(&place.slot("1")), [""; 0]);
    fs::remove_dir_all(tree.join("sub/.git")).expect("removed");
    assert_eq!(committed(&worktree).await.diff.per_file[0].path, "sub/file");
}

#[tokio::test]
async fn a_nested_repository_that_the_repository_ignores_does_not_matter() {
    let place = Place::new();
    let worktree = place.worktree("1").await;
    fs::create_dir(worktree.tree().join("target")).expect("a directory");
    run(worktree.tree(), ["init", "--quiet", "target/dep"]);
    assert_eq!(worktree.commit("x").await.expect("fine"), Change::None);
}

#[tokio::test]
async fn a_pipe_or_socket_is_never_opened() {
    let place = Place::new();
    let worktree = place.worktree("1").await;
    let tree = worktree.tree();
    nix::unistd::mkfifo(&tree.join("pipe"), nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    let _socket = std::os::unix::net::UnixListener::bind(tree.join("socket")).expect("a socket");
    assert_eq!(worktree.commit("x").await.expect("left out, as by git"), Change::None);
    fs::remove_file(tree.join("README.md")).expect("removed");
    nix::unistd::mkfifo(&tree.join("README.md"), nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    let (path, why) = refused(&worktree).await;
    assert_eq!((path.as_str(), why.as_str()), ("README.md", "it is neither a file, a link nor a directory"));
}

#[tokio::test]
async fn whatever_became_of_the_jobs_own_git_directory_the_tree_is_committed() {
    let place = Place::new();
    for (slot, change) in [("gone", 0), ("file", 1), ("link", 2), ("garbage", 3)] {
        let worktree = place.worktree(slot).await;
        let view = worktree.tree().join(".git");
        write(worktree.tree(), "new", slot);
        if change == 3 {
            fs::write(view.join("index"), "garbage").expect("written");
            fs::write(view.join("HEAD"), "garbage").expect("written");
        } else {
            fs::remove_dir_all(&view).expect("removed");
        }
        match change {
            1 => fs::write(&view, "gitdir: /etc\n").expect("written"),
            2 => symlink(place.mirror.directory(), &view).expect("a link"),
            _ => {}
        }
        let made = committed(&worktree).await;
        assert_eq!(made.diff.per_file.iter().map(|file| file.path.as_str()).collect::<Vec<_>>(), ["new"], "{slot}");
    }
}

#[tokio::test]
async fn a_tree_that_is_not_ours_any_more_is_refused() {
    let place = Place::new();
    let worktree = place.worktree("1").await;
    let tree = worktree.tree();
    unmount_below(tree);
    fs::rename(tree, tree.with_extension("old")).expect("moved");
    assert_eq!(refused(&worktree).await.0, ".");
    symlink("/etc", tree).expect("a link");
    assert_eq!(refused(&worktree).await.0, ".");
}

#[tokio::test]
async fn a_file_that_is_too_large_is_refused_with_its_size() {
    let mut config = config();
    config.maximum_file = ByteSize::kib(10);
    let place = Place::new();
    place.worktree("1").await;
    let git = Git::open(&config, sawmill(), &place.root.path().join("state/mirrors")).expect("git");
    let worktree = Worktree::open(&git, &place.slot("1")).expect("a worktree");
    write(worktree.tree(), "src/big", vec![7; 20 * 1024]);
    write(worktree.tree(), "target/big", vec![7; 20 * 1024]);
    let (path, why) = refused(&worktree).await;
    assert_eq!(path, "src/big");
    insta::assert_snapshot!(why, @"its 20.0 KiB are more than the 10.0 KiB that git.maximum_file allows");
    fs::remove_file(worktree.tree().join("src/big")).expect("removed");
    assert_eq!(worktree.commit("x").await.expect("what is ignored may be large"), Change::None);
}

#[tokio::test]
async fn a_file_of_200_megabytes_survives() {
    let place = Place::new();
    let worktree = place.worktree("1").await;
    let mut block = vec![0_u8; 1024 * 1024];
    let mut state = 1_u64;
    let file = fs::File::create(worktree.tree().join("big.bin")).expect("a file");
    let mut writer = std::io::BufWriter::new(&file);
    for round in 0..200_u64 {
        if round % 50 == 0 {
            for byte in &mut block {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                *byte = state.to_be_bytes()[0];
            }
        }
        std::io::Write::write_all(&mut writer, &block).expect("written");
    }
    drop(writer);
    let made = committed(&worktree).await;
    assert!(made.diff.per_file[0].binary);
    let size = run(place.mirror.directory(), ["cat-file", "-s", &format!("{}:big.bin", made.commit)]);
    assert_eq!(size, (200 * 1024 * 1024).to_string());
    worktree.push(&made.commit, &branch("big")).await.expect("pushed");
}

#[tokio::test]
async fn ten_thousand_changed_files_survive() {
    let place = Place::new();
    let worktree = place.worktree("1").await;
    for number in 0..10_000 {
        write(worktree.tree(), &format!("many/{}/{number}.txt", number % 100), format!("{number}\n"));
    }
    let made = committed(&worktree).await;
    assert_eq!((made.diff.files, made.diff.insertions, made.diff.per_file.len()), (10_000, 10_000, 500));
    assert_eq!(list_tree(place.mirror.directory(), &made.tree).len(), 10_004);
}

#[tokio::test]
async fn line_endings_follow_the_repositorys_attributes() {
    let place = Place::new();
    place.seed(|seed| {
        write(seed, ".gitattributes", "*.txt text eol=crlf\n");
        write(seed, "a.txt", "one\r\ntwo\r\n");
    });
    let worktree = place.worktree("1").await;
    assert_eq!(fs::read(worktree.tree().join("a.txt")).expect("a file"), b"one\r\ntwo\r\n");
    assert_eq!(worktree.commit("x").await.expect("fine"), Change::None);
    write(worktree.tree(), "a.txt", "one\r\ntwo\r\nthree\r\n");
    let made = committed(&worktree).await;
    assert_eq!(show(place.mirror.directory(), &format!("{}:a.txt", made.commit)), b"one\ntwo\nthree\n");
    assert_eq!((made.diff.insertions, made.diff.deletions), (1, 0));
}

/// A git that does all its adding as nobody, as a worker without rights would.
fn unprivileged(place: &Place) -> Git {
    let script = place.root.path().join("git-as-nobody");
    let text =
        "#!/bin/sh\ncase \"$1\" in add) exec setpriv --reuid=65534 --clear-groups git \"$@\";; *) exec git \"$@\";; esac\n";
    fs::write(&script, text).expect("a script");
    make_executable(&script);
    let mut config = config();
    if nix::unistd::geteuid().is_root() {
        config.program = script;
        open_up(place.root.path());
    }
    Git::open(&config, sawmill(), &place.root.path().join("state/mirrors")).expect("git")
}

fn open_up(dir: &Path) {
    assert!(Command::new("chmod").args(["-R", "a+rwX"]).arg(dir).status().expect("chmod runs").success());
}

#[tokio::test]
async fn what_cannot_be_read_is_refused_and_not_taken_for_deleted() {
    let mut place = Place::new();
    // Who has no rights has no overlays either.
    place.provisioner = Provisioner::open(&place.git, Strategy::Checkout, ByteSize::gib(1)).expect("checkouts");
    let worktree = place.worktree("1").await;
    let tree = worktree.tree();
    write(tree, "secret", "x");
    write(tree, "closed/file", "x");
    let git = unprivileged(&place);
    let worktree = Worktree::open(&git, &place.slot("1")).expect("a worktree");
    let close = |path: &str| fs::set_permissions(tree.join(path), fs::Permissions::from_mode(0o000)).expect("closed");
    close("secret");
    let (path, why) = refused(&worktree).await;
    assert_eq!((path.as_str(), why.as_str()), ("secret", "it cannot be read: permission denied"));
    fs::remove_file(tree.join("secret")).expect("removed");
    close("closed");
    let (path, why) = refused(&worktree).await;
    assert_eq!((path.as_str(), why.as_str()), ("closed", "the directory cannot be read: permission denied"));
    close("src");
    assert!(matches!(worktree.commit("x").await, Err(GitError::Refused { .. })));
    for path in ["closed", "src"] {
        fs::set_permissions(tree.join(path), fs::Permissions::from_mode(0o755)).expect("opened");
    }
}

#[tokio::test]
async fn a_name_that_git_forbids_is_refused() {
    let place = Place::new();
    let worktree = place.worktree("1").await;
    write(worktree.tree(), "sub/GIT~1", "x");
    let (path, why) = refused(&worktree).await;
    assert_eq!((path.as_str(), why.as_str()), ("sub/GIT~1", "git does not allow this name"));
}

#[tokio::test]
async fn a_full_disk_is_said_to_be_full_and_a_retry_works() {
    let place = Place::new();
    let state = place.root.path().join("state");
    let mounted = Mount::new(&state);
    let git = Git::open(&config(), sawmill(), &state.join("mirrors")).expect("git");
    let (mirror, provisioner) = (git.mirror(place.mirror.remote()), provisioner(&git));
    let base = mirror.resolve("main").await.expect("main");
    let worktree = mirror.provision(&base, &branch("b"), &place.slot("1"), &provisioner).await.expect("a worktree");
    write(worktree.tree(), "new", (0..200_000_u32).flat_map(u32::to_be_bytes).collect::<Vec<u8>>());
    let filler = state.join("filler");
    fill(&filler);
    let error = worktree.commit("x").await.expect_err("no room");
    assert!(matches!(error, GitError::DiskFull { .. }), "{error}");
    assert_eq!(error.class(), OutcomeClass::Infrastructure);
    let error = mirror.provision(&base, &branch("b"), &place.slot("2"), &provisioner).await.expect_err("no room");
    assert!(matches!(error, GitError::DiskFull { .. }), "{error}");
    fs::remove_file(&filler).expect("room again");
    assert_eq!(leftovers(&place.slot("1")), [""; 0]);
    let made = committed(&worktree).await;
    run(mirror.directory(), ["fsck", "--strict"]);
    worktree.push(&made.commit, &branch("b")).await.expect("pushed");
    mirror.provision(&base, &branch("b"), &place.slot("2"), &provisioner).await.expect("a worktree");
    drop(mounted);
}

/// A small file system in memory. Mounting needs root, which the test then says.
struct Mount {
    at: std::path::PathBuf,
}

impl Mount {
    fn new(at: &Path) -> Self {
        fs::create_dir_all(at).expect("a directory");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"]).arg(at).status().expect("mount runs");
        assert!(mount.success(), "this test mounts a small tmpfs and must be run as root");
        Self { at: at.to_owned() }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let ended = Command::new("umount").arg("-l").arg(&self.at).status();
        assert!(ended.is_ok_and(|status| status.success()), "cannot unmount {}", self.at.display());
    }
}

fn fill(path: &Path) {
    let mut file = fs::File::create(path).expect("a file");
    while std::io::Write::write_all(&mut file, &[1; 4096]).is_ok() {}
}
