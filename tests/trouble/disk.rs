//! A state directory without space left.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::site::{Site, wait_until};

/// A file system of its own size. Where none can be mounted the test fails, for it would prove nothing.
pub(crate) struct Small(PathBuf);

impl Small {
    pub(crate) fn mount(path: &Path, megabytes: u32) -> Self {
        std::fs::create_dir_all(path).expect("a directory");
        let size = format!("size={megabytes}m");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(path).output().expect("mount starts");
        let why = String::from_utf8_lossy(&mounted.stderr);
        assert!(mounted.status.success(), "no small file system can be mounted; run the tests as root: {why}");
        Self(path.to_owned())
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let gone = Command::new("umount").arg("--lazy").arg(&self.0).status();
        assert!(gone.is_ok_and(|status| status.success()) || std::thread::panicking(), "{} stays mounted", self.0.display());
    }
}

pub(crate) fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..bytes).map(next).collect()
}

/// A site whose worker takes jobs with so little room.
fn small_site() -> Site {
    Site::new().with("SAWMILL_WORKER__ADMISSION__DISK_FREE", "1 MiB").with("SAWMILL_WORKER__ADMISSION__DISK_JOB", "0 B")
}

#[test]
fn a_mirror_that_does_not_fit_fails_the_job_with_the_reason() {
    let site = small_site();
    site.remote("large.git", |seed| std::fs::write(seed.join("large.bin"), noise(6 << 20)).expect("a file"));
    let _small = Small::mount(&site.path("worker"), 4);
    let _worker = site.worker();
    // Not from the same file system, so that objects are copied.
    insta::assert_snapshot!(site.fate(&["--repo", "large.git", "--", "true"]), @r#"
    exit 1
    [job] failed: given up after 2 attempts that infrastructure failed; the last one: cannot fetch from [site]/large.git: no space left on the disk
    "#);
    insta::assert_snapshot!(site.fate(&["--project", "app", "--changes", "none", "--", "true"]), @r#"
    exit 0
    [job] succeeded: done without a change
    "#);
}

#[test]
fn a_job_that_fills_the_disk_fails_with_the_reason() {
    let site = small_site();
    let _small = Small::mount(&site.path("worker"), 8);
    let _worker = site.worker();
    let id = site.enqueue(&["--project", "app", "--", "sleep 1; head -c 20000000 /dev/zero | tr '\\0' x > large.txt"]);
    insta::assert_snapshot!(site.fate_of(&id), @r#"
    exit 1
    [job] failed: shell exited with status 1; no space is left on the disk of the worker's state directory
    "#);
}

#[test]
fn a_state_directory_that_is_full_from_the_start_is_named() {
    let site = Site::new();
    let small = Small::mount(&site.path("worker"), 1);
    std::fs::write(small.0.join("filler"), vec![0; 2 << 20]).expect_err("the file system is full");
    insta::assert_snapshot!(site.says(&["worker"]), @r#"
    exit 1
    [time]  WARN cannot write this daemon's name into [site]/worker/lock: No space left on device (os error 28)
    error: cannot write [site]/worker/mirrors/.home/gitconfig: no space left on the disk
    "#);
}

#[test]
fn who_waits_for_a_job_is_told_that_the_worker_is_short_of_room() {
    let site = Site::new();
    let _small = Small::mount(&site.path("worker"), 8);
    let _worker = site.worker();
    wait_until("the worker says so", || site.says(&["workers", "list"]).contains("paused"));
    insta::assert_snapshot!(site.says(&["enqueue", "--project", "app", "--", "true"]), @r#"
    exit 0
    [job]
    on branch sawmill/adhoc/job/true; watch it with: sawmill logs -f [job]
    no worker takes jobs now; w is paused: less than 1.1 GiB is free on the disk of the state directory: 1.0 GiB are to stay free, and a job is expected to take 64.0 MiB
    "#);
}
