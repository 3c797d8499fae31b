//! Lock files that do not go with their manifests.
//!
//! The one rule: only what a manifest says of dependencies counts. A change of anything else in it needs no new lock, and only what a lock
//! is made from explains a new one. What manifests say is read in [`super::manifests`].

use std::path::Path;

use super::Found;
use super::manifests::{self, Read};
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
    /// What a manifest says; nothing where it cannot be read.
    read: fn(&[u8]) -> Option<Read>,
}

const ECOSYSTEMS: [Ecosystem; 4] = [
    Ecosystem { manifest: "Cargo.toml", locks: &["Cargo.lock"], command: "cargo update --workspace", read: manifests::cargo },
    Ecosystem {
        manifest: "package.json",
        locks: &["package-lock.json", "pnpm-lock.yaml", "yarn.lock"],
        command: "the package manager's install",
        read: manifests::npm,
    },
    Ecosystem {
        manifest: "pyproject.toml",
        locks: &["poetry.lock", "uv.lock"],
        command: "poetry lock or uv lock",
        read: manifests::python,
    },
    Ecosystem { manifest: "go.mod", locks: &["go.sum"], command: "go mod tidy", read: manifests::go },
];

/// Manifests whose dependencies changed without their lock, and locks that changed without any manifest.
pub(super) fn check(changes: &Changeset) -> Vec<Found> {
    ECOSYSTEMS.iter().flat_map(|ecosystem| ecosystem.check(changes)).collect()
}

impl Ecosystem {
    fn check(&self, changes: &Changeset) -> Vec<Found> {
        let manifests: Vec<&ChangedFile> = changes.files.iter().filter(|file| name(&file.path) == self.manifest).collect();
        let locks: Vec<&ChangedFile> = changes.files.iter().filter(|file| self.locks.contains(&name(&file.path))).collect();
        let stale = manifests.iter().filter_map(|manifest| self.stale(manifest, &locks, changes));
        let odd = locks.iter().filter_map(|lock| {
            let why = match lock.is {
                Presence::Absent => self.removed(lock, &manifests, changes),
                Presence::There => self.unexplained(lock, &manifests),
            };
            why.map(|message| found(lock.path.clone(), message))
        });
        stale.chain(odd).collect()
    }

    /// Whether the lock of a manifest whose dependencies changed did not change, or does not have what is new. A manifest that is new, gone or
    /// cannot be read is not judged, nor is one whose lock is gone, which is a finding of its own.
    fn stale(&self, manifest: &ChangedFile, locks: &[&ChangedFile], changes: &Changeset) -> Option<Found> {
        let (before, after) = self.both(manifest)?;
        let at = self.lock_of(&manifest.path, changes).filter(|_| after.needs_another_lock(&before))?;
        let Some(lock) = locks.iter().find(|lock| lock.path == at) else {
            let (path, command) = (&manifest.path, self.command);
            return Some(found(
                at,
                format!("the dependencies in {path} changed, and this did not; run {command} and commit both"),
            ));
        };
        let new = after.names.difference(&before.names);
        let missing: Vec<&str> =
            new.map(String::as_str).filter(|name| !lock.unread && !manifests::has(&lock.after, name)).collect();
        let (names, path, command) = (missing.join(", "), &manifest.path, self.command);
        (!missing.is_empty())
            .then(|| found(at, format!("it does not have {names}, which {path} now depends on; run {command} and commit both")))
    }

    /// Why a lock may not be gone: neither its manifest is, nor is there another lock in its place.
    fn removed(&self, lock: &ChangedFile, manifests: &[&ChangedFile], changes: &Changeset) -> Option<String> {
        let dir = directory(&lock.path);
        let goes_too = manifests.iter().any(|manifest| manifest.is == Presence::Absent && directory(&manifest.path) == dir);
        // One above does for it too: a package that joins a workspace has no lock of its own.
        let replaced = self.lock_of(&lock.path, changes).is_some();
        let (manifest, command) = (self.manifest, self.command);
        (!goes_too && !replaced)
            .then(|| format!("it was removed, and {manifest} was not; put it back, or run {command} and commit it"))
    }

    /// Why a lock may not have changed: no manifest of its own says another thing of what it is made from.
    fn unexplained(&self, lock: &ChangedFile, manifests: &[&ChangedFile]) -> Option<String> {
        let below = directory(&lock.path);
        let explains = |manifest: &&ChangedFile| match self.both(manifest) {
            Some((before, after)) => before != after,
            // New, gone, or not to be read: it may say anything.
            None => true,
        };
        let moved = lock.renamed_from.is_some() && lock.before == lock.after;
        let explained = manifests.iter().filter(|manifest| Path::new(&manifest.path).starts_with(below)).any(explains);
        (!moved && !explained).then(|| {
            format!("it changed, and what it is made from in {} did not; undo that unless it was asked for", self.manifest)
        })
    }

    /// What a manifest said and says, where it can be read on both sides.
    fn both(&self, manifest: &ChangedFile) -> Option<(Read, Read)> {
        let both = manifest.was == Presence::There && manifest.is == Presence::There && !manifest.unread;
        if both { Some(((self.read)(&manifest.before)?, (self.read)(&manifest.after)?)) } else { None }
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

fn directory(path: &str) -> &Path {
    Path::new(path).parent().unwrap_or(Path::new(""))
}

fn found(path: String, message: String) -> Found {
    Found { path: Some(path), line: None, rule: Rule::LockFile, message }
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
        let version = changed("Cargo.toml", "[package]\nversion = \"1.0.0\"\n", "[package]\nversion = \"1.0.1\"\n");
        check(vec![version, changed("Cargo.lock", "", "y")], &["Cargo.lock"], &[]);
        let lints = || changed("Cargo.toml", "", "[lints.rust]\nunsafe_code = \"forbid\"\n");
        check(vec![lints(), changed("Cargo.lock", "x", "y")], &["Cargo.lock"], &["Cargo.lock"]);
        let npm = changed("package.json", r#"{"dependencies": {}}"#, r#"{"dependencies": {"x": "1"}}"#);
        check(vec![npm], &["yarn.lock"], &["yarn.lock"]);
        let python = changed("pyproject.toml", "[project]\ndependencies = []\n", "[project]\ndependencies = [\"x\"]\n");
        check(vec![python], &["uv.lock"], &["uv.lock"]);
        let go = changed("go.mod", "require a.b/c v1.0.0 // indirect\n", "require (\n\ta.b/c v1.0.0\n)\n");
        check(vec![go], &["go.sum"], &[]);
        check(vec![changed("go.mod", "require a.b/c v1.0.0\n", "require a.b/c v1.1.0\n")], &["go.sum"], &["go.sum"]);
    }

    #[test]
    fn a_lock_that_is_gone_is_missed_unless_its_manifest_went_or_another_is_there() {
        let check = |files: Vec<ChangedFile>, beside: &[&str], expected: &[&str]| {
            let changes = Changeset { files, beside: beside.iter().map(|path| (*path).to_owned()).collect() };
            let found: Vec<String> = super::check(&changes).iter().map(|one| one.message.clone()).collect();
            assert_eq!(found.len(), expected.len(), "{found:?}");
            assert!(found.iter().zip(expected).all(|(found, begin)| found.starts_with(begin)), "{found:?}");
        };
        let gone = |path: &str| ChangedFile { is: Presence::Absent, ..changed(path, "x", "") };
        let cargo = || changed("Cargo.toml", "[dependencies]\nx = \"1\"\n", "[dependencies]\nx = \"2\"\n");
        check(vec![cargo(), gone("Cargo.lock")], &[], &["it was removed, and Cargo.toml was not"]);
        check(vec![gone("Cargo.lock")], &[], &["it was removed"]);
        check(vec![gone("a/Cargo.lock"), gone("a/Cargo.toml")], &[], &[]);
        let npm = || changed("package.json", r#"{"dependencies": {}}"#, r#"{"dependencies": {"x": "1"}}"#);
        check(vec![npm(), gone("yarn.lock"), changed("pnpm-lock.yaml", "", "  x:\n")], &["pnpm-lock.yaml"], &[]);
        let moved = ChangedFile { renamed_from: Some("a/Cargo.lock".to_owned()), ..changed("b/Cargo.lock", "x", "x") };
        check(vec![moved], &["b/Cargo.lock"], &[]);
        check(vec![gone("a/Cargo.lock")], &["Cargo.lock"], &[]);
        check(vec![gone("a/Cargo.lock")], &["b/Cargo.lock"], &["it was removed"]);
    }

    #[test]
    fn what_a_lock_has_nothing_of_needs_no_other_lock() {
        let stale = |manifest: &str, before: &str, after: &str, lock: &str| -> bool {
            let changes = Changeset { files: vec![changed(manifest, before, after)], beside: [lock.to_owned()].into() };
            !super::check(&changes).is_empty()
        };
        let check = |before: &str, after: &str, expected: bool| {
            assert_eq!(stale("Cargo.toml", before, after, "Cargo.lock"), expected, "{before} -> {after}");
        };
        let wish = |before: &str, after: &str, expected: bool| {
            let all = |wish: &str| format!("[dependencies]\nx = {wish}\n");
            check(&all(before), &all(after), expected);
            let all = |wish: &str| format!("[workspace.dependencies]\nx = {wish}\n");
            check(&all(before), &all(after), expected);
        };
        wish("\"1\"", "{ version = \"1.0\", features = [\"a\"], default-features = false }", false);
        wish("\"1.2\"", "\"^1.4.1\"", false);
        wish("\"0.4\"", "\">=0.3, <0.6\"", false);
        wish("\"1\"", "\"2\"", true);
        wish("\"0.4.1\"", "\"0.5\"", true);
        wish("\"1\"", "{ version = \"1\", package = \"y\" }", true);
        wish("\"1\"", "{ git = \"https://a.b/x\" }", true);
        wish("\"1\"", "{ path = \"../x\", version = \"1\" }", true);
        wish("{ path = \"../x\" }", "{ path = \"../all/x\" }", false);
        check("[dependencies]\nx = \"1\"\n", "[dev-dependencies]\nx = \"1\"\n", false);
        check("[dependencies]\nx = \"1\"\n", "[target.'cfg(unix)'.dependencies]\nx = \"1\"\n", false);
        check("[dependencies]\nx = \"1\"\n", "[dependencies]\n", true);
        check("[dependencies]\n", "[build-dependencies]\nx = \"1\"\n", true);
        check("[dependencies]\nx = \"1\"\n", "[dependencies]\nx.workspace = true\n", false);
        check("[workspace]\n", "[workspace.dependencies]\nx = \"1\"\n", false);
        let module = |more: &str| format!("module m\nrequire a.b/c v1.0.0\n{more}\n");
        let go = |more: &str| stale("go.mod", &module(""), &module(more), "go.sum");
        assert!(!go("exclude (\n\tl.o/cal v1.0.0\n)") && !go("exclude l.o/cal v1.0.0") && !go("retract v1.0.1"));
        assert!(go("exclude (\n\tl.o/cal v1.0.0\n)\nrequire (\n\tl.o/cal v1.1.0\n)"));
    }

    #[test]
    fn the_lock_of_npm_repeats_some_of_its_manifest() {
        let odd = |before: &str, after: &str| -> bool {
            let files = vec![changed("package.json", before, after), changed("package-lock.json", "x", "y")];
            !super::check(&Changeset { files, beside: ["package-lock.json".to_owned()].into() }).is_empty()
        };
        assert!(!odd("{}", r#"{"funding": "https://a.b"}"#));
        assert!(!odd("{}", r#"{"scripts": {"postinstall": "x"}}"#));
        assert!(odd("{}", r#"{"scripts": {"test": "x"}}"#));
        assert!(odd(r#"{"scripts": {"install": "x"}}"#, r#"{"scripts": {"install": "y"}}"#));
    }

    #[test]
    fn a_lock_has_what_is_new_in_its_manifest() {
        let check = |manifest: ChangedFile, lock: (&str, &str), expected: &str| {
            let (beside, lock) = ([lock.0.to_owned()].into(), changed(lock.0, "before", lock.1));
            let found = super::check(&Changeset { files: vec![manifest, lock], beside });
            let found: Vec<&str> = found.iter().map(|one| one.message.as_str()).collect();
            assert_eq!(found.concat().split(',').next(), Some(expected), "{found:?}");
        };
        let cargo = |after: &str| changed("Cargo.toml", "[dependencies]\n", &format!("[dependencies]\n{after}\n"));
        check(cargo("left-pad = \"1\""), ("Cargo.lock", "name = \"left_pad\""), "");
        check(cargo("left-pad = \"1\""), ("Cargo.lock", "name = \"left-padding\""), "it does not have left-pad");
        check(cargo("a = { package = \"b\", version = \"1\" }"), ("Cargo.lock", "name = \"b\""), "");
        check(cargo("a = { workspace = true }"), ("Cargo.lock", "name = \"whatever\""), "");
        let npm = changed("package.json", "{}", r#"{"devDependencies": {"@a/b": "1"}}"#);
        check(npm, ("package-lock.json", "\"node_modules/@a/b\": {"), "");
        let npm = changed("package.json", "{}", r#"{"dependencies": {"@a/b": "1"}}"#);
        check(npm, ("yarn.lock", "\"@a/c@1\":"), "it does not have @a/b");
        let npm = changed("package.json", "{}", r#"{"dependencies": {"a": "workspace:*", "b": "link:../b", "c": "file:../c"}}"#);
        check(npm, ("pnpm-lock.yaml", "importers:"), "");
        let uv = || changed("pyproject.toml", "[project]\n", "[project]\ndependencies = [\"Left_Pad[x]>=1; os_name=='a'\"]\n");
        check(uv(), ("uv.lock", "name = \"left-pad\""), "");
        check(uv(), ("uv.lock", "name = \"right-pad\""), "it does not have left-pad");
        check(uv(), ("poetry.lock", "name = \"left.pad\""), "");
        let poetry = changed("pyproject.toml", "", "[tool.poetry.dependencies]\npython = \"^3\"\nx = \"1\"\n");
        check(poetry, ("poetry.lock", "name = \"y\""), "it does not have x");
        let go = || {
            changed("go.mod", "module m\n", "module m\nrequire (\n\ta.b/c v1.0.0\n\tl.o/cal v0.0.0\n)\nreplace l.o/cal => ../x\n")
        };
        check(go(), ("go.sum", "a.b/c v1.0.0/go.mod h1:x="), "");
        let excluded = changed("go.mod", "", "require a.b/c v1.0.0\nexclude (\n\tl.o/cal v1.0.0\n)\n");
        check(excluded, ("go.sum", "a.b/c v1.0.0/go.mod h1:x="), "");
        check(go(), ("go.sum", "a.b/d v1.0.0/go.mod h1:x="), "it does not have a.b/c");
    }
}
