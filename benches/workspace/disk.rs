//! A filesystem to measure on: an ext4 with a journal, on a loop device.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A directory on the filesystem, which goes with it.
pub(crate) struct Disk {
    scratch: tempfile::TempDir,
    mounted: bool,
}

impl Disk {
    /// Makes the filesystem, as root; else a plain directory.
    pub(crate) fn make() -> Self {
        let scratch = tempfile::TempDir::with_prefix("sawmill-bench-").expect("a scratch directory");
        let mut disk = Self { scratch, mounted: false };
        std::fs::create_dir(disk.path()).expect("made");
        if nix::unistd::geteuid().is_root() {
            let image = disk.scratch.path().join("image");
            run(Command::new("truncate").args(["-s", "12G"]).arg(&image));
            run(Command::new("mkfs.ext4").args(["-q", "-F", "-N", "1500000"]).arg(&image));
            run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(disk.path()));
            disk.mounted = true;
        }
        disk
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.scratch.path().join("disk")
    }

    pub(crate) fn description(&self) -> String {
        let path = self.path();
        if self.mounted {
            return format!("on an ext4 with a journal, on a loop device, at {}", path.display());
        }
        let output = Command::new("stat").args(["-f", "-c", "%T"]).arg(&path).output().expect("stat runs");
        let kind = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        format!("on {kind}, at {} (not root: no loop device, no overlays)", path.display())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted {
            let below = mounts_below(&self.path());
            for at in below.iter().rev() {
                nix::mount::umount2(at, nix::mount::MntFlags::MNT_DETACH).expect("unmounted");
            }
        }
    }
}

fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").expect("the list of mounts");
    table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from).filter(|at| at.starts_with(dir)).collect()
}

fn run(command: &mut Command) {
    let output = command.output().expect("it starts");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
