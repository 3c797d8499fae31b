//! Paths that no ignore rule can concern, told without git.
//!
//! The one rule: a path is passed only where it is certain. A rule ignores a path when its last part fits a name on the way to
//! that path; where none fits any, git need not be asked. What a whole rule means is git's affair. Format: gitignore(5).

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

/// The largest file of rules that is looked at.
const RULES_MAX: u64 = 256 * 1024;

/// The rules of a tree, read as they are needed.
pub(super) struct Rules {
    tree: PathBuf,
    /// The last parts of the rules in each directory; nothing where they cannot be told.
    known: BTreeMap<Vec<u8>, Option<Vec<Vec<u8>>>>,
}

impl Rules {
    pub(super) fn of(tree: &Path) -> Self {
        Self { tree: tree.to_owned(), known: BTreeMap::new() }
    }

    /// Whether no rule can concern the path.
    pub(super) fn pass(&mut self, path: &[u8]) -> bool {
        let names: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
        let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        let directories = std::iter::once(0).chain(slashes).map(|end| &path[..end]);
        directories.into_iter().all(|directory| {
            let tree = &self.tree;
            let parts = self.known.entry(directory.to_vec()).or_insert_with(|| read(&tree.join(OsStr::from_bytes(directory))));
            parts.as_ref().is_some_and(|parts| !parts.iter().any(|part| names.iter().any(|name| may_fit(part, name))))
        })
    }
}

/// The last parts of the rules of a directory.
fn read(directory: &Path) -> Option<Vec<Vec<u8>>> {
    let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
    let file = match File::options().read(true).custom_flags(flags).open(directory.join(".gitignore")) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Some(Vec::new()),
        file => file.ok()?,
    };
    let meta = file.metadata().ok()?;
    if !meta.is_file() || meta.len() > RULES_MAX {
        return None;
    }
    let mut text = Vec::new();
    file.take(RULES_MAX).read_to_end(&mut text).ok()?;
    Some(last_parts(&text))
}

fn last_parts(text: &[u8]) -> Vec<Vec<u8>> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let rules = text.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    // What begins with an exclamation mark takes back what another rule ignores.
    let rules = rules.filter(|rule| !rule.is_empty() && !rule.starts_with(b"#") && !rule.starts_with(b"!"));
    rules.map(last_part).collect()
}

fn last_part(rule: &[u8]) -> Vec<u8> {
    let trimmed = rule.iter().rposition(|byte| *byte != b' ').map_or(&rule[..0], |last| &rule[..=last]);
    let trimmed = trimmed.strip_suffix(b"/").unwrap_or(trimmed);
    trimmed.rsplit(|byte| *byte == b'/').next().unwrap_or_default().to_vec()
}

/// Whether a pattern may fit a name. Only stars are understood; everything else that is special may fit anything.
fn may_fit(pattern: &[u8], name: &[u8]) -> bool {
    if pattern.is_empty() || pattern.iter().any(|byte| b"?[\\".contains(byte)) {
        return true;
    }
    let mut parts = pattern.split(|byte| *byte == b'*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let mut parts: Vec<&[u8]> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts.into_iter().filter(|part| !part.is_empty()) {
        match rest.windows(part.len()).position(|window| window == part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_fits_what_git_says_that_it_fits_and_what_is_not_known() {
        let check = |pattern: &str, name: &str, expected: bool| {
            assert_eq!(may_fit(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        };
        check("target", "target", true);
        check("target", "targets", false);
        check("*.tmp", "a.tmp", true);
        check("*.tmp", ".tmp", true);
        check("*.tmp", "a.tmpx", false);
        check("a*b*c", "axbxc", true);
        check("a*b*c", "ac", false);
        check("ab*ba", "aba", false);
        check("**", "anything", true);
        check("fo?", "other", true);
        check("[ab]", "other", true);
        check("a\\*", "other", true);
        check("", "other", true);
    }

    #[test]
    fn rules_are_told_by_their_last_parts_and_exceptions_do_not_count() {
        let parts = last_parts(b"\xef\xbb\xbf/target/\n# no\n!keep\n\n*.tmp  \r\ndocs/**/x\n/\na/**\n");
        let parts: Vec<_> = parts.iter().map(|part| String::from_utf8_lossy(part).into_owned()).collect();
        assert_eq!(parts, ["target", "*.tmp", "x", "", "**"]);
    }

    #[test]
    fn a_path_passes_only_where_no_name_on_its_way_fits() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join("inner")).expect("made");
        std::fs::write(dir.path().join(".gitignore"), "/target/\n").expect("written");
        std::fs::write(dir.path().join("inner/.gitignore"), "*.o\n").expect("written");
        let check = |path: &str, expected: bool| assert_eq!(Rules::of(dir.path()).pass(path.as_bytes()), expected, "{path}");
        check("new.txt", true);
        check("target/new.txt", false);
        check("deep/target", false);
        check("a.o", true);
        check("inner/a.o", false);
        check("inner/a.c", true);
        std::fs::remove_file(dir.path().join(".gitignore")).expect("removed");
        std::os::unix::fs::symlink("inner/.gitignore", dir.path().join(".gitignore")).expect("a link");
        check("new.txt", false);
    }
}
