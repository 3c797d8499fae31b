//! Lock files that do not go with their manifests.
//!
//! The one rule: only what a manifest says of dependencies counts. A change of anything else in it needs no new lock.

use std::path::Path;

use serde_json::Value;

use super::Found;
use crate::git::{ChangedFile, Changeset, Presence};
use crate::job::checks::Rule;

/// The lock files that are known.
pub const NAMES: &[&str] =
    &["Cargo.lock", "package-lock.json", "pnpm-lock.yaml", "yarn.lock", "poetry.lock", "uv.lock", "go.sum"];

/// A way of locking dependencies.
struct Ecosystem {
    manifest: &'static str,
    locks: &'static [&'static str],
    /// What makes the lock anew.
    command: &'static str,
    /// What of a manifest a lock depends on; nothing where it cannot be read.
    dependencies: fn(&[u8]) -> Option<Value>,
}

const ECOSYSTEMS: [Ecosystem; 4] = [
    Ecosystem { manifest: "Cargo.toml", locks: &["Cargo.lock"], command: "cargo update --workspace", dependencies: of_cargo },
    Ecosystem {
        manifest: "package.json",
        locks: &["package-lock.json", "pnpm-lock.yaml", "yarn.lock"],
        command: "the package manager's install",
        dependencies: of_npm,
    },
    Ecosystem {
        manifest: "pyproject.toml",
        locks: &["poetry.lock", "uv.lock"],
        command: "poetry lock or uv lock",
        dependencies: of_python,
    },
    Ecosystem { manifest: "go.mod", locks: &["go.sum"], command: "go mod tidy", dependencies: of_go },
];

/// Manifests whose dependencies changed without their lock, and locks that changed without any manifest.
pub(super) fn check(changes: &Changeset) -> Vec<Found> {
    ECOSYSTEMS.iter().flat_map(|ecosystem| ecosystem.check(changes)).collect()
}

impl Ecosystem {
    fn check(&self, changes: &Changeset) -> Vec<Found> {
        let mut found = Vec::new();
        let manifests: Vec<&ChangedFile> = changes.files.iter().filter(|file| name(&file.path) == self.manifest).collect();
        let locks: Vec<&ChangedFile> = changes.files.iter().filter(|file| self.locks.contains(&name(&file.path))).collect();
        for manifest in manifests.iter().filter(|manifest| self.differs(manifest)) {
            let Some(lock) = self.lock_of(&manifest.path, changes) else { continue };
            if !locks.iter().any(|changed| changed.path == lock) {
                let message = format!(
                    "the dependencies in {} changed, and this did not; run {} and commit both",
                    manifest.path, self.command
                );
                found.push(Found { path: Some(lock), line: None, rule: Rule::LockFile, message });
            }
        }
        for lock in &locks {
            let below = Path::new(&lock.path).parent().unwrap_or(Path::new(""));
            let goes_with = |manifest: &&ChangedFile| Path::new(&manifest.path).starts_with(below);
            let what = match lock.is {
                Presence::Absent => "was removed",
                Presence::There => "changed",
            };
            if !manifests.iter().any(goes_with) {
                let message = format!("it {what}, and no {} did; undo that unless it was asked for", self.manifest);
                found.push(Found { path: Some(lock.path.clone()), line: None, rule: Rule::LockFile, message });
            }
        }
        found
    }

    /// Whether a manifest says another thing of dependencies than before. One that is new, gone or cannot be read is not judged.
    fn differs(&self, manifest: &ChangedFile) -> bool {
        let both = manifest.was == Presence::There && manifest.is == Presence::There && !manifest.unread;
        let read = |bytes: &[u8]| (self.dependencies)(bytes);
        both && matches!((read(&manifest.before), read(&manifest.after)), (Some(before), Some(after)) if before != after)
    }

    /// The lock that a manifest goes by: in its directory, or the nearest above.
    fn lock_of(&self, manifest: &str, changes: &Changeset) -> Option<String> {
        let directories = Path::new(manifest).ancestors().skip(1);
        let mut paths =
            directories.flat_map(|dir| self.locks.iter().map(move |lock| dir.join(lock).to_string_lossy().into_owned()));
        paths.find(|path| changes.beside.contains(path))
    }
}

fn name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// The values at these pointers.
fn pick(document: &Value, pointers: &[&str]) -> Value {
    pointers.iter().map(|pointer| document.pointer(pointer).cloned().unwrap_or(Value::Null)).collect()
}

fn of_toml(bytes: &[u8]) -> Option<Value> {
    serde_json::to_value(toml::from_str::<toml::Table>(std::str::from_utf8(bytes).ok()?).ok()?).ok()
}

fn of_cargo(bytes: &[u8]) -> Option<Value> {
    let pointers = [
        "/package/name",
        "/package/version",
        "/dependencies",
        "/dev-dependencies",
        "/build-dependencies",
        "/target",
        "/patch",
        "/workspace/dependencies",
        "/workspace/members",
    ];
    Some(pick(&of_toml(bytes)?, &pointers))
}

fn of_npm(bytes: &[u8]) -> Option<Value> {
    let pointers = [
        "/dependencies",
        "/devDependencies",
        "/optionalDependencies",
        "/peerDependencies",
        "/overrides",
        "/resolutions",
        "/workspaces",
    ];
    Some(pick(&serde_json::from_slice(bytes).ok()?, &pointers))
}

fn of_python(bytes: &[u8]) -> Option<Value> {
    let pointers = [
        "/project/dependencies",
        "/project/optional-dependencies",
        "/project/requires-python",
        "/dependency-groups",
        "/tool/poetry/dependencies",
        "/tool/poetry/dev-dependencies",
        "/tool/poetry/group",
        "/tool/uv/sources",
    ];
    Some(pick(&of_toml(bytes)?, &pointers))
}

/// What is required, whatever the order, spaces and comments.
fn of_go(bytes: &[u8]) -> Option<Value> {
    let text = std::str::from_utf8(bytes).ok()?;
    let lines = text.lines().map(|line| line.split("//").next().unwrap_or_default().trim());
    let named = lines.filter(|line| line.split_whitespace().any(|word| word.starts_with('v') && word.contains('.')));
    let mut versions: Vec<String> =
        named.map(|line| line.trim_start_matches("require").split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    versions.sort();
    serde_json::to_value(versions).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(path: &str, before: &str, after: &str) -> ChangedFile {
        ChangedFile {
            path: path.to_owned(),
            was: Presence::There,
            is: Presence::There,
            before: before.into(),
            after: after.into(),
            ..ChangedFile::default()
        }
    }

    #[test]
    fn a_lock_goes_with_the_dependencies_of_its_manifests() {
        let check = |files: Vec<ChangedFile>, beside: &[&str], expected: &[&str]| {
            let changes = Changeset { files, beside: beside.iter().map(|path| (*path).to_owned()).collect() };
            let found: Vec<String> = super::check(&changes).into_iter().filter_map(|one| one.path).collect();
            assert_eq!(found, expected);
        };
        let cargo = || changed("a/Cargo.toml", "[dependencies]\nx = \"1\"\n", "[dependencies]\nx = \"2\"\n");
        check(vec![cargo()], &["Cargo.lock"], &["Cargo.lock"]);
        check(vec![cargo(), changed("Cargo.lock", "", "x")], &["Cargo.lock"], &[]);
        check(vec![cargo()], &[], &[]);
        check(vec![changed("Cargo.toml", "[lints]\n", "[lints]\n#\n")], &["Cargo.lock"], &[]);
        check(vec![changed("Cargo.lock", "", "x")], &["Cargo.lock"], &["Cargo.lock"]);
        let npm = changed("package.json", r#"{"dependencies": {}}"#, r#"{"dependencies": {"x": "1"}}"#);
        check(vec![npm], &["yarn.lock"], &["yarn.lock"]);
        let python = changed("pyproject.toml", "[project]\ndependencies = []\n", "[project]\ndependencies = [\"x\"]\n");
        check(vec![python], &["uv.lock"], &["uv.lock"]);
        let go = changed("go.mod", "require a.b/c v1.0.0 // indirect\n", "require (\n\ta.b/c v1.0.0\n)\n");
        check(vec![go], &["go.sum"], &[]);
        check(vec![changed("go.mod", "require a.b/c v1.0.0\n", "require a.b/c v1.1.0\n")], &["go.sum"], &["go.sum"]);
    }
}
