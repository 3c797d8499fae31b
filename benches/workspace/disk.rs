//! Filesystems to measure on, on loop devices.

use std::path::{Path, PathBuf};
use std::process::Command;

/// What is measured on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// With a journal: without one it creates files many times slower soon after many were deleted.
    Ext4,
    Btrfs,
    Xfs,
}

/// A directory on a filesystem, which goes with it.
pub(crate) struct Disk {
    scratch: tempfile::TempDir,
    kind: Option<Kind>,
}

impl Disk {
    /// Makes a filesystem, which only root can.
    pub(crate) fn make(kind: Kind) -> Self {
        let mut disk = Self::plain();
        let image = disk.scratch.path().join("image");
        run(Command::new("truncate").args(["-s", "12G"]).arg(&image));
        let (program, options): (_, &[&str]) = match kind {
            Kind::Ext4 => ("mkfs.ext4", &["-q", "-F", "-N", "1500000"]),
            Kind::Btrfs => ("mkfs.btrfs", &["-q"]),
            Kind::Xfs => ("mkfs.xfs", &["-q", "-m", "reflink=1"]),
        };
        run(Command::new(program).args(options).arg(&image));
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(disk.path()));
        disk.kind = Some(kind);
        disk
    }

    /// A directory where temporary files are.
    pub(crate) fn plain() -> Self {
        let scratch = tempfile::TempDir::with_prefix("sawmill-bench-").expect("a scratch directory");
        std::fs::create_dir(scratch.path().join("disk")).expect("made");
        Self { scratch, kind: None }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.scratch.path().join("disk")
    }

    pub(crate) fn description(&self) -> String {
        let path = self.path();
        let on = match self.kind {
            Some(Kind::Ext4) => "an ext4 with a journal, on a loop device".to_owned(),
            Some(Kind::Btrfs) => "a Btrfs, on a loop device".to_owned(),
            Some(Kind::Xfs) => "an XFS with reflinks, on a loop device".to_owned(),
            None => {
                let output = Command::new("stat").args(["-f", "-c", "%T"]).arg(&path).output().expect("stat runs");
                let kind = String::from_utf8_lossy(&output.stdout).trim().to_owned();
                format!("{kind} (not root: no loop device, no overlays, no snapshots)")
            }
        };
        format!("on {on}, at {}", path.display())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let below = mounts_below(&self.path());
        for at in below.iter().rev() {
            nix::mount::umount2(at, nix::mount::MntFlags::MNT_DETACH).expect("unmounted");
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
