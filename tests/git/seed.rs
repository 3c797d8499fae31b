//! A worktree that begins with what an earlier attempt left: all of it, or nothing, and then with the reason.

use std::fs;
use std::path::Path;

use sawmill::git::{Change, SalvagePush, TakenOver, Worktree};
use sawmill::ids::{AttemptNo, JobId, ObjectId};

use super::fixture::{Place, committed, id, list_tree, run, write};
use super::submodules::with_submodules;

/// What an attempt left that did this in the slot.
async fn left(place: &Place, slot: &str, does: impl FnOnce(&Path)) -> ObjectId {
    let worktree = place.worktree(slot).await;
    does(worktree.tree());
    worktree.salvage(JobId::generate(), AttemptNo(1), SalvagePush::Local).await.expect("salvaged").expect("something")
}

/// Loses an object, as a disk does.
pub(crate) fn lose(mirror: &Path, object: &ObjectId) {
    let (dir, name) = object.as_str().split_at(2);
    fs::remove_file(mirror.join("objects").join(dir).join(name)).expect("a loose object");
}

async fn taken(worktree: &Worktree, salvage: &ObjectId) -> TakenOver {
    worktree.take_over(salvage).await.expect("git can be run")
}

fn half(tree: &Path) {
    write(tree, "dir/half.txt", "half\n");
    write(tree, "README.md", "# Changed\n");
}

#[tokio::test]
async fn a_salvage_that_is_gone_or_whose_directories_are_lost_leaves_the_base_as_it_is() {
    let place = Place::new();
    let salvage = left(&place, "1", half).await;
    let mirror = place.mirror.directory();
    let worktree = place.worktree("next").await;
    lose(mirror, &id(mirror, &format!("{salvage}:dir")));
    let TakenOver::Not(why) = taken(&worktree, &salvage).await else { panic!("it was taken over") };
    assert!(why.starts_with("cannot compare a salvage with its base"), "{why}");
    lose(mirror, &salvage);
    let expected = format!("{} is not there any more", salvage.short());
    assert_eq!(taken(&worktree, &salvage).await, TakenOver::Not(expected));
    assert_eq!(worktree.commit("x").await.expect("fine"), Change::None);
}

#[tokio::test]
async fn of_a_salvage_that_has_lost_a_file_it_is_said_that_a_part_is_there() {
    let place = Place::new();
    let salvage = left(&place, "1", half).await;
    let mirror = place.mirror.directory();
    lose(mirror, &id(mirror, &format!("{salvage}:dir/half.txt")));
    let worktree = place.worktree("next").await;
    let TakenOver::Part(why) = taken(&worktree, &salvage).await else { panic!("it was taken over, or nothing of it") };
    assert!(why.contains("check out") && why.contains("dir/half.txt"), "{why}");
}

#[tokio::test]
async fn beside_submodules_a_salvage_is_taken_over_and_they_stay_as_they_are() {
    let place = with_submodules();
    let salvage = left(&place, "1", |tree| {
        half(tree);
        run(tree, ["init", "--quiet", "nested"]);
        write(tree, "nested/file", "nested\n");
    })
    .await;
    let worktree = place.worktree("next").await;
    assert_eq!(taken(&worktree, &salvage).await, TakenOver::Whole);
    let lib = worktree.tree().join("vendor/lib");
    assert_eq!(fs::read_to_string(lib.join("deep/file")).expect("checked out"), "deep\n");
    assert_eq!(run(&lib, ["status", "--porcelain"]), "");
    assert_eq!(run(&lib, ["log", "--format=%s"]), "lib");
    let made = committed(&worktree).await;
    let listed = list_tree(place.mirror.directory(), &made.tree);
    for entry in ["160000 vendor/lib", "100644 dir/half.txt", "100644 nested/file"] {
        assert!(listed.contains(&entry.to_owned()), "{entry}: {listed:?}");
    }
    assert_eq!(made.diff.files, 3);
}

#[tokio::test]
async fn a_salvage_of_a_submodules_own_files_is_not_taken_over_and_nothing_of_it_is_there() {
    let place = with_submodules();
    let dirty = left(&place, "1", |tree| {
        half(tree);
        write(tree, "vendor/lib/file", "dirty\n");
    })
    .await;
    let removed = left(&place, "2", |tree| fs::remove_dir_all(tree.join("vendor/lib")).expect("removed")).await;
    for (slot, salvage) in [("3", dirty), ("4", removed)] {
        let worktree = place.worktree(slot).await;
        assert_eq!(taken(&worktree, &salvage).await, TakenOver::Not("it changes a submodule".to_owned()));
        assert_eq!(fs::read_to_string(worktree.tree().join("vendor/lib/file")).expect("checked out"), "lib\n");
        assert_eq!(worktree.commit("x").await.expect("fine"), Change::None);
    }
}
