//! By what one saved cache is told from another: the path, the toolchain, and the lock files of a commit.
//!
//! The one rule: nothing of it comes from what a job can write. The files are those of the base commit, by the objects that git knows
//! them by; the toolchain is the image's digest or, on the host, what the operator's commands say.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::config::CacheConfig;
use super::path::CachePath;
use crate::ids::ObjectId;

/// Files that decide what a build fetches, or with which version of its tools it is made.
const NAMES: [&str; 25] = [
    "Cargo.lock",
    "package-lock.json",
    "npm-shrinkwrap.json",
    "pnpm-lock.yaml",
    "yarn.lock",
    "bun.lock",
    "bun.lockb",
    "poetry.lock",
    "uv.lock",
    "Pipfile.lock",
    "pdm.lock",
    "go.sum",
    "Gemfile.lock",
    "composer.lock",
    "gradle.lockfile",
    "mix.lock",
    "rust-toolchain",
    "rust-toolchain.toml",
    ".nvmrc",
    ".node-version",
    ".python-version",
    ".ruby-version",
    ".go-version",
    ".java-version",
    ".tool-versions",
];

/// The paths, from the root of the repository, of the files that a cache goes by, whether or not a commit has them.
#[must_use]
pub fn key_files(cache: &CacheConfig) -> Vec<String> {
    if let Some(files) = &cache.key {
        return files.clone();
    }
    let within = |dir: &String, name: &str| if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") };
    cache.path.directories().iter().flat_map(|dir| NAMES.iter().map(move |name| within(dir, name))).collect()
}

/// What a key is made of.
#[derive(Debug, Clone)]
pub struct Facts<'a> {
    /// The cache.
    pub path: &'a CachePath,
    /// The toolchain: an image's digest, or what commands said.
    pub toolchain: &'a str,
    /// The files, each with the object that the base commit has there.
    pub files: &'a [(String, Option<ObjectId>)],
}

/// A key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// Of all facts.
    pub exact: String,
    /// Of path and toolchain: what a cache must have in common with another to be taken in its stead.
    pub toolchain: String,
    /// The names of the files that the commit has.
    pub files: BTreeSet<String>,
}

impl Key {
    /// That of these facts.
    #[must_use]
    pub fn of(facts: &Facts<'_>) -> Self {
        let host = (std::env::consts::OS, std::env::consts::ARCH);
        let mut hash = Sha256::new();
        let mut add = |part: &str| {
            // With its length, so that no two lists of parts are the same bytes.
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
            digits(hash.clone())
        };
        for part in [facts.path.to_string().as_str(), host.0, host.1] {
            add(part);
        }
        let toolchain = add(facts.toolchain);
        let mut exact = toolchain.clone();
        for (path, object) in facts.files {
            add(path);
            exact = add(object.as_ref().map_or("", ObjectId::as_str));
        }
        let files = facts.files.iter().filter(|(_, object)| object.is_some()).map(|(path, _)| path.clone()).collect();
        Self { exact, toolchain, files }
    }

    /// As a line of a log has it.
    #[must_use]
    pub fn short(&self) -> &str {
        &self.exact[..10]
    }
}

fn digits(hash: Sha256) -> String {
    hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> CachePath {
        CachePath::try_from(text.to_owned()).expect("a path")
    }

    #[test]
    fn a_key_is_another_when_any_fact_is() {
        let object = |digit: &str| Some(digit.repeat(40).parse().expect("an id"));
        let key = |path: &CachePath, toolchain: &str, files: &[(&str, Option<ObjectId>)]| {
            let files: Vec<_> = files.iter().map(|(name, object)| ((*name).to_owned(), object.clone())).collect();
            Key::of(&Facts { path, toolchain, files: &files })
        };
        let (target, other) = (path("target"), path("~/target"));
        let one = key(&target, "1.94", &[("Cargo.lock", object("a")), ("go.sum", None)]);
        assert_eq!(one, key(&target, "1.94", &[("Cargo.lock", object("a")), ("go.sum", None)]));
        let locked = key(&target, "1.94", &[("Cargo.lock", object("b")), ("go.sum", None)]);
        assert_eq!(one.toolchain, locked.toolchain);
        let all = [
            one,
            locked,
            key(&target, "1.94", &[("Cargo.lock", None), ("go.sum", object("a"))]),
            key(&target, "1.95", &[("Cargo.lock", object("a")), ("go.sum", None)]),
            key(&other, "1.94", &[("Cargo.lock", object("a")), ("go.sum", None)]),
        ];
        assert_eq!(all.iter().map(|key| &key.exact).collect::<BTreeSet<_>>().len(), all.len());
        assert_eq!(all.iter().map(|key| &key.toolchain).collect::<BTreeSet<_>>().len(), 3);
    }

    #[test]
    fn lock_files_are_looked_for_at_the_root_and_above_the_path() {
        let of = |text: &str, key: Option<Vec<String>>| {
            key_files(&CacheConfig { path: path(text), key, toolchain: Vec::new(), fallback: true, gates: true, save_by: None })
        };
        let found = of("web/app/node_modules", None);
        for name in ["package-lock.json", "web/package-lock.json", "web/app/package-lock.json", "rust-toolchain.toml"] {
            assert!(found.iter().any(|path| path == name), "{name} in {found:?}");
        }
        assert!(of("~/.cargo/registry", None).iter().all(|path| !path.contains('/')));
        assert_eq!(of("target", Some(vec!["x".to_owned()])), ["x"]);
    }
}
