//! Checkouts: what comes out is what git makes, and nothing is written elsewhere, whatever a tree contains.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use super::fixture::{Place, branch, make_executable, run, write};

/// What git says of a tree: its index, that this agrees with the files, and the tree that it comes to.
fn described(tree: &Path) -> (String, String, String) {
    run(tree, ["diff-files", "--quiet"]);
    let listed = run(tree, ["ls-files", "--stage"]);
    (listed, run(tree, ["status", "--porcelain"]), run(tree, ["write-tree"]))
}

#[tokio::test]
async fn a_checkout_is_what_git_makes() {
    let place = Place::new();
    let base = place.seed(|seed| {
        for number in 0..300 {
            write(seed, &format!("many/{}/{number}", number % 7), format!("{number}\n"));
        }
        write(seed, "a.txt", "a");
        write(seed, "a/b", "sorts after a.txt in an index");
        write(seed, "a-b", "and this before");
        write(seed, "run.sh", "#!/bin/sh\n");
        make_executable(&seed.join("run.sh"));
        write(seed, "empty", "");
        write(seed, &format!("{}end", "long-name/".repeat(20)), "");
        fs::write(seed.join(std::ffi::OsStr::from_bytes(b"caf\xe9")), "latin").expect("a file");
        symlink("../a.txt", seed.join("many/link")).expect("a link");
        symlink("/etc", seed.join("outside")).expect("a link");
        write(seed, ".gitattributes", "* text=auto\n*.png binary\n");
    });
    let worktree = place.worktree("1").await;
    run(place.root.path(), ["clone", "--quiet", "remote.git", "plain"]);
    let tree = worktree.tree();
    let (listed, status, written) = described(tree);
    assert_eq!(
        (listed, status.as_str(), written),
        (run(&place.root.path().join("plain"), ["ls-files", "--stage"]), "", {
            run(tree, ["rev-parse", &format!("{base}^{{tree}}")])
        })
    );
    let mut same = Command::new("diff");
    same.args(["-r", "--no-dereference", "-x", ".git"]).arg(tree).arg(place.root.path().join("plain"));
    let same = same.output().expect("diff runs");
    assert!(same.status.success(), "{}", String::from_utf8_lossy(&same.stdout));
    // Changes are seen, also where only a directory's own tree says that nothing changed.
    write(tree, "many/3/3", "4\n");
    assert_eq!(run(tree, ["status", "--porcelain"]), " M many/3/3");
    run(tree, ["commit", "-qam", "x"]);
    assert_eq!(run(tree, ["diff", "--name-only", "HEAD~1"]), "many/3/3");
    run(tree, ["fsck", "--strict"]);
}

/// Writes a tree with these entries (mode, name, id), whatever git thinks of it.
fn write_tree(dir: &Path, entries: &[(&str, &str, &str)]) -> String {
    let mut bytes = Vec::new();
    for (mode, name, id) in entries {
        bytes.extend_from_slice(format!("{mode} {name}\0").as_bytes());
        bytes.extend((0..40).step_by(2).map(|at| u8::from_str_radix(&id[at..at + 2], 16).expect("hexadecimal")));
    }
    let file = dir.join("tree.raw");
    fs::write(&file, bytes).expect("written");
    run(dir, ["hash-object", "-t", "tree", "-w", "--literally", file.to_str().expect("UTF-8")])
}

#[tokio::test]
async fn nothing_is_written_outside_of_a_tree_whatever_it_contains() {
    let place = Place::new();
    let (seed, outside) = (place.seed_dir(), place.root.path().join("outside"));
    fs::create_dir(&outside).expect("a directory");
    let blob = |text: &str| {
        fs::write(seed.join("blob.raw"), text).expect("written");
        run(&seed, ["hash-object", "-w", "blob.raw"])
    };
    let (link, evil) = (blob(outside.to_str().expect("UTF-8")), blob("evil\n"));
    let inner = write_tree(&seed, &[("100644", "evil", &evil)]);
    let through_a_link = write_tree(&seed, &[("120000", "a", &link), ("40000", "a", &inner)]);
    let upwards = write_tree(&seed, &[("40000", "..", &inner)]);
    let slash = write_tree(&seed, &[("100644", "../../outside/evil", &evil)]);
    let own = write_tree(&seed, &[("40000", ".GIT", &inner)]);
    for (number, tree) in [through_a_link, upwards, slash, own].iter().enumerate() {
        let commit = run(&seed, ["commit-tree", "-m", "evil", tree]);
        let name = format!("refs/heads/evil-{number}");
        run(&seed, ["push", "--quiet", place.remote_dir().to_str().expect("UTF-8"), &format!("{commit}:{name}")]);
        let base = place.mirror.resolve(&format!("evil-{number}")).await.expect("it is there");
        let slot = place.slot(&number.to_string());
        // git may refuse it, or check out what it can.
        let made = place.mirror.provision(&base, &branch("b"), &slot, &place.provisioner).await;
        assert_eq!(fs::read_dir(&outside).expect("read").count(), 0, "{number}: {made:?}");
        assert!(!place.root.path().join("state/slots/evil").exists(), "{number}: {made:?}");
    }
}
