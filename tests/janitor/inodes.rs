//! A disk that has room and no inodes: a shortage like any other, of which gc and the worker itself make an end where they can.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;
use nix::sys::statvfs::statvfs;
use sawmill::job::JobState;
use serde_json::json;
use tempfile::TempDir;

use super::{answer_at, text};
use crate::crash::LONG;
use crate::delivery::daemon::Seat;
use crate::delivery::host::{Host, Lodging, On, until};
use crate::delivery::remote::publish;

/// A filesystem with few inodes, on a loop device, which goes with it.
struct Few {
    at: PathBuf,
    _image: TempDir,
}

impl Few {
    fn mount(at: &Path, inodes: u32) -> Self {
        let scratch = TempDir::with_prefix("sawmill-ext4-").expect("a directory");
        let image = scratch.path().join("image");
        fs::File::create(&image).and_then(|file| file.set_len(256 << 20)).expect("an image");
        fs::create_dir_all(at).expect("a directory");
        let inodes = inodes.to_string();
        ran(Command::new("mkfs.ext4").args(["-q", "-F", "-N", &inodes]).arg(&image));
        ran(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(at));
        Self { at: at.to_owned(), _image: scratch }
    }

    fn free(&self) -> u64 {
        statvfs(&self.at).expect("it is mounted").files_available()
    }

    /// Makes empty files until so many inodes are left.
    fn fill_up_to(&self, left: u64) {
        let dir = self.at.join(format!("filler-{left}"));
        fs::create_dir(&dir).expect("made");
        for number in left..self.free() {
            fs::write(dir.join(number.to_string()), "").expect("there are inodes");
        }
    }
}

impl Drop for Few {
    fn drop(&mut self) {
        let gone = Command::new("umount").arg("--lazy").arg(&self.at).status();
        assert!(gone.is_ok_and(|status| status.success()) || std::thread::panicking(), "{} stays mounted", self.at.display());
    }
}

fn ran(command: &mut Command) {
    let output = command.output().expect("it starts");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shortage_of_inodes_has_bases_evicted_and_is_told_where_that_is_not_enough() {
    // On this disk there is no room for the program that containers are given.
    let mut host = Host::new(On::Sqlite, LONG, 1).await.lodge(Lodging::OnTheHost).await;
    host.set("SAWMILL_WORKER__ADMISSION__DISK_FREE", "1 MiB");
    host.set("SAWMILL_WORKER__ADMISSION__DISK_JOB", "0 B");
    host.set("SAWMILL_WORKER__ADMISSION__INODES_FREE", "1000");
    host.set("SAWMILL_WORKER__ADMISSION__EVERY", "100ms");
    let seed = host.root().join("seed");
    for number in 0..600 {
        let dir = seed.join(format!("dir-{}", number % 10));
        fs::create_dir_all(&dir).expect("made");
        fs::write(dir.join(number.to_string()), number.to_string()).expect("written");
    }
    let remote = publish(&seed, &host.root().join("remote.git"));
    let state = host.state_dir("a");
    let disk = Few::mount(&state, 4000);
    let job = || host.enqueue(&json!({ "repo": remote, "changes": "none", "task": { "command": "true" } }));
    let first = job();
    let mut worker = host.start("a").await;
    host.succeeded(first).await;
    worker.signal(Signal::SIGTERM);
    assert!(worker.exit().await.success());

    disk.fill_up_to(900);
    let planned = answer_at(&host, &Seat::of("a"), &["gc", "--dry-run"]);
    let findings = planned["findings"].as_array().expect("a list");
    let lacks = findings.iter().find(|finding| finding["fate"] == "goes" && text(finding, "why").starts_with("the disk lacks"));
    let why = text(lacks.unwrap_or_else(|| panic!("nothing goes: {planned:#}")), "why");
    assert!(why.contains(" inodes;"), "{why}");
    assert!(!why.contains("B;") && !why.contains("B and"), "of room there is enough: {why}");
    let before = disk.free();
    let second = job();
    let mut worker = host.start("a").await;
    host.succeeded(second).await;
    assert!(worker.log().contains(" to make room on the disk"), "{}", worker.log());
    let log = worker.log();
    let (first, _) = log.split_once("claimed job").expect("it is said");
    assert!(!first.contains("no more jobs are claimed"), "room was made first, of {before}: {log}");

    disk.fill_up_to(300);
    until("it is paused", async || host.sawmill(&["workers", "show", "a"])["state"] == "paused").await;
    let third = job();
    let told = host.sawmill(&["job", "explain", &third.to_string()]);
    let obstacle = &told["workers"][0]["obstacles"][0];
    assert_eq!((&obstacle["kind"], &obstacle["of"]), (&json!("short"), &json!(["inodes"])), "{told:#}");
    assert_eq!(text(obstacle, "reason"), "fewer than 1000 inodes are free on the disk of the state directory");
    assert!(text(obstacle, "measured").ends_with(" inodes"), "{told:#}");
    assert!(told.to_string().contains("more free inodes on the disk of its state directory"), "{told:#}");
    assert_eq!(host.job(third).await.state, JobState::Queued);
    fs::remove_dir_all(state.join("filler-900")).expect("removed");
    fs::remove_dir_all(state.join("filler-300")).expect("removed");
    host.succeeded(third).await;
    worker.signal(Signal::SIGTERM);
    assert!(worker.exit().await.success());
    drop(disk);
    host.close(Vec::new()).await;
}
