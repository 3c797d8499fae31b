//! Tests that are gone, are skipped, or assert less than before.
//!
//! The one rule: it is told by patterns of lines, language by language (see [`super::languages`]), and by the balance of what was removed
//! and added. So a test that was moved or renamed is no finding, and one that was emptied in another way is not found: who must be sure
//! reads the difference. How assertions are balanced is in [`super::assertions`].

use std::collections::BTreeMap;

use regex::bytes::Regex;

use super::Found;
use super::assertions;
use super::languages::{LANGUAGES, Language, is_collected, is_test_path, language_of};
use crate::git::{ChangedFile, Line, Presence};
use crate::job::checks::Rule;

/// What a file lost and gained.
struct Balance<'a> {
    file: &'a ChangedFile,
    language: Option<usize>,
    tests: (Vec<u32>, usize),
    asserts: Vec<u32>,
    /// Whether a runner looks for tests in it, by its path.
    collected: bool,
}

/// How many tests a language lost in all files together: in those in which a runner looks for them, and in others.
#[derive(Default)]
struct Lost {
    collected: i64,
    elsewhere: i64,
}

/// Tests that are removed, skipped, or assert less.
pub(super) fn check(files: &[ChangedFile]) -> Vec<Found> {
    let balances: Vec<Balance<'_>> = files.iter().map(Balance::of).collect();
    // Of each language, by all files together: what was moved is not lost, as long as it was not moved to where no runner finds it.
    let mut lost: BTreeMap<usize, Lost> = BTreeMap::new();
    for balance in &balances {
        let Some(language) = balance.language else { continue };
        let lost = lost.entry(language).or_default();
        let place = if balance.collected { &mut lost.collected } else { &mut lost.elsewhere };
        *place += signed(balance.tests.0.len()) - signed(balance.tests.1);
    }
    let mut found = Vec::new();
    for balance in &balances {
        let loses = balance
            .language
            .map(|language| &lost[&language])
            .is_some_and(|lost| lost.collected + lost.elsewhere > 0 || (balance.collected && lost.collected > 0));
        found.extend(balance.hidden().or_else(|| balance.removed(loses, files)));
        found.extend(balance.skipped());
    }
    found
}

impl<'a> Balance<'a> {
    fn of(file: &'a ChangedFile) -> Self {
        let language = language_of(&file.path);
        let count = |pattern: fn(&Language) -> &Regex| match language.map(|at| pattern(&LANGUAGES[at])) {
            Some(pattern) => (numbers(&file.removed, pattern), numbers(&file.added, pattern).len()),
            None => (Vec::new(), 0),
        };
        let (tests, asserts) = (count(|language| &language.test), count(|language| &language.assertion).0);
        Self { file, language, tests, asserts, collected: is_collected(&file.path) }
    }

    /// A file of tests that now is where none are looked for.
    fn hidden(&self) -> Option<Found> {
        let from = self.file.renamed_from.as_ref().filter(|from| is_collected(from))?;
        let was = language_of(from);
        // What is in no language, as a fixture is, has none.
        let had_tests = was.is_some_and(|at| lines_match(&self.file.before, &LANGUAGES[at].test));
        (had_tests && (!self.collected || self.language != was)).then(|| {
            let message = format!("it was {from}, and no runner looks for tests by its name now; put it back");
            self.found(None, message)
        })
    }

    /// What was taken away from it. `loses` says whether tests of its language are fewer than before, in all.
    fn removed(&self, loses: bool, files: &[ChangedFile]) -> Option<Found> {
        let is_tests = is_test_path(&self.file.path);
        let gone = self.file.is == Presence::Absent;
        let (tests, added) = (self.tests.0.len(), self.tests.1);
        let (line, what) = if gone && is_tests && (loses || tests == 0) {
            (None, "a file of tests was removed".to_owned())
        } else if loses && tests > added {
            (self.tests.0.first(), format!("{} fewer here than before", number(tests - added, "test is", "tests are")))
        } else if !gone && !self.asserts.is_empty() && (is_tests || self.has_tests()) {
            let fewer = assertions::fewer(&LANGUAGES[self.language?], self.file, files)?;
            (self.asserts.first(), format!("{} fewer here than before", number(fewer, "assertion is", "assertions are")))
        } else {
            return None;
        };
        Some(self.found(line.copied(), format!("{what}; put back what the work does not make pointless")))
    }

    /// The lines by which tests are left out from now on.
    fn skipped(&self) -> Vec<Found> {
        let Some(language) = self.language.map(|at| &LANGUAGES[at]) else { return Vec::new() };
        let skips = |lines: &[Line], text: &[u8]| -> Vec<u32> {
            let skips = |line: &&Line| language.skip.is_match(&line.text) && language.has_some_to_skip(line, text);
            lines.iter().filter(skips).map(|line| line.number).collect()
        };
        let (before, now) = (skips(&self.file.removed, &self.file.before), skips(&self.file.added, &self.file.after));
        let more = now.len().saturating_sub(before.len());
        let found = now.into_iter().take(more);
        found.map(|line| self.found(Some(line), "tests are skipped from here on; make them pass instead".to_owned())).collect()
    }

    fn has_tests(&self) -> bool {
        self.language.is_some_and(|at| lines_match(&self.file.after, &LANGUAGES[at].test))
    }

    fn found(&self, line: Option<u32>, message: String) -> Found {
        Found { path: Some(self.file.path.clone()), line, rule: Rule::WeakenedTest, message }
    }
}

fn lines_match(text: &[u8], pattern: &Regex) -> bool {
    text.split(|byte| *byte == b'\n').any(|line| pattern.is_match(line))
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
        let (before, after) = (removed.into(), added.into());
        let (removed, added) = (lines(removed), lines(added));
        ChangedFile { path: path.to_owned(), was: Presence::There, is, removed, added, before, after, ..ChangedFile::default() }
    }

    /// A file that was moved as it is.
    fn moved(from: &str, to: &str, text: &str) -> ChangedFile {
        let both = || text.as_bytes().to_vec();
        ChangedFile { renamed_from: Some(from.to_owned()), before: both(), after: both(), ..changed(to, "", "", Presence::There) }
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
        check(&[changed("test_a.py", "", "pytestmark = pytest.mark.skip", There)], &["test_a.py:1 tests are skipped"]);
        check(&[changed("test_a.py", "", "@mark.xfail\ndef test_b():", There)], &["test_a.py:1 tests are skipped"]);
        // What has no tests is rightly said to be no test.
        let class = |body: &str| {
            changed("test_a.py", "", &format!("class TestA:\n{body}\n\nclass TestB:\n    def test_b(self):\n"), There)
        };
        check(&[class("    __test__ = False\n\n    def run(self): pass")], &[]);
        check(&[class("    __test__ = False\n\n    def test_a(self): pass")], &["test_a.py:2 tests are skipped"]);
        check(&[class("    def test_a(self):\n        pass\n\n    __test__ = False")], &["test_a.py:5 tests are skipped"]);
        check(&[class("    a = 1\n__test__ = False")], &["test_a.py:3 tests are skipped"]);
        check(&[changed("tests/data.py", "", "__test__ = False\nDATA = 1", There)], &[]);
    }

    #[test]
    fn a_test_file_that_no_runner_finds_any_more_is_as_good_as_removed() {
        use Presence::{Absent, There};
        let check = |files: &[ChangedFile], expected: &str| {
            let found: Vec<String> =
                super::check(files).into_iter().map(|one| format!("{} {}", one.path.unwrap_or_default(), one.message)).collect();
            match found.as_slice() {
                [] => assert_eq!("", expected),
                [found] => assert!(!expected.is_empty() && found.starts_with(expected), "{found}"),
                more => panic!("{more:?}"),
            }
        };
        let test = "def test_a():\n    assert 1\n";
        check(&[moved("tests/test_a.py", "old.py", test)], "old.py it was tests/test_a.py, and no runner");
        check(&[moved("tests/test_a.py", "tests/a.py", test)], "tests/a.py it was tests/test_a.py, and no runner");
        check(
            &[moved("tests/test_a.py", "tests/test_a.py.bak", test)],
            "tests/test_a.py.bak it was tests/test_a.py, and no runner",
        );
        check(&[moved("tests/test_a.py", "tests/unit/test_a.py", test)], "");
        check(&[moved("tests/test_data.py", "tests/data.py", "DATA = 1\n")], "");
        check(&[moved("a_test.go", "a_check.go", "func TestA(t *testing.T) {\n")], "a_check.go it was a_test.go, and no runner");
        check(&[moved("tests/a.rs", "tests/all/a.rs", "#[test]\nfn a() {}\n")], "");
        check(
            &[moved("tests/a.rs", "tests/a.rs.off", "#[test]\nfn a() {}\n")],
            "tests/a.rs.off it was tests/a.rs, and no runner",
        );
        check(&[moved("tests/fixtures/a.json", "testdata/a.json", "{}\n")], "");
        check(&[moved("tests/README.md", "docs/tests.md", "# Tests\n")], "");
        // Where git does not see that one is the other.
        let gone = || changed("tests/test_a.py", test, "", Absent);
        check(&[gone(), changed("old.py", "", test, There)], "tests/test_a.py a file of tests was removed");
        check(&[gone(), changed("test_b.py", "", test, There)], "");
    }
}
