//! Real repositories: this project's own, and sources of crates out of cargo's registry.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tempfile::TempDir;

use super::remote::{git, publish};

/// How many files the largest repository has at least.
const MANY: usize = 5_000;
/// A crate with more than this many bytes is left out of the largest repository: files are to be many, not large.
const BULKY: u64 = 8 << 20;

/// Bare repositories, made once for all tests that run side by side.
pub(super) struct Real {
    dir: TempDir,
}

/// A crate's unpacked sources.
struct Unpacked {
    path: PathBuf,
    files: usize,
    bytes: u64,
}

impl Real {
    /// Those that another test holds, or new ones. They go with the last test that holds them: what is static never goes.
    pub(super) fn get() -> Arc<Self> {
        static REAL: Mutex<Weak<Real>> = Mutex::new(Weak::new());
        let mut held = REAL.lock().unwrap_or_else(PoisonError::into_inner);
        held.upgrade().unwrap_or_else(|| {
            let made = Arc::new(Self::make());
            *held = Arc::downgrade(&made);
            made
        })
    }

    fn make() -> Self {
        let dir = TempDir::with_prefix("sawmill-real-").expect("a temporary directory");
        let own = dir.path().join("own.git");
        git(dir.path(), &["init", "--quiet", "--bare", "--initial-branch=main", own.to_str().expect("UTF-8")]);
        // Whatever branches are there beside what is checked out.
        git(&own, &["fetch", "--quiet", env!("CARGO_MANIFEST_DIR"), "HEAD:refs/heads/main"]);

        let mut crates = unpacked();
        crates.sort_by_key(|found| (std::cmp::Reverse(found.files), found.path.clone()));
        let mut files = 0;
        let several = crates.iter().filter(|found| found.bytes < BULKY).take_while(|found| {
            let more = files < MANY;
            files += found.files;
            more
        });
        seed(&dir.path().join("many"), several);
        let largest = crates.iter().max_by_key(|found| found.bytes);
        seed(&dir.path().join("large"), largest.into_iter());
        Self { dir }
    }

    /// Copies of all of them below `dir`, for one test to push to.
    pub(super) fn remotes(&self, dir: &Path) -> Vec<PathBuf> {
        let copy = |name: &str| {
            let (from, to) = (self.dir.path().join(name), dir.join(name));
            git(dir, &["clone", "--quiet", "--bare", from.to_str().expect("UTF-8"), to.to_str().expect("UTF-8")]);
            to
        };
        let remotes: Vec<PathBuf> = ["own.git", "many.git", "large.git"].into_iter().map(copy).collect();
        let files = git(&remotes[1], &["ls-tree", "-r", "--name-only", "main"]).lines().count();
        assert!(files >= MANY, "the registry has only {files} files in crates that are not bulky");
        remotes
    }
}

fn seed<'a>(dir: &Path, crates: impl Iterator<Item = &'a Unpacked>) {
    fs::create_dir(dir).expect("a directory");
    for found in crates {
        let copied = Command::new("cp").arg("-R").arg(&found.path).arg(dir).status().expect("cp runs");
        assert!(copied.success(), "{}", found.path.display());
    }
    publish(dir, &dir.with_extension("git"));
}

/// All crates that cargo has unpacked on this host.
fn unpacked() -> Vec<Unpacked> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").expect("a home")).join(".cargo"));
    let registries = fs::read_dir(home.join("registry/src")).expect("cargo has unpacked crates").flatten();
    let crates = registries.flat_map(|registry| fs::read_dir(registry.path()).expect("a registry").flatten());
    let crates = crates.map(|entry| entry.path()).filter(|path| path.is_dir());
    crates
        .map(|path| {
            let (files, bytes) = measure(&path);
            Unpacked { path, files, bytes }
        })
        .collect()
}

fn measure(dir: &Path) -> (usize, u64) {
    fs::read_dir(dir).expect("a directory").flatten().fold((0, 0), |(files, bytes), entry| {
        let meta = entry.metadata().expect("an entry");
        let (more, size) = if meta.is_dir() { measure(&entry.path()) } else { (1, meta.len()) };
        (files + more, bytes + size)
    })
}
