//! What nobody needs of mirrors goes, and mirrors that nobody uses go, and never what a worktree borrows.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sawmill::git::{Config, SalvagePush};
use sawmill::ids::{AttemptNo, JobId, ObjectId};
use sawmill::janitor::{Lease, Space};

use super::fixture::{Place, branch, config, run, try_run, write};
use super::maintain::age;
use crate::delivery::host::until;
use crate::delivery::remote::{find_git, write_program};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn place(config: &Config) -> Place {
    let place = Place::with_config(config);
    place.seed(|seed| write(seed, "README.md", "# A project\n"));
    place
}

/// Forces the remote's branch elsewhere, and has the mirror follow. Answers what no ref of it reaches any more.
async fn forget_history(place: &Place) -> ObjectId {
    let mirror = place.git.mirror(place.mirror.remote());
    let before = mirror.resolve("main").await.expect("cloned");
    let seed = place.seed_dir();
    run(&seed, ["checkout", "--quiet", "--orphan", "other"]);
    run(&seed, ["commit", "--quiet", "-m", "unrelated"]);
    run(&seed, ["push", "--quiet", "--force", place.remote_dir().to_str().expect("UTF-8"), "HEAD:refs/heads/main"]);
    mirror.resolve("main").await.expect("fetched");
    try_run(mirror.directory(), ["update-ref", "-d", "refs/sawmill/head"]);
    before
}

fn has(mirror: &Path, object: &str) -> bool {
    try_run(mirror, ["cat-file", "-e", object]).status.success()
}

#[tokio::test]
async fn old_objects_go_that_no_ref_reaches_once_nobody_borrows_them() {
    let place = place(&Config { prune: 14 * DAY, ..config() });
    let dir = place.mirror.directory().to_owned();
    let mirror = place.git.mirror(place.mirror.remote());
    let base = mirror.resolve("main").await.expect("cloned");
    let worktree = mirror.provision(&base, &branch("b"), &place.slot("0"), &place.provisioner).await.expect("provisioned");
    write(worktree.tree(), "half", "done");
    let salvage =
        worktree.salvage(JobId::generate(), AttemptNo(1), SalvagePush::Local).await.expect("salvaged").expect("something");
    forget_history(&place).await;
    // It is what the salvage stands on, too.
    let (tree, loose) = (run(&place.seed_dir(), ["write-tree"]), place.seed_dir().join("loose"));
    fs::write(&loose, "nobody's").expect("written");
    let loose = run(&dir, ["hash-object", "-w", loose.to_str().expect("UTF-8")]);
    age(&dir.join("objects"));
    assert!(!place.git.prune(&dir).await.expect("nothing fails"), "it is held");
    drop(mirror);
    let worktree = {
        drop(worktree);
        sawmill::git::Worktree::open(&place.git, &place.slot("0")).expect("it is there")
    };
    assert!(!place.git.prune(&dir).await.expect("nothing fails"), "a worktree borrows");
    assert!(has(&dir, &loose) && has(&dir, base.as_str()));
    worktree.discard(&place.trash()).await.expect("discarded");

    fs::write(place.seed_dir().join("young"), "somebody's").expect("written");
    let young = run(&dir, ["hash-object", "-w", place.seed_dir().join("young").to_str().expect("UTF-8")]);
    assert_eq!(place.git.unpruned(), std::slice::from_ref(&dir));
    assert!(place.git.prune(&dir).await.expect("pruned"));
    assert!(place.git.unpruned().is_empty(), "lately");
    assert!(!has(&dir, &loose), "nobody needed it");
    for needed in [base.as_str(), salvage.as_str(), &young, &tree] {
        assert!(has(&dir, needed), "{needed}");
    }
    run(&dir, ["fsck", "--full", "--no-progress"]);
    // Again, with what maintenance makes of it.
    place.git.maintain(&dir).await.expect("maintained");
    assert!(place.git.prune(&dir).await.expect("pruned"));
    run(&dir, ["fsck", "--full", "--no-progress"]);
    run(&dir, ["commit-graph", "verify"]);
    assert!(has(&dir, &young));
}

#[tokio::test]
async fn what_a_base_begins_at_stays_as_long_as_that() {
    let place = place(&Config { prune: 14 * DAY, ..config() });
    let dir = place.mirror.directory().to_owned();
    let Some(bases) = place.provisioner.bases().cloned() else { return };
    let mirror = place.git.mirror(place.mirror.remote());
    let commit = mirror.resolve("main").await.expect("cloned");
    let worktree = mirror.provision(&commit, &branch("b"), &place.slot("0"), &place.provisioner).await.expect("provisioned");
    worktree.discard(&place.trash()).await.expect("discarded");
    drop(mirror);
    assert_eq!(forget_history(&place).await, commit);
    age(&dir.join("objects"));
    assert!(place.git.prune(&dir).await.expect("pruned"));
    assert!(has(&dir, commit.as_str()), "a base is of it");
    assert_eq!(bases.shrink_once(Space::of_bytes(u64::MAX)).expect("evicted").len(), 1);
    age(&dir.join("objects"));
    assert!(place.git.prune(&dir).await.expect("pruned"));
    assert!(!has(&dir, commit.as_str()), "nobody needs it any more");
    run(&dir, ["fsck", "--full", "--no-progress"]);
}

#[tokio::test]
async fn a_mirror_goes_that_no_job_has_used_for_long_or_that_the_disk_has_no_room_for() {
    let place = place(&Config { mirror_ttl: 30 * DAY, ..config() });
    let dir = place.mirror.directory().to_owned();
    let remote = place.mirror.remote().clone();
    let lease = |wanted: Space| place.git.judged_mirrors(wanted).remove(0).1;
    let used = |ago: Duration| {
        let file = fs::File::options().write(true).open(dir.with_extension("use")).expect("it is there");
        file.set_modified(SystemTime::now() - ago).expect("set");
    };
    let mirror = place.git.mirror(&remote);
    let base = mirror.resolve("main").await.expect("cloned");
    used(31 * DAY);
    assert!(matches!(lease(Space::default()), Lease::Held(why) if why == "an attempt uses it"));
    let worktree = mirror.provision(&base, &branch("b"), &place.slot("0"), &place.provisioner).await.expect("provisioned");
    drop((mirror, worktree));
    used(31 * DAY);
    assert!(matches!(lease(Space::default()), Lease::Held(why) if why.ends_with("borrows its objects")));
    assert!(place.git.shrink_mirrors_once(Space::of_bytes(1)).expect("nothing fails").is_empty());
    let worktree = sawmill::git::Worktree::open(&place.git, &place.slot("0")).expect("it is there");
    write(worktree.tree(), "half", "done");
    let job = JobId::generate();
    worktree.salvage(job, AttemptNo(1), SalvagePush::Local).await.expect("salvaged").expect("something");
    worktree.discard(&place.trash()).await.expect("discarded");
    assert!(matches!(lease(Space::default()), Lease::Held(why) if why.ends_with("kept for people")));
    run(&dir, ["update-ref", "-d", &format!("refs/sawmill/salvage/{job}/1")]);
    assert!(matches!(lease(Space::default()), Lease::Over(why) if why == "no job has used it for 720h (git.mirror_ttl)"));
    used(DAY);
    assert!(matches!(lease(Space::default()), Lease::Held(_)));
    assert!(matches!(lease(Space { bytes: 0, inodes: 5 }), Lease::Over(why) if why.starts_with("the disk lacks 5 inodes")));
    assert_eq!(place.git.shrink_mirrors_once(Space::of_bytes(1)).expect("evicted"), std::slice::from_ref(&dir));
    assert!(!dir.exists());
    // Who comes back clones it again.
    assert_eq!(place.git.mirror(&remote).resolve("main").await.expect("cloned"), base);
}

#[tokio::test]
async fn nobody_waits_for_a_mirror_that_is_pruned() {
    let scratch = tempfile::tempdir().expect("a directory");
    let (program, begun) = (scratch.path().join("git"), scratch.path().join("begun"));
    let hang = format!("case \" $* \" in *' gc '*) : > {}; sleep 600;; esac", begun.display());
    write_program(&program, &format!("#!/bin/sh\n{hang}\nexec {} \"$@\"\n", find_git().display()));
    let place = place(&Config { prune: 14 * DAY, program: PathBuf::from(&program), ..config() });
    let dir = place.mirror.directory().to_owned();
    place.git.mirror(place.mirror.remote()).resolve("main").await.expect("cloned");
    let comes = async {
        until("git prunes", async || begun.exists()).await;
        place.git.mirror(place.mirror.remote()).resolve("main").await
    };
    let both = async { tokio::join!(place.git.prune(&dir), comes) };
    let (pruned, resolved) = tokio::time::timeout(Duration::from_secs(60), both).await.expect("nobody waits");
    assert!(!pruned.expect("given up"));
    resolved.expect("it is there");
}
