//! What saved caches may take, and that none goes on which an attempt stands.

use std::fs;
use std::path::Path;
use std::process::Command;

use bytesize::ByteSize;
use nix::sys::signal::Signal;
use sawmill::caches::{CacheConfig, CachePath, Carried, Config, Facts, Key, Saving, Shelf, Way};
use sawmill::git::{Strategy, mounts_below, take_off};
use sawmill::ids::JobId;
use sawmill::janitor::Space;
use serde_json::Value;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::Scene;
use crate::delivery::daemon::Seat;
use crate::delivery::host::Lodging;

pub(super) fn cache(path: &str) -> CacheConfig {
    let path = CachePath::try_from(path.to_owned()).expect("a path");
    CacheConfig { path, key: None, toolchain: Vec::new(), fallback: true, gates: true, save_by: None }
}

pub(super) fn key(cache: &CacheConfig, toolchain: &str) -> Key {
    Key::of(&Facts { path: &cache.path, toolchain, files: &[] })
}

pub(super) fn saving() -> Saving {
    Saving { project: "app".to_owned(), commit: "a".repeat(40).parse().expect("an id"), job: JobId::generate() }
}

pub(super) fn shelf(state: &Path, size: u64) -> Shelf {
    let config = Config { size: ByteSize(size), entries: 100, copy: ByteSize::gib(1), refresh: std::time::Duration::ZERO };
    Shelf::open(state, &config).expect("a shelf")
}

/// An empty slot.
pub(super) fn slot(state: &TempDir, number: u32) -> std::path::PathBuf {
    let slot = state.path().join(format!("slots/{number}"));
    for part in ["job/tree", "job/home"] {
        fs::create_dir_all(slot.join(part)).expect("made");
    }
    slot
}

/// Has an attempt in a slot write a file of so many bytes to a cache.
pub(super) fn attempt(shelf: &Shelf, slot: &Path, cache: &CacheConfig, toolchain: &str, file: &str, bytes: usize) -> Carried {
    let wanted = vec![(cache.clone(), key(cache, toolchain))];
    let (carried, refused) = shelf.bring(slot, Way::Copy, "app", wanted, &CancellationToken::new()).expect("brought");
    assert!(refused.is_empty() && carried.put_in().is_empty(), "{refused:?}");
    fs::write(slot.join("job/tree/target").join(file), vec![1; bytes]).expect("written");
    carried
}

pub(super) fn save(shelf: &Shelf, carried: &Carried) {
    assert!(carried.take_out().expect("taken out").is_empty());
    shelf.save(carried, &carried.entries[0], &saving()).expect("saved");
}

#[test]
fn what_was_not_used_for_longest_goes_and_never_what_an_attempt_stands_on() {
    let state = tempfile::tempdir().expect("a directory");
    let shelf = shelf(state.path(), 250_000);
    let (target, first, second) = (cache("target"), slot(&state, 0), slot(&state, 1));
    for toolchain in ["one", "two"] {
        save(&shelf, &attempt(&shelf, &first, &target, toolchain, "file", 100_000));
        shelf.clear(&first).expect("cleared");
    }
    let names = |shelf: &Shelf| {
        let all = shelf.list().expect("listed").into_iter();
        all.map(|saved| saved.record.key.exact).collect::<std::collections::BTreeSet<_>>()
    };
    let [one, two, three] = ["one", "two", "three"].map(|toolchain| key(&target, toolchain).exact);
    assert_eq!(names(&shelf), [one.clone(), two.clone()].into());
    // One was not used for longer, and is now stood on.
    let standing = attempt(&shelf, &second, &target, "one", "more", 1);
    assert!(second.join("job/tree/target/file").exists());
    save(&shelf, &attempt(&shelf, &first, &target, "three", "file", 100_000));
    assert_eq!(names(&shelf), [one.clone(), three.clone()].into(), "two has made room");
    let before = shelf.list().expect("listed");
    assert_eq!(before.iter().filter(|saved| saved.slots == [second.clone()]).count(), 1);
    // Nor does one go whose successor is saved while somebody else stands on it.
    let other = slot(&state, 2);
    let at_once = attempt(&shelf, &other, &target, "one", "other", 1);
    save(&shelf, &standing);
    assert_eq!(shelf.list().expect("listed").iter().filter(|saved| saved.record.key.exact == one).count(), 2);
    assert!(at_once.place(&at_once.entries[0]).expect("a place").join("file").exists());
    for slot in [&first, &second, &other] {
        shelf.clear(slot).expect("cleared");
    }
    assert_eq!(names(&shelf), [one].into(), "three has made room in its turn");
    assert_eq!(shelf.shrink_once(Space::of_bytes(1 << 40)).expect("shrunk").len(), 2, "nobody stands on anything any more");
    assert!(names(&shelf).is_empty());
}

#[test]
fn what_saved_caches_share_is_counted_once() {
    let state = tempfile::tempdir().expect("a directory");
    let shelf = shelf(state.path(), 250_000);
    let (target, first) = (cache("target"), slot(&state, 0));
    for toolchain in ["one", "two"] {
        save(&shelf, &attempt(&shelf, &first, &target, toolchain, "file", 100_000));
        shelf.clear(&first).expect("cleared");
    }
    // As where the second job began with what the first one left: the files are the same, by further names.
    let large: Vec<_> = shelf.list().expect("listed").into_iter().map(|saved| saved.dir).collect();
    let shared = large.iter().map(|dir| dir.join("files/shared")).collect::<Vec<_>>();
    fs::write(&shared[0], vec![1; 10_000]).expect("written");
    fs::hard_link(&shared[0], &shared[1]).expect("linked");
    for dir in &large {
        let record = dir.join("cache.json");
        let mut told: Value = serde_json::from_slice(&fs::read(&record).expect("read")).expect("JSON");
        told["bytes"] = 145_000.into();
        fs::write(record, told.to_string()).expect("written");
    }
    assert!(
        shelf.shrink_once(Space::default()).expect("shrunk").is_empty(),
        "together they take less than each of them by itself"
    );
    // What both have does not come free with the first of them.
    assert_eq!(shelf.shrink_once(Space::of_bytes(120_000)).expect("shrunk").len(), 2);
}

#[test]
fn what_is_larger_than_all_may_be_is_not_saved_and_leaves_nothing() {
    let state = tempfile::tempdir().expect("a directory");
    let (shelf, first) = (shelf(state.path(), 50_000), slot(&state, 0));
    let carried = attempt(&shelf, &first, &cache("target"), "one", "file", 100_000);
    assert!(carried.take_out().expect("taken out").is_empty());
    let refused = shelf.save(&carried, &carried.entries[0], &saving()).expect_err("it is too large");
    assert_eq!(refused.to_string(), "it takes more than all caches together may take, 48.8 KiB (caches.size)");
    assert!(shelf.list().expect("listed").is_empty() && shelf.leftovers().is_empty());
}

#[test]
fn one_that_is_too_large_is_followed_to_the_limit_only() {
    let state = tempfile::tempdir().expect("a directory");
    let (shelf, first) = (shelf(state.path(), 100_000), slot(&state, 0));
    let carried = attempt(&shelf, &first, &cache("target"), "one", "0", 4096);
    for number in 1..90 {
        fs::write(first.join(format!("job/tree/target/{number}")), [1; 4096]).expect("written");
    }
    assert!(carried.take_out().expect("taken out").is_empty());
    shelf.save(&carried, &carried.entries[0], &saving()).expect_err("it is too large");
    let made = || {
        let discarded = fs::read_dir(state.path().join("trash")).expect("the trash").flatten();
        let files = discarded.flat_map(|dir| fs::read_dir(dir.path().join("files")).into_iter().flatten().flatten());
        files.map(|file| file.metadata().expect("a file").len()).collect::<Vec<_>>()
    };
    assert!(made().len() < 30, "{:?}", made());
    shelf.clear(&first).expect("cleared");

    // Of another filesystem each file is copied: one that is too large is not.
    let (second, tree) = (slot(&state, 1), state.path().join("slots/1/job/tree"));
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=2m", "none"]).arg(&tree).status();
    assert!(mounted.expect("mount runs").success(), "this test must run as root");
    let carried = attempt(&shelf, &second, &cache("target"), "two", "file", 1 << 20);
    let refused = shelf.save(&carried, &carried.entries[0], &saving());
    take_off(&tree).expect("taken off");
    refused.expect_err("it is too large");
    assert!(made().iter().all(|size| *size < 1 << 20), "{:?}", made());
}

#[test]
fn a_file_that_has_a_name_outside_too_is_saved_as_a_copy() {
    let state = tempfile::tempdir().expect("a directory");
    let (shelf, first) = (shelf(state.path(), 1 << 30), slot(&state, 0));
    let carried = attempt(&shelf, &first, &cache("target"), "one", "file", 10);
    let (file, outside) = (first.join("job/tree/target/file"), first.join("job/tree/outside"));
    fs::hard_link(&file, first.join("job/tree/target/again")).expect("linked");
    fs::hard_link(&file, &outside).expect("linked");
    save(&shelf, &carried);
    fs::write(&outside, "changed later").expect("written");
    shelf.clear(&first).expect("cleared");
    attempt(&shelf, &first, &cache("target"), "one", "more", 1);
    for name in ["file", "again"] {
        assert_eq!(fs::read(first.join("job/tree/target").join(name)).expect("read"), vec![1; 10]);
    }
}

#[test]
fn a_cache_that_a_job_moved_elsewhere_is_taken_out_there() {
    let state = tempfile::tempdir().expect("a directory");
    let (shelf, first) = (shelf(state.path(), 1 << 30), slot(&state, 0));
    let tool = cache("~/.tool/registry");
    let wanted = vec![(tool.clone(), key(&tool, "one"))];
    let (carried, refused) = shelf.bring(&first, Way::Overlay, "app", wanted, &CancellationToken::new()).expect("brought");
    assert!(refused.is_empty() && carried.put_in().is_empty(), "{refused:?}");
    fs::write(first.join("job/home/.tool/registry/index"), "index").expect("written");
    fs::rename(first.join("job/home/.tool"), first.join("job/tree/moved")).expect("moved");
    std::os::unix::fs::symlink("/etc", first.join("job/home/.tool")).expect("linked");
    assert!(carried.take_out().expect("taken out").is_empty());
    assert!(!first.join("job/tree/moved/registry/index").exists());
    let refused = carried.put_in();
    assert_eq!(refused.len(), 1, "{refused:?}");
    shelf.save(&carried, &carried.entries[0], &saving()).expect("saved").expect("something is in it");
    shelf.clear(&first).expect("cleared");
    assert!(mounts_below(state.path()).expect("the list of mounts").is_empty());
    assert_eq!(shelf.list().expect("listed")[0].record.entries, 1);
}

#[test]
fn what_was_half_made_in_a_slot_is_made_again_and_holds_what_it_stands_on_meanwhile() {
    let state = tempfile::tempdir().expect("a directory");
    let (shelf, first, target) = (shelf(state.path(), 1 << 30), slot(&state, 0), cache("target"));
    save(&shelf, &attempt(&shelf, &first, &target, "one", "file", 10));
    shelf.clear(&first).expect("cleared");
    let bring = || {
        shelf
            .bring(&first, Way::Overlay, "app", vec![(target.clone(), key(&target, "one"))], &CancellationToken::new())
            .expect("brought")
    };
    bring();
    let record = first.join("caches/carried.json");
    let text = fs::read_to_string(&record).expect("the record").replace("\"whole\":true", "\"whole\":false");
    fs::write(&record, text).expect("written");
    assert!(Carried::find(&first).is_none() && Carried::is_begun(&first));
    assert!(shelf.shrink_once(Space::of_bytes(1 << 40)).expect("shrunk").is_empty(), "it is stood on");
    shelf.clear(&first).expect("cleared");
    assert!(mounts_below(state.path()).expect("the list of mounts").is_empty());
    let (carried, refused) = bring();
    assert!(refused.is_empty() && carried.put_in().is_empty() && carried.put_in().is_empty(), "{refused:?}");
    assert_eq!(fs::read(first.join("job/tree/target/file")).expect("read"), vec![1; 10]);
    assert!(carried.take_out().expect("taken out").is_empty());
    assert!(carried.take_out().expect("taken out").is_empty());
    assert_eq!(fs::read_dir(first.join("job/tree/target")).expect("the place").count(), 0);
    shelf.clear(&first).expect("cleared");
    assert!(mounts_below(state.path()).expect("the list of mounts").is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_saved_caches_take_is_listed_and_given_back_by_gc() {
    let mut scene = Scene::set(Strategy::Overlay, Lodging::OnTheHost, r#"["target"]"#).await;
    let mut worker = scene.host.start("a").await;
    scene.run("head -c 300000 /dev/zero | tr '\\0' x > target/file").await;
    worker.signal(Signal::SIGTERM);
    assert!(worker.exit().await.success());
    let answer = |scene: &Scene, args: &[&str]| -> Value {
        let said = scene.host.command(&Seat::of("a"), args).arg("--json").output().expect("the program runs");
        assert!(said.status.success(), "{args:?}: {}", String::from_utf8_lossy(&said.stderr));
        serde_json::from_slice(&said.stdout).expect("JSON")
    };
    let ledger = answer(&scene, &["disk"]);
    let class = ledger["classes"].as_array().expect("a list").iter().find(|class| class["class"] == "caches").expect("the class");
    assert!(class["bytes"].as_u64().is_some_and(|bytes| bytes >= 300_000), "{ledger:#}");
    let of = |found: &Value| -> Vec<(String, String)> {
        let all = found["findings"].as_array().expect("a list").iter().filter(|finding| finding["kind"] == "cache");
        all.map(|finding| (finding["fate"].to_string(), finding["why"].to_string())).collect()
    };
    let stays = of(&answer(&scene, &["gc", "--dry-run"]));
    assert!(
        stays.len() == 1 && stays[0].0 == "\"stays\"" && stays[0].1.contains("(caches.size), and the disk has room"),
        "{stays:?}"
    );
    scene.host.set("SAWMILL_CACHES__SIZE", "1 KiB");
    let goes = of(&answer(&scene, &["gc", "--dry-run"]));
    assert!(goes.len() == 1 && goes[0].0 == "\"goes\"" && goes[0].1.contains("may take 1.0 KiB (caches.size)"), "{goes:?}");
    assert_eq!(scene.saved().len(), 1);
    let gone = of(&answer(&scene, &["gc"]));
    assert!(gone.len() == 1 && gone[0].0 == "\"removed\"", "{gone:?}");
    assert_eq!(scene.saved().len(), 0);
    scene.host.close(Vec::new()).await;
}
