//! What an attempt has of caches in its slot: over a start of the host, and what cannot be copied, moved, read or ended.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use bytesize::ByteSize;
use sawmill::caches::{CacheError, Carried, Config, Entry, Shelf, Way};
use sawmill::git::{mounts_below, take_off};
use tokio_util::sync::CancellationToken;

use super::shelf::{attempt, cache, key, save, saving, shelf, slot};
use crate::git::snapshots::Btrfs;

/// Has an attempt in a slot have the cache `target`, which is put into its tree.
fn bring(shelf: &Shelf, slot: &Path, way: Way) -> Carried {
    let target = cache("target");
    let wanted = vec![(target.clone(), key(&target, "one"))];
    let (carried, refused) = shelf.bring(slot, way, "app", wanted, &CancellationToken::new()).expect("brought");
    assert!(refused.is_empty() && carried.put_in().is_empty(), "{refused:?}");
    carried
}

/// Changes the record in a slot.
fn rewrite(slot: &Path, from: &str, to: &str) {
    let record = slot.join("caches/carried.json");
    let text = fs::read_to_string(&record).expect("the record");
    assert!(text.contains(from), "{text}");
    fs::write(&record, text.replace(from, to)).expect("written");
}

/// Takes off what a start of the host, or the end of a namespace, does.
fn unmount_all(slot: &Path) {
    for at in mounts_below(slot).expect("the list of mounts").iter().rev() {
        take_off(at).expect("taken off");
    }
    assert!(mounts_below(slot).expect("the list of mounts").is_empty());
}

#[test]
fn what_is_of_an_earlier_boot_is_taken_out_and_neither_put_back_nor_saved() {
    for way in [Way::Overlay, Way::Copy] {
        let state = tempfile::tempdir().expect("a directory");
        let (shelf, slot) = (shelf(state.path(), 1 << 30), slot(&state, 0));
        bring(&shelf, &slot, way);
        fs::write(slot.join("job/tree/target/file"), "half").expect("written");
        unmount_all(&slot);
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("the boot's id");
        rewrite(&slot, boot.trim(), "11111111-0000-0000-0000-000000000000");
        let carried = Carried::find(&slot).expect("it is there");
        assert_eq!((carried.entries.len(), carried.past.len()), (0, 1));
        assert!(carried.take_out().expect("taken out").is_empty());
        assert_eq!(carried.left_in().expect("told"), [] as [&Path; 0]);
        let refused = carried.put_in();
        assert!(matches!(refused.as_slice(), [(_, CacheError::Past)]), "{refused:?}");
        assert!(!slot.join("job/tree/target/file").exists());
        // Nothing hides the place.
        let (merged, place) = (slot.join("caches/0/merged"), slot.join("job/tree/target"));
        assert!(!sawmill::git::is_shown_at(&merged, &place), "{way:?}");
        shelf.clear(&slot).expect("cleared");
        let carried = bring(&shelf, &slot, way);
        assert_eq!(fs::read_dir(slot.join("job/tree/target")).expect("read").count(), 0);
        carried.take_out().expect("taken out");
        shelf.clear(&slot).expect("cleared");
    }
}

#[test]
fn a_layer_whose_mount_is_gone_is_mounted_again_within_a_boot() {
    let state = tempfile::tempdir().expect("a directory");
    let (shelf, slot) = (shelf(state.path(), 1 << 30), slot(&state, 0));
    save(&shelf, &attempt(&shelf, &slot, &cache("target"), "one", "before", 10));
    shelf.clear(&slot).expect("cleared");
    let carried = bring(&shelf, &slot, Way::Overlay);
    let place = slot.join("job/tree/target");
    fs::write(place.join("file"), "half").expect("written");
    unmount_all(&slot);
    assert!(carried.put_in().is_empty());
    assert!(place.join("file").exists() && place.join("before").exists());
    carried.take_out().expect("taken out");
    let saved = shelf.save(&carried, &carried.entries[0], &saving()).expect("saved").expect("something is in it");
    assert_eq!(saved.entries, 2);
    shelf.clear(&slot).expect("cleared");
    assert!(mounts_below(state.path()).expect("the list of mounts").is_empty());
}

#[test]
fn a_layer_is_read_by_the_marks_that_it_was_written_with() {
    let state = tempfile::tempdir().expect("a directory");
    let (shelf, slot) = (shelf(state.path(), 1 << 30), slot(&state, 0));
    let carried = bring(&shelf, &slot, Way::Copy);
    let place = slot.join("job/tree/target");
    fs::create_dir(place.join("dir")).expect("made");
    fs::write(place.join("dir/old"), "old").expect("written");
    save(&shelf, &carried);
    shelf.clear(&slot).expect("cleared");
    bring(&shelf, &slot, Way::Overlay);
    unmount_all(&slot);
    // As who is not root leaves it who has replaced the directory.
    let upper = slot.join("caches/0/upper/dir");
    fs::create_dir(&upper).expect("made");
    xattr::set(&upper, "user.overlay.opaque", b"y").expect("a user may set it");
    fs::write(upper.join("new"), "new").expect("written");
    rewrite(&slot, "\"trusted\"", "\"user\"");
    let carried = Carried::find(&slot).expect("it is there");
    shelf.save(&carried, &carried.entries[0], &saving()).expect("saved").expect("something is in it");
    shelf.clear(&slot).expect("cleared");
    bring(&shelf, &slot, Way::Copy);
    assert!(place.join("dir/new").exists() && !place.join("dir/old").exists());
}

#[test]
fn one_with_too_many_entries_is_not_saved_and_says_so() {
    let state = tempfile::tempdir().expect("a directory");
    let (shelf, slot) = (shelf(state.path(), 1 << 30), slot(&state, 0));
    let carried = bring(&shelf, &slot, Way::Copy);
    for number in 0..101 {
        fs::write(slot.join(format!("job/tree/target/{number}")), "").expect("written");
    }
    carried.take_out().expect("taken out");
    let refused = shelf.save(&carried, &carried.entries[0], &saving()).expect_err("there are too many");
    assert_eq!(refused.to_string(), "it has more than 100 files, links and directories (caches.entries)");
    assert!(shelf.list().expect("listed").is_empty() && shelf.leftovers().is_empty());
}

#[test]
fn copying_ends_when_its_attempt_does_and_leaves_nothing_that_would_be_used() {
    let state = tempfile::tempdir().expect("a directory");
    let (shelf, slot) = (shelf(state.path(), 1 << 30), slot(&state, 0));
    save(&shelf, &attempt(&shelf, &slot, &cache("target"), "one", "file", 10));
    shelf.clear(&slot).expect("cleared");
    let cancel = CancellationToken::new();
    cancel.cancel();
    let wanted = vec![(cache("target"), key(&cache("target"), "one"))];
    let stopped = shelf.bring(&slot, Way::Copy, "app", wanted, &cancel).expect_err("it was cancelled");
    assert!(matches!(stopped, CacheError::Stopped), "{stopped}");
    assert!(Carried::find(&slot).is_none() && Carried::is_begun(&slot));
    assert_eq!(shelf.list().expect("listed").len(), 1, "what is saved is not to blame");
}

#[test]
fn a_copy_is_not_saved_anew_as_it_was_found() {
    let state = tempfile::tempdir().expect("a directory");
    let (shelf, slot) = (shelf(state.path(), 1 << 30), slot(&state, 0));
    save(&shelf, &attempt(&shelf, &slot, &cache("target"), "one", "file", 10));
    shelf.clear(&slot).expect("cleared");
    let saved = |carried: &Carried| {
        carried.take_out().expect("taken out");
        shelf.save(carried, &carried.entries[0], &saving()).expect("done").is_some()
    };
    let carried = bring(&shelf, &slot, Way::Copy);
    assert!(!saved(&carried));
    assert!(carried.put_in().is_empty());
    fs::write(slot.join("job/tree/target/file"), [2; 10]).expect("written");
    assert!(saved(&carried));
}

#[test]
fn a_saved_cache_that_cannot_be_read_is_removed_and_in_nobodys_way() {
    let state = tempfile::tempdir().expect("a directory");
    let (shelf, slot) = (shelf(state.path(), 1 << 30), slot(&state, 0));
    save(&shelf, &attempt(&shelf, &slot, &cache("target"), "one", "file", 10));
    shelf.clear(&slot).expect("cleared");
    let damaged = shelf.list().expect("listed").remove(0).dir;
    fs::remove_dir_all(damaged.join("files")).expect("removed");
    let wanted = vec![(cache("target"), key(&cache("target"), "one"))];
    let (carried, refused) = shelf.bring(&slot, Way::Copy, "app", wanted, &CancellationToken::new()).expect("brought");
    assert!(matches!(refused.as_slice(), [(_, CacheError::Damaged { .. })]), "{refused:?}");
    assert!(carried.put_in().is_empty() && slot.join("job/tree/target").is_dir());
    assert!(!damaged.exists());
    fs::write(slot.join("job/tree/target/file"), "new").expect("written");
    save(&shelf, &carried);
    assert_eq!(shelf.list().expect("listed").len(), 1);
}

#[test]
fn a_file_that_can_have_no_more_names_is_saved_as_a_copy() {
    const NAMES: u64 = 40_000;
    let disk = Btrfs::make();
    let config = Config { size: ByteSize::gib(1), entries: NAMES, copy: ByteSize::gib(1), refresh: std::time::Duration::ZERO };
    let (shelf, slot) = (Shelf::open(&disk.path(), &config).expect("a shelf"), disk.path().join("slots/0"));
    for part in ["job/tree", "job/home"] {
        fs::create_dir_all(slot.join(part)).expect("made");
    }
    let carried = bring(&shelf, &slot, Way::Copy);
    let place = slot.join("job/tree/target");
    fs::write(place.join("0"), "the same").expect("written");
    (1..NAMES).for_each(|number| fs::hard_link(place.join("0"), place.join(number.to_string())).expect("linked"));
    carried.take_out().expect("taken out");
    let saved = shelf.save(&carried, &carried.entries[0], &saving()).expect("saved").expect("something is in it");
    assert_eq!(saved.entries, NAMES);
    shelf.clear(&slot).expect("cleared");
    bring(&shelf, &slot, Way::Copy);
    for number in [0, NAMES / 2, NAMES - 1] {
        assert_eq!(fs::read_to_string(place.join(number.to_string())).expect("read"), "the same");
    }
}

#[test]
fn the_record_of_an_earlier_build_is_of_this_boot() {
    let state = tempfile::tempdir().expect("a directory");
    let (shelf, slot) = (shelf(state.path(), 1 << 30), slot(&state, 0));
    bring(&shelf, &slot, Way::Copy);
    let record = slot.join("caches/carried.json");
    let mut text: serde_json::Value = serde_json::from_slice(&fs::read(&record).expect("read")).expect("JSON");
    let whole = text.as_object_mut().expect("an object");
    assert!(whole.remove("boot").is_some() && whole.remove("marks").is_some());
    fs::write(&record, text.to_string()).expect("written");
    let found: Vec<Entry> = Carried::find(&slot).expect("it is there").entries;
    assert_eq!(found.len(), 1);
}

#[test]
fn what_cannot_be_copied_whole_to_where_it_would_stay_is_not_left_there() {
    let state = tempfile::tempdir().expect("a directory");
    let (shelf, slot) = (shelf(state.path(), 1 << 30), slot(&state, 0));
    let carried = bring(&shelf, &slot, Way::Copy);
    let place = slot.join("job/tree/target");
    (0..10).for_each(|number| fs::write(place.join(number.to_string()), vec![1; 100_000]).expect("written"));
    save(&shelf, &carried);
    shelf.clear(&slot).expect("cleared");
    // A worktree on another filesystem, which has room for a part.
    let tree = slot.join("job/tree");
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=512k", "none"]).arg(&tree).status();
    assert!(mounted.expect("mount runs").success(), "this test must run as root");
    let wanted = vec![(cache("target"), key(&cache("target"), "one"))];
    let (carried, refused) = shelf.bring(&slot, Way::Copy, "app", wanted, &CancellationToken::new()).expect("brought");
    let left = fs::read_dir(&tree).expect("read").count();
    take_off(&tree).expect("taken off");
    assert!(matches!(refused.as_slice(), [(_, CacheError::Io { .. })]), "{refused:?}");
    assert_eq!((left, carried.entries.len()), (0, 0), "it would be the job's");
    assert_eq!(shelf.list().expect("listed").len(), 1, "what is saved is not to blame");
}

/// As those of the first files of two subvolumes are.
#[test]
fn files_with_the_same_number_in_two_subvolumes_are_saved_as_two() {
    let disk = Btrfs::make();
    let (shelf, slot) = (shelf(&disk.path(), 1 << 30), disk.path().join("slots/0"));
    for part in ["job/tree", "job/home"] {
        fs::create_dir_all(slot.join(part)).expect("made");
    }
    let carried = bring(&shelf, &slot, Way::Copy);
    let place = slot.join("job/tree/target");
    for name in ["one", "two"] {
        let made = Command::new("btrfs").args(["--quiet", "subvolume", "create"]).arg(place.join(name)).status();
        assert!(made.expect("btrfs runs").success());
        fs::write(place.join(name).join("file"), name.repeat(10_000)).expect("written");
        fs::hard_link(place.join(name).join("file"), place.join(name).join("again")).expect("linked");
    }
    let number = |name: &str| fs::metadata(place.join(name).join("file")).expect("a file").ino();
    assert_eq!(number("one"), number("two"));
    assert!(carried.take_out().expect("taken out").is_empty());
    let saved = shelf.save(&carried, &carried.entries[0], &saving()).expect("saved").expect("something is in it");
    assert!(saved.bytes >= 60_000, "both count: {}", saved.bytes);
    shelf.clear(&slot).expect("cleared");
    bring(&shelf, &slot, Way::Copy);
    for (name, file) in ["one", "two"].into_iter().flat_map(|name| [(name, "file"), (name, "again")]) {
        assert_eq!(fs::read_to_string(place.join(name).join(file)).expect("read"), name.repeat(10_000));
    }
}
