//! Tests that are gone, are skipped, or assert less than before.
//!
//! The one rule: it is told by patterns of lines, language by language, and by the balance of what was removed and added. So a test that was
//! moved or renamed is no finding, and one that was emptied in another way is not found: who must be sure reads the difference.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use regex::Regex as Text;
use regex::bytes::Regex;

use super::Found;
use crate::git::{ChangedFile, Line, Presence};
use crate::job::checks::Rule;

/// How a language says what is a test.
struct Language {
    extensions: &'static [&'static str],
    test: Regex,
    skip: Regex,
    assertion: Regex,
}

static LANGUAGES: LazyLock<Vec<Language>> = LazyLock::new(|| {
    let language = |extensions, test: &str, skip: &str, assertion: &str| {
        let regex = |pattern: &str| Regex::new(pattern).expect("the patterns are constants, and a test compiles them");
        Language { extensions, test: regex(test), skip: regex(skip), assertion: regex(assertion) }
    };
    vec![
        language(&["rs"], r"^\s*#\[(?:\w+::)*(?:test|rstest|test_case)\b", r"#\[ignore\b", r"\bassert(?:_\w+)?!"),
        language(
            &["py"],
            r"^\s*(?:async\s+)?def\s+test\w*\s*\(",
            r"@(?:pytest\.mark\.(?:skip|skipif|xfail)|unittest\.(?:skip|expectedFailure))|pytest\.(?:skip|xfail)\(|\.skipTest\(",
            r"^\s*assert\b|\.assert\w+\(|pytest\.raises\(",
        ),
        language(
            &["js", "jsx", "ts", "tsx", "mjs", "cjs", "mts", "cts"],
            r"^\s*(?:it|test)(?:\.\w+)*\s*\(",
            r"\b(?:it|test|describe)\.(?:skip|todo|only|fails)\b|\b(?:xit|xtest|xdescribe|fit|fdescribe)\s*\(",
            r"\bexpect\s*\(|\bassert(?:\.\w+)*\s*\(",
        ),
        language(
            &["go"],
            r"^func\s+(?:Test|Fuzz|Example)\w*\s*\(",
            r"\b[tb]\.Skip(?:f|Now)?\(",
            r"\bt\.(?:Error|Fatal)f?\(|\b(?:assert|require)\.\w+\(",
        ),
        language(&["java", "kt"], r"^\s*@(?:Test|ParameterizedTest)\b", r"@(?:Ignore|Disabled)\b", r"\bassert\w*\("),
        language(
            &["rb"],
            r#"^\s*(?:it|test)\s+["']|^\s*def\s+test_"#,
            r"^\s*(?:xit|skip|pending)\b",
            r"\bassert\w*\b|\bexpect\b",
        ),
    ]
});

/// Paths that are of tests only.
static TEST_PATH: LazyLock<Text> = LazyLock::new(|| {
    let pattern = r"(?x)(?:^|/)(?:tests?|__tests__|specs?)/
        | (?:^|/)(?:test_[^/]*|[^/]*_test|conftest)\.py$ | _test\.go$ | _(?:spec|test)\.rb$
        | \.(?:test|spec)\.[cm]?[jt]sx?$ | Tests?\.(?:java|kt)$ | (?:^|/)tests\.rs$";
    Text::new(pattern).expect("the pattern is a constant, and a test compiles it")
});

/// What a file lost and gained.
struct Balance<'a> {
    file: &'a ChangedFile,
    language: Option<usize>,
    tests: (Vec<u32>, usize),
    asserts: (Vec<u32>, usize),
}

/// Tests that are removed, skipped, or assert less.
pub(super) fn check(files: &[ChangedFile]) -> Vec<Found> {
    let balances: Vec<Balance<'_>> = files.iter().map(Balance::of).collect();
    // Of each language, by all files together: what was moved is not lost.
    let mut lost: BTreeMap<usize, i64> = BTreeMap::new();
    for balance in &balances {
        if let Some(language) = balance.language {
            *lost.entry(language).or_default() += signed(balance.tests.0.len()) - signed(balance.tests.1);
        }
    }
    let mut found = Vec::new();
    for balance in &balances {
        let loses = balance.language.is_some_and(|language| lost[&language] > 0);
        found.extend(balance.removed(loses));
        found.extend(balance.skipped());
    }
    found
}

impl<'a> Balance<'a> {
    fn of(file: &'a ChangedFile) -> Self {
        let extension =
            file.path.rsplit('/').next().and_then(|name| name.rsplit_once('.')).map_or("", |(_, extension)| extension);
        let language = LANGUAGES.iter().position(|language| language.extensions.contains(&extension));
        let count = |pattern: fn(&Language) -> &Regex| match language.map(|at| pattern(&LANGUAGES[at])) {
            Some(pattern) => (numbers(&file.removed, pattern), numbers(&file.added, pattern).len()),
            None => (Vec::new(), 0),
        };
        Self { file, language, tests: count(|language| &language.test), asserts: count(|language| &language.assertion) }
    }

    /// What was taken away from it. `loses` says whether tests of its language are fewer than before, in all.
    fn removed(&self, loses: bool) -> Option<Found> {
        let is_tests = TEST_PATH.is_match(&self.file.path);
        let gone = self.file.is == Presence::Absent;
        let (tests, added) = (self.tests.0.len(), self.tests.1);
        let (line, what) = if gone && is_tests && (loses || tests == 0) {
            (None, "a file of tests was removed".to_owned())
        } else if loses && tests > added {
            (self.tests.0.first(), format!("{} fewer here than before", number(tests - added, "test is", "tests are")))
        } else if !gone && tests == added && self.asserts.0.len() > self.asserts.1 && (is_tests || self.has_tests()) {
            let fewer = self.asserts.0.len() - self.asserts.1;
            (self.asserts.0.first(), format!("{} fewer here than before", number(fewer, "assertion is", "assertions are")))
        } else {
            return None;
        };
        Some(self.found(line.copied(), format!("{what}; put back what the work does not make pointless")))
    }

    /// The lines by which tests are left out from now on.
    fn skipped(&self) -> Vec<Found> {
        let Some(language) = self.language.map(|at| &LANGUAGES[at]) else { return Vec::new() };
        let (before, now) = (numbers(&self.file.removed, &language.skip), numbers(&self.file.added, &language.skip));
        let more = now.len().saturating_sub(before.len());
        let found = now.into_iter().take(more);
        found.map(|line| self.found(Some(line), "tests are skipped from here on; make them pass instead".to_owned())).collect()
    }

    fn has_tests(&self) -> bool {
        let pattern = self.language.map(|at| &LANGUAGES[at].test);
        pattern.is_some_and(|pattern| self.file.after.split(|byte| *byte == b'\n').any(|line| pattern.is_match(line)))
    }

    fn found(&self, line: Option<u32>, message: String) -> Found {
        Found { path: Some(self.file.path.clone()), line, rule: Rule::WeakenedTest, message }
    }
}

fn numbers(lines: &[Line], pattern: &Regex) -> Vec<u32> {
    lines.iter().filter(|line| pattern.is_match(&line.text)).map(|line| line.number).collect()
}

fn number(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

fn signed(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<Line> {
        (1..).zip(text.lines()).map(|(number, text)| Line { number, text: text.into() }).collect()
    }

    fn changed(path: &str, removed: &str, added: &str, is: Presence) -> ChangedFile {
        let (removed, added, after) = (lines(removed), lines(added), added.into());
        ChangedFile { path: path.to_owned(), was: Presence::There, is, removed, added, after, ..ChangedFile::default() }
    }

    #[test]
    fn what_weakens_tests_is_told_from_what_moves_them() {
        use Presence::{Absent, There};
        let check = |files: &[ChangedFile], expected: &[&str]| {
            let found: Vec<String> = super::check(files)
                .into_iter()
                .map(|one| format!("{}:{} {}", one.path.unwrap_or_default(), one.line.unwrap_or(0), one.message))
                .collect();
            assert_eq!(found.len(), expected.len(), "{found:?}");
            assert!(found.iter().zip(expected).all(|(found, begin)| found.starts_with(begin)), "{found:?}");
        };
        let test = "def test_a():\n    assert 1\n";
        check(&[changed("tests/test_a.py", test, "", Absent)], &["tests/test_a.py:0 a file of tests was removed"]);
        check(&[changed("tests/test_a.py", test, "", Absent), changed("tests/test_b.py", "", test, There)], &[]);
        check(&[changed("tests/run.sh", "true\n", "", Absent)], &["tests/run.sh:0 a file of tests was removed"]);
        check(&[changed("src/a.rs", "\n    #[test]\n    #[tokio::test]", "    #[test]", There)], &["src/a.rs:2 1 test is fewer"]);
        check(&[changed("a_test.go", "func TestA(t *testing.T) {", "func TestB(t *testing.T) {", There)], &[]);
        check(&[changed("a.test.ts", "expect(a).toBe(1)\nexpect(b)", "expect(a)", There)], &["a.test.ts:1 1 assertion is fewer"]);
        check(&[changed("src/a.ts", "expect(a)", "", There)], &[]);
        check(&[changed("a.spec.js", "it('a')", "it.skip('a')", There)], &["a.spec.js:1 tests are skipped"]);
        check(&[changed("tests/a.rs", "", "fine\n#[ignore]", There)], &["tests/a.rs:2 tests are skipped"]);
        check(&[changed("test_a.py", "", "@pytest.mark.skip(reason='x')", There)], &["test_a.py:1 tests are skipped"]);
    }
}
