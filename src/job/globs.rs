//! Patterns of paths: `*` and `?` within a part, `**` over parts, `[a-z]` and `{a,b}`, as in `.gitignore` and most shells.
//!
//! The one rule: a pattern is about the whole path from the root of the repository. `docs/**` is everything below `docs`; `**/x` is any
//! `x`, wherever it is.

use regex::Regex;

/// Patterns, of which a path may match one.
#[derive(Debug)]
pub struct Globs {
    patterns: Vec<(String, Option<Regex>)>,
}

impl Globs {
    /// Takes these patterns.
    #[must_use]
    pub fn new(patterns: &[String]) -> Self {
        let made = |pattern: &String| (pattern.clone(), Regex::new(&translate(pattern)).ok());
        Self { patterns: patterns.iter().map(made).collect() }
    }

    /// Whether a text is a pattern that some path can match.
    ///
    /// # Errors
    /// A sentence: what is wrong with it.
    pub fn check(pattern: &str) -> Result<(), String> {
        let parts: Vec<&str> = from_root(pattern).split('/').collect();
        let ends_with_slash = parts.len() > 1 && parts.last().is_some_and(|last| last.is_empty());
        let parts = &parts[..parts.len() - usize::from(ends_with_slash)];
        if let Some(part) = parts.iter().find(|part| ["", ".", ".."].contains(part)) {
            return Err(format!("{pattern:?} matches no path: paths from the root of the repository have no part {part:?}"));
        }
        match Regex::new(&translate(pattern)) {
            Ok(_) => Ok(()),
            Err(regex::Error::CompiledTooBig(_)) => Err(format!("{pattern:?} is too large for a pattern")),
            Err(_) => {
                Err(format!("{pattern:?} is no pattern: what is in its [] is no class of characters, such as [a-z] or [!0-9]"))
            }
        }
    }

    /// The one path that a pattern matches, where nothing in it stands for anything else.
    #[must_use]
    pub fn path_of(pattern: &str) -> Option<&str> {
        Some(from_root(pattern)).filter(|path| !path.contains(['*', '?', '[', '{']) && !path.ends_with('/'))
    }

    /// The first pattern that a path matches. One that is no pattern matches its own text only; [`Globs::check`] tells.
    #[must_use]
    pub fn matching(&self, path: &str) -> Option<&str> {
        let matches = |(text, pattern): &&(String, Option<Regex>)| match pattern {
            Some(pattern) => pattern.is_match(path),
            None => text == path,
        };
        self.patterns.iter().find(matches).map(|(text, _)| text.as_str())
    }
}

/// A pattern without what says only that it begins at the root, as all do.
fn from_root(pattern: &str) -> &str {
    pattern.strip_prefix("./").or_else(|| pattern.strip_prefix('/')).unwrap_or(pattern)
}

/// The regular expression that says the same.
fn translate(glob: &str) -> String {
    let mut out = String::from("(?s)^");
    let mut rest = from_root(glob);
    let mut alternatives = 0;
    while let Some(c) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("**/") {
            out.push_str("(?:.*/)?");
            rest = after;
            continue;
        }
        if let Some(after) = rest.strip_prefix("**") {
            out.push_str(".*");
            rest = after;
            continue;
        }
        let mut taken = c.len_utf8();
        match c {
            '*' => out.push_str("[^/]*"),
            '?' => out.push_str("[^/]"),
            '[' => match rest.find(']').filter(|end| *end > 1) {
                Some(end) => {
                    // What means something in a regular expression alone is but a character here.
                    let class: String = rest[1..end].chars().flat_map(in_class).collect();
                    out.push_str(&format!(
                        "[{}]",
                        class.strip_prefix('!').map_or_else(|| class.clone(), |class| format!("^{class}"))
                    ));
                    taken = end + 1;
                }
                None => out.push_str("\\["),
            },
            '{' if rest.contains('}') => {
                alternatives += 1;
                out.push_str("(?:");
            }
            '}' if alternatives > 0 => {
                alternatives -= 1;
                out.push(')');
            }
            ',' if alternatives > 0 => out.push('|'),
            c => out.push_str(&regex::escape(c.encode_utf8(&mut [0; 4]))),
        }
        rest = &rest[taken..];
    }
    out.push_str(&")".repeat(alternatives));
    // A directory is all that is in it.
    out.push_str(if glob.ends_with('/') { ".*$" } else { "$" });
    out
}

/// A character of a class, as a regular expression has it.
fn in_class(c: char) -> impl Iterator<Item = char> {
    Some('\\').filter(|_| "\\[&~".contains(c)).into_iter().chain([c])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_about_the_whole_path() {
        let check = |glob: &str, path: &str, expected: bool| {
            assert_eq!(Globs::new(&[glob.to_owned()]).matching(path).is_some(), expected, "{glob} {path} {}", translate(glob));
        };
        check("src/**", "src/a/b.rs", true);
        check("src/**", "src", false);
        check("src/**", "tests/src/a", false);
        check("src/*", "src/a/b.rs", false);
        check("**/Cargo.lock", "Cargo.lock", true);
        check("**/Cargo.lock", "a/b/Cargo.lock", true);
        check("**/Cargo.lock", "xCargo.lock", false);
        check("*.{md,txt}", "a.txt", true);
        check("*.{md,txt}", "a.rs", false);
        check("a?[0-9].c", "ab7.c", true);
        check("a?[!0-9].c", "ab7.c", false);
        check(".github/", ".github/workflows/ci.yml", true);
        check("/README.md", "README.md", true);
        check("./src/**", "src/a.rs", true);
        check("a.b", "axb", false);
        check("odd[", "odd[", true);
        check("[a&&b]", "&", true);
        check("[^a]", "b", true);
    }

    #[test]
    fn what_no_path_can_match_is_no_pattern() {
        let check = |glob: &str, expected: &str| {
            let found = Globs::check(glob).map_or_else(|why| why, |()| "fine".to_owned());
            assert!(found.starts_with(expected), "{glob}: {found}");
        };
        let fine = ["src/**", "*.{md,txt}", "a?[!0-9].c", "odd[", ".github/", "/README.md", "./src/**", "[a&&b]", "a]", "{a"];
        fine.iter().for_each(|glob| check(glob, "fine"));
        check("[z-a]*.pem", "\"[z-a]*.pem\" is no pattern: ");
        check("[!]", "\"[!]\" is no pattern: ");
        check("src/./x", "\"src/./x\" matches no path: ");
        check("./", "\"./\" matches no path: ");
        check(".//x", "\".//x\" matches no path: ");
        check("src/../x", "\"src/../x\" matches no path: ");
        check("a//b", "\"a//b\" matches no path: ");
        check("", "\"\" matches no path: ");
        check("/", "\"/\" matches no path: ");
    }

    #[test]
    fn a_pattern_without_wildcards_is_a_path() {
        let check = |glob: &str, expected: Option<&str>| assert_eq!(Globs::path_of(glob), expected, "{glob}");
        check("a/b.xml", Some("a/b.xml"));
        check("./a.xml", Some("a.xml"));
        check("/a.xml", Some("a.xml"));
        ["a/", "*.xml", "?", "a[b]", "{a,b}"].iter().for_each(|glob| check(glob, None));
    }
}
