//! What manifests say of dependencies, for those who compare it with a lock.
//!
//! The one rule: what is not understood is left out, so that it makes no finding.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

/// What was read of a manifest.
#[derive(Debug, PartialEq)]
pub(super) struct Read {
    /// What its lock has to be made anew for, whatever of it is another.
    dependencies: Value,
    /// The same, by names, where not every change of it makes another lock.
    wishes: Wishes,
    /// What else is in its lock, or has a say in it.
    also: Value,
    /// The names that its lock is to have, in the form that [`has`] compares.
    pub(super) names: BTreeSet<String>,
}

/// The wishes of a manifest by the names that it has for them.
#[derive(Debug, Default, PartialEq)]
struct Wishes {
    /// What the package itself depends on. One that differs from table to table, or is written elsewhere, has the name alone.
    own: BTreeMap<String, Option<Wish>>,
    /// What others may depend on by its name alone: it is in the lock only where one does.
    offered: BTreeMap<String, Option<Wish>>,
}

/// What of a wish is in a lock.
#[derive(Debug, Clone, PartialEq)]
struct Wish {
    source: Value,
    /// The versions that are compatible with the one that it names, where that is all it says of them.
    line: Option<String>,
}

impl Read {
    /// Whether the lock of what was `before` cannot be that of this.
    pub(super) fn needs_another_lock(&self, before: &Self) -> bool {
        let differs = |now: &BTreeMap<String, Option<Wish>>, before: &BTreeMap<String, Option<Wish>>| {
            now.iter().any(|(name, wish)| match (wish, before.get(name)) {
                (Some(wish), Some(Some(before))) => wish.differs(before),
                _ => false,
            })
        };
        self.dependencies != before.dependencies
            || !self.wishes.own.keys().eq(before.wishes.own.keys())
            || differs(&self.wishes.own, &before.wishes.own)
            || differs(&self.wishes.offered, &before.wishes.offered)
    }
}

impl Wish {
    /// One of a `Cargo.toml`; nothing where the workspace says what it is.
    fn of_cargo(wish: &Value) -> Option<Self> {
        if wish.get("workspace").is_some() {
            return None;
        }
        let source = ["package", "git", "branch", "tag", "rev", "registry"].iter().map(|key| wish.get(key).cloned());
        // A lock says that a package is in a directory, and not in which.
        let source = source.chain([wish.get("path").map(|_| Value::Bool(true))]).map(Option::unwrap_or_default).collect();
        let version = wish.as_str().or_else(|| wish.get("version")?.as_str());
        Some(Self { source, line: version.and_then(compatible) })
    }

    /// Whether no lock is that of both. Of versions that is so where none is compatible with both.
    fn differs(&self, other: &Self) -> bool {
        let versions = self.line.as_ref().zip(other.line.as_ref());
        self.source != other.source || versions.is_some_and(|(line, other)| line != other)
    }
}

/// The versions that are compatible with one, by the parts that they all begin with; nothing where a requirement says another thing.
fn compatible(requirement: &str) -> Option<String> {
    let requirement = requirement.trim();
    let parts: Vec<&str> = requirement.strip_prefix('^').unwrap_or(requirement).split('.').collect();
    let numbers: Vec<u64> = parts.iter().map(|part| part.parse().ok()).collect::<Option<_>>()?;
    let first = numbers.iter().position(|number| *number > 0)?;
    Some(numbers[..=first].iter().map(u64::to_string).collect::<Vec<_>>().join("."))
}

/// Wishes by their names.
fn by_name<'a>(wishes: impl Iterator<Item = (&'a String, &'a Value)>) -> BTreeMap<String, Option<Wish>> {
    let mut by_name = BTreeMap::new();
    for (name, wish) in wishes {
        let wish = Wish::of_cargo(wish);
        let known = by_name.entry(name.clone()).or_insert_with(|| wish.clone());
        if *known != wish {
            *known = None;
        }
    }
    by_name
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
    let pointers =
        ["/package/name", "/package/version", "/patch", "/replace", "/workspace/members", "/workspace/package/version"];
    let also = [
        "/dependencies",
        "/dev-dependencies",
        "/build-dependencies",
        "/target",
        "/package/rust-version",
        "/package/edition",
        "/package/resolver",
        "/workspace",
        "/features",
    ];
    let kinds = ["/dependencies", "/dev-dependencies", "/build-dependencies"];
    let named = |(key, wish): (&String, &Value)| {
        // What the workspace says of it, its name too, is in another file. One for another platform alone is in a lock all the same.
        let elsewhere = wish.get("workspace").is_some();
        (!elsewhere).then(|| plain(wish.get("package").and_then(Value::as_str).unwrap_or(key)))
    };
    let platforms = || document.get("target").and_then(Value::as_object).into_iter().flat_map(Map::values);
    let all = || tables(&document, &kinds).chain(platforms().flat_map(|platform| tables(platform, &kinds)));
    Some(Read {
        names: all().filter_map(named).collect(),
        dependencies: pick(&document, &pointers),
        wishes: Wishes { own: by_name(all()), offered: by_name(tables(&document, &["/workspace/dependencies"])) },
        also: pick(&document, &also),
    })
}

/// How a wish of a `package.json` begins that is for a directory.
const LOCAL: [&str; 3] = ["workspace:", "link:", "file:"];

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
        "/funding",
    ];
    // Not what they do, but that there is something to do when it is installed.
    let installs = ["preinstall", "install", "postinstall"].iter().any(|script| document["scripts"].get(script).is_some());
    // What is in a directory is in some locks by that alone.
    let is_local = |wish: &Value| wish.as_str().is_some_and(|wish| LOCAL.iter().any(|kind| wish.starts_with(kind)));
    let names = tables(&document, &pointers[..3]).filter(|(_, wish)| !is_local(wish)).map(|(name, _)| plain(name)).collect();
    let also = Value::Array(vec![pick(&document, &also), installs.into()]);
    Some(Read { names, dependencies: pick(&document, &pointers), wishes: Wishes::default(), also })
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
    Some(Read { names, dependencies: pick(&document, &pointers), wishes: Wishes::default(), also: pick(&document, &also) })
}

/// A `go.mod`: what is required, whatever the order, spaces and comments.
pub(super) fn go(bytes: &[u8]) -> Option<Read> {
    let text = std::str::from_utf8(bytes).ok()?;
    let lines: Vec<Vec<&str>> = text
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default().trim().trim_start_matches("require").split_whitespace().collect())
        .collect();
    let is_version = |word: &&str| word.starts_with('v') && word.contains('.');
    let wanted = outside_of(&["exclude", "retract"], &lines);
    let mut versions: Vec<String> =
        wanted.iter().filter(|words| words.iter().any(is_version)).map(|words| words.join(" ")).collect();
    versions.sort();
    // A module that is replaced is not in the lock under its own name, and from a directory not at all.
    let replaced: BTreeSet<&str> = lines
        .iter()
        .filter(|words| words.contains(&"=>"))
        .filter_map(|words| words.iter().find(|word| **word != "replace").copied())
        .collect();
    let required = wanted.iter().filter_map(|words| match words {
        [module, version] if is_version(version) && !replaced.contains(module) => Some(plain(module)),
        _ => None,
    });
    let names = required.filter(|name| name.contains('/') || name.contains('.')).collect();
    let also = lines.iter().map(|words| words.join(" ")).filter(|line| !line.is_empty()).collect();
    Some(Read { names, dependencies: serde_json::to_value(versions).ok()?, wishes: Wishes::default(), also })
}

/// The lines of a `go.mod` that are of no such directive, in a block or alone.
fn outside_of<'a, 'b>(directives: &[&str], lines: &'a [Vec<&'b str>]) -> Vec<&'a [&'b str]> {
    let mut within = false;
    let mut outside = Vec::new();
    for words in lines {
        match words.as_slice() {
            [directive, "(", ..] => within = directives.contains(directive),
            [")", ..] => within = false,
            [directive, ..] if within || directives.contains(directive) => {}
            words => outside.push(words),
        }
    }
    outside
}
