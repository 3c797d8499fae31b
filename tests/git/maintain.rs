//! Mirrors are maintained without ever losing what a worktree borrows.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::fixture::{Place, id, run, try_run, write};

/// Everything in a mirror's objects becomes old enough for any grace of git's.
pub(super) fn age(dir: &Path) {
    for entry in fs::read_dir(dir).expect("a directory").flatten() {
        let path = entry.path();
        if path.is_dir() {
            age(&path);
        } else {
            let file = fs::File::open(&path).expect("a file");
            file.set_modified(SystemTime::now() - Duration::from_secs(365 * 24 * 3600)).expect("set");
        }
    }
}

fn packs(mirror: &Path) -> usize {
    let entries = fs::read_dir(mirror.join("objects/pack")).expect("packs").flatten();
    entries.filter(|entry| entry.path().extension().is_some_and(|extension| extension == "pack")).count()
}

#[tokio::test]
async fn an_object_that_only_a_worktree_borrows_survives_maintenance() {
    let place = Place::new();
    let worktree = place.worktree("0").await;
    let base = worktree.base().clone();
    let mirror = place.mirror.directory().to_owned();
    // What no ref of the mirror reaches: a loose object, and the worktree's own base, once its branch was forced elsewhere.
    write(&place.seed_dir(), "loose", "borrowed");
    let loose = run(&mirror, ["hash-object", "-w", place.seed_dir().join("loose").to_str().expect("UTF-8")]);
    let seed = place.seed_dir();
    run(&seed, ["checkout", "--quiet", "--orphan", "other"]);
    run(&seed, ["commit", "--quiet", "-m", "unrelated"]);
    run(&seed, ["push", "--quiet", "--force", place.remote_dir().to_str().expect("UTF-8"), "HEAD:refs/heads/main"]);
    assert_eq!(place.mirror.resolve("main").await.expect("fetched"), id(&seed, "HEAD"));
    try_run(&mirror, ["update-ref", "-d", "refs/sawmill/head"]);
    assert!(run(&mirror, ["rev-list", "--all"]).lines().all(|line| line != base.as_str()), "no ref reaches it");
    age(&mirror.join("objects"));

    // Twice: what the first round packs, the second one may delete where it was loose.
    for _ in 0..3 {
        place.git.maintain(&mirror).await.expect("maintained");
        age(&mirror.join("objects"));
    }
    assert_eq!(run(&mirror, ["cat-file", "-p", &loose]), "borrowed");
    assert!(!mirror.join("objects").join(&loose[..2]).join(&loose[2..]).exists(), "it was packed");
    assert!(mirror.join("packed-refs").exists());
    run(worktree.tree(), ["fsck", "--full", "--no-progress"]);
    assert_eq!(run(worktree.tree(), ["rev-parse", "HEAD"]), base.as_str());
    assert_eq!(run(worktree.tree(), ["status", "--porcelain"]), "");
    place.worktree("1").await.discard(&place.trash()).await.expect("a new one can be made");
    worktree.discard(&place.trash()).await.expect("discarded");
}

#[tokio::test]
async fn a_mirror_is_due_only_after_something_came_to_it() {
    let place = Place::new();
    let worktree = place.worktree("0").await;
    let mirror = place.mirror.directory().to_owned();
    let due = |every: Duration| place.git.unmaintained(every);
    assert_eq!(due(Duration::ZERO), std::slice::from_ref(&mirror), "never yet");
    for number in 0..8 {
        place.seed(|seed| write(seed, "file", format!("{number}")));
        place.mirror.resolve("main").await.expect("fetched");
    }
    while !due(Duration::ZERO).is_empty() {
        place.git.maintain(&mirror).await.expect("maintained");
    }
    assert!(packs(&mirror) <= 2, "packs were joined");
    place.seed(|seed| write(seed, "file", "new"));
    place.mirror.resolve("main").await.expect("fetched");
    assert_eq!(due(Duration::ZERO), [mirror], "something came");
    assert!(due(Duration::from_secs(3600)).is_empty(), "and it was maintained lately");
    worktree.discard(&place.trash()).await.expect("discarded");
}
