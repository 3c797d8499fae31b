//! What manifests say of dependencies, for those who compare it with a lock.
//!
//! The one rule: what is not understood is left out, so that it makes no finding.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

/// What was read of a manifest.
#[derive(Debug, PartialEq)]
pub(super) struct Read {
    /// What its lock has to be made anew for.
    pub(super) dependencies: Value,
    /// What else is in its lock, or has a say in it.
    also: Value,
    /// The names that its lock is to have, in the form that [`has`] compares.
    pub(super) names: BTreeSet<String>,
}

/// Whether a lock has a name, in whatever form it has them.
pub(super) fn has(lock: &[u8], name: &str) -> bool {
    let mut lock = String::from_utf8_lossy(lock).to_lowercase().replace('_', "-");
    // In the names of Python a point is as good as a hyphen; elsewhere a name that has one is written with it.
    if !name.contains('.') {
        lock = lock.replace('.', "-");
    }
    let is_part = |c: char| c.is_alphanumeric() || "-./@".contains(c);
    lock.match_indices(name).any(|(at, _)| {
        // A path, a quote or a space is before it, and a version may follow.
        let before = lock[..at].chars().next_back();
        let after = lock[at + name.len()..].chars().next();
        before.is_none_or(|c| c == '/' || !is_part(c)) && after.is_none_or(|c| c == '@' || !is_part(c))
    })
}

fn plain(name: &str) -> String {
    name.to_lowercase().replace('_', "-")
}

/// The values at these pointers.
fn pick(document: &Value, pointers: &[&str]) -> Value {
    pointers.iter().map(|pointer| document.pointer(pointer).cloned().unwrap_or(Value::Null)).collect()
}

fn tables<'a>(document: &'a Value, pointers: &'a [&str]) -> impl Iterator<Item = (&'a String, &'a Value)> {
    pointers.iter().filter_map(|pointer| document.pointer(pointer)?.as_object()).flatten()
}

fn of_toml(bytes: &[u8]) -> Option<Value> {
    serde_json::to_value(toml::from_str::<toml::Table>(std::str::from_utf8(bytes).ok()?).ok()?).ok()
}

/// A `Cargo.toml`.
pub(super) fn cargo(bytes: &[u8]) -> Option<Read> {
    let document = of_toml(bytes)?;
    let pointers = [
        "/package/name",
        "/package/version",
        "/dependencies",
        "/dev-dependencies",
        "/build-dependencies",
        "/target",
        "/patch",
        "/replace",
        "/workspace/dependencies",
        "/workspace/members",
        "/workspace/package/version",
    ];
    let also = ["/package/rust-version", "/package/edition", "/package/resolver", "/workspace", "/features"];
    let kinds = ["/dependencies", "/dev-dependencies", "/build-dependencies"];
    let named = |(key, wish): (&String, &Value)| {
        // What the workspace says of it, its name too, is in another file. One for another platform alone is in a lock all the same.
        let elsewhere = wish.get("workspace").is_some();
        (!elsewhere).then(|| plain(wish.get("package").and_then(Value::as_str).unwrap_or(key)))
    };
    let platforms = document.get("target").and_then(Value::as_object).into_iter().flat_map(Map::values);
    let names = tables(&document, &kinds).chain(platforms.flat_map(|platform| tables(platform, &kinds))).filter_map(named);
    Some(Read { names: names.collect(), dependencies: pick(&document, &pointers), also: pick(&document, &also) })
}

/// A `package.json`.
pub(super) fn npm(bytes: &[u8]) -> Option<Read> {
    let document: Value = serde_json::from_slice(bytes).ok()?;
    let pointers = [
        "/dependencies",
        "/devDependencies",
        "/optionalDependencies",
        "/peerDependencies",
        "/overrides",
        "/resolutions",
        "/workspaces",
    ];
    // The lock of npm repeats some of what has nothing to do with dependencies.
    let also = [
        "/name",
        "/version",
        "/license",
        "/bin",
        "/engines",
        "/os",
        "/cpu",
        "/peerDependenciesMeta",
        "/bundleDependencies",
        "/packageManager",
        "/pnpm",
    ];
    let names = tables(&document, &pointers[..3]).map(|(name, _)| plain(name)).collect();
    Some(Read { names, dependencies: pick(&document, &pointers), also: pick(&document, &also) })
}

/// A `pyproject.toml`.
pub(super) fn python(bytes: &[u8]) -> Option<Read> {
    let document = of_toml(bytes)?;
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
    let also = ["/project/name", "/project/version", "/project/dynamic", "/tool/uv", "/tool/poetry"];
    let at = |pointer: &str| document.pointer(pointer);
    let lists = at("/project/dependencies").into_iter();
    let lists = lists.chain(
        ["/project/optional-dependencies", "/dependency-groups"]
            .iter()
            .filter_map(|list| at(list)?.as_object())
            .flat_map(Map::values),
    );
    let required = lists.filter_map(Value::as_array).flatten().filter_map(|wish| wish.as_str()).map(|wish| {
        let end = wish.find(|c: char| !(c.is_alphanumeric() || "-_.".contains(c))).unwrap_or(wish.len());
        plain(&wish[..end]).replace('.', "-")
    });
    let groups = at("/tool/poetry/group").and_then(Value::as_object).into_iter().flat_map(Map::values);
    let poetry = tables(&document, &["/tool/poetry/dependencies", "/tool/poetry/dev-dependencies"])
        .chain(groups.flat_map(|group| tables(group, &["/dependencies"])))
        .map(|(name, _)| plain(name).replace('.', "-"));
    let names = required.chain(poetry.filter(|name| name != "python")).filter(|name| !name.is_empty()).collect();
    Some(Read { names, dependencies: pick(&document, &pointers), also: pick(&document, &also) })
}

/// A `go.mod`: what is required, whatever the order, spaces and comments.
pub(super) fn go(bytes: &[u8]) -> Option<Read> {
    let text = std::str::from_utf8(bytes).ok()?;
    let lines: Vec<Vec<&str>> = text
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default().trim().trim_start_matches("require").split_whitespace().collect())
        .collect();
    let is_version = |word: &&str| word.starts_with('v') && word.contains('.');
    let mut versions: Vec<String> =
        lines.iter().filter(|words| words.iter().any(is_version)).map(|words| words.join(" ")).collect();
    versions.sort();
    // A module that is replaced is not in the lock under its own name, and from a directory not at all.
    let replaced: BTreeSet<&str> = lines
        .iter()
        .filter(|words| words.contains(&"=>"))
        .filter_map(|words| words.iter().find(|word| **word != "replace").copied())
        .collect();
    let required = lines.iter().filter_map(|words| match words.as_slice() {
        [module, version] if is_version(version) && !replaced.contains(module) => Some(plain(module)),
        _ => None,
    });
    let names = required.filter(|name| name.contains('/') || name.contains('.')).collect();
    let also = lines.iter().map(|words| words.join(" ")).filter(|line| !line.is_empty()).collect();
    Some(Read { names, dependencies: serde_json::to_value(versions).ok()?, also })
}
