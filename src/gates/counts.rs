//! How many tests were run, read from what test runners print and from files in the form of JUnit.
//!
//! The one rule: a count is what a runner says last of what it did, never guessed. What was printed comes from programs that the job
//! may have written: a count shows that tests were run where nobody lies, and nothing more.

use std::sync::LazyLock;

use regex::{Captures, Regex};

use crate::job::counts::{TestCounts, TestFormat};

const PRINTED: [TestFormat; 6] =
    [TestFormat::Cargo, TestFormat::Nextest, TestFormat::Pytest, TestFormat::Jest, TestFormat::Vitest, TestFormat::Go];

/// Counts the tests that a gate ran. `printed` is its output, `reports` are the files in the form of JUnit that it wrote, of which each is let
/// go before the next is taken. Nothing, where none of it says.
#[must_use]
pub fn count(format: TestFormat, printed: &str, reports: impl IntoIterator<Item = String>) -> Option<TestCounts> {
    let plain = ESCAPE.replace_all(printed, "");
    match format {
        TestFormat::Auto => {
            let all = PRINTED.iter().filter_map(|format| of_output(*format, &plain)).chain(junit(reports));
            all.max_by_key(|counts| counts.total)
        }
        TestFormat::Junit => junit(reports),
        format => of_output(format, &plain),
    }
}

fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).expect("the patterns are constants, and a test compiles them")
}

/// What colours text.
static ESCAPE: LazyLock<Regex> = LazyLock::new(|| regex("\x1b\\[[0-9;?]*[A-Za-z]"));
static CARGO: LazyLock<Regex> = LazyLock::new(|| regex(r"(?m)^test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored;"));
static NEXTEST: LazyLock<Regex> = LazyLock::new(|| regex(r"(?m)^\s*Summary \[[^\]]*\]\s+\d+(?:/\d+)? tests? run: (.*)$"));
static PYTEST: LazyLock<Regex> =
    LazyLock::new(|| regex(r"(?m)^(?:=+ )?((?:\d+ (?:subtests )?\w+(?:, )?)+|no tests ran|no tests collected.*) in [\d.]+s.*$"));
static JEST: LazyLock<Regex> = LazyLock::new(|| regex(r"(?m)^Tests:\s+(.*\d+ total.*)$"));
static VITEST: LazyLock<Regex> = LazyLock::new(|| regex(r"(?m)^\s*Tests\s+(\d+ .*|no tests)$"));
static GO_TEST: LazyLock<Regex> = LazyLock::new(|| regex(r"(?m)^\s*--- (PASS|FAIL|SKIP): "));
static GO_PACKAGE: LazyLock<Regex> = LazyLock::new(|| regex(r"(?m)^(ok  |FAIL)\t\S+\t(?:[\d.]+s|\(cached\)|\[.*\])(.*)$"));
static NUMBERED: LazyLock<Regex> = LazyLock::new(|| regex(r"(\d+) ([a-z]+)"));

fn of_output(format: TestFormat, text: &str) -> Option<TestCounts> {
    match format {
        TestFormat::Cargo => sum(CARGO.captures_iter(text).map(|found| {
            let number = |at: usize| found[at].parse().unwrap_or(0);
            TestCounts::new(format, number(1), number(2), number(3))
        })),
        TestFormat::Nextest => sum(NEXTEST.captures_iter(text).map(|found| words(format, &found))),
        TestFormat::Pytest => sum(PYTEST.captures_iter(text).map(|found| words(format, &found))),
        TestFormat::Jest => sum(JEST.captures_iter(text).map(|found| words(format, &found))),
        TestFormat::Vitest => sum(VITEST.captures_iter(text).map(|found| words(format, &found))),
        TestFormat::Go => go(text),
        TestFormat::Auto | TestFormat::Junit => None,
    }
}

/// All that was counted, one run after the other; nothing where none was.
fn sum(counts: impl Iterator<Item = TestCounts>) -> Option<TestCounts> {
    counts.reduce(|one, other| {
        TestCounts::new(one.format, one.passed + other.passed, one.failed + other.failed, one.skipped + other.skipped)
    })
}

/// Counts as words say them: `3 passed (1 slow), 1 failed, 2 skipped`. `2 subtests passed` is no count of tests: they are parts of one that is
/// counted, and those that fail pytest has among its `failed`.
fn words(format: TestFormat, found: &Captures<'_>) -> TestCounts {
    let mut counts = (0, 0, 0);
    for found in NUMBERED.captures_iter(&found[1]) {
        let number: u64 = found[1].parse().unwrap_or(0);
        match &found[2] {
            "passed" | "xpassed" => counts.0 += number,
            "failed" | "error" | "errors" | "timed" | "exec" => counts.1 += number,
            "skipped" | "xfailed" | "deselected" | "todo" | "pending" | "ignored" => counts.2 += number,
            _ => {}
        }
    }
    TestCounts::new(format, counts.0, counts.1, counts.2)
}

/// `go test`, in whichever of its three forms says most.
fn go(text: &str) -> Option<TestCounts> {
    let count = |outcomes: &[String]| {
        let number = |of: &str| outcomes.iter().filter(|outcome| outcome.as_str() == of).count() as u64;
        let counts = TestCounts::new(TestFormat::Go, number("pass"), number("fail"), number("skip"));
        (!outcomes.is_empty()).then_some(counts)
    };
    let events = text.lines().filter(|line| line.starts_with('{')).filter_map(|line| serde_json::from_str(line).ok());
    let events: Vec<serde_json::Value> = events.filter(|event: &serde_json::Value| event["Action"].is_string()).collect();
    if !events.is_empty() {
        let tests = events.iter().filter(|event| event["Test"].is_string()).filter_map(|event| event["Action"].as_str());
        let ended: Vec<String> = tests.filter(|action| ["pass", "fail", "skip"].contains(action)).map(str::to_owned).collect();
        return count(&ended).or(Some(TestCounts::new(TestFormat::Go, 0, 0, 0)));
    }
    let tests: Vec<String> = GO_TEST.captures_iter(text).map(|found| found[1].to_lowercase()).collect();
    let packages = GO_PACKAGE.captures_iter(text).map(|found| match (&found[1], found[0].contains("[no tests to run]")) {
        (_, true) => "none".to_owned(),
        ("FAIL", _) => "fail".to_owned(),
        _ => "pass".to_owned(),
    });
    let packages: Vec<String> = packages.collect();
    if text.lines().any(|line| line.ends_with("[no test files]")) && packages.is_empty() && tests.is_empty() {
        return Some(TestCounts::new(TestFormat::Go, 0, 0, 0));
    }
    count(&tests).or_else(|| count(&packages))
}

/// The values of attributes are taken whole: a `>` may stand in them as it is.
static CASE: LazyLock<Regex> = LazyLock::new(|| regex(r#"(?s)<testcase\b(?:[^>"']|"[^"]*"|'[^']*')*?(/>|>.*?</testcase>)"#));
static CASE_BODY: LazyLock<Regex> = LazyLock::new(|| regex(r"<(failure|error|skipped)\b"));
static CDATA: LazyLock<Regex> = LazyLock::new(|| regex(r"(?s)<!\[CDATA\[.*?\]\]>|<!--.*?-->"));

/// The cases in files in the form of JUnit, each counted by itself: the sums that writers put into the head differ in what they mean.
fn junit(reports: impl IntoIterator<Item = String>) -> Option<TestCounts> {
    sum(reports.into_iter().map(|report| {
        let mut counts = (0, 0, 0);
        let report = CDATA.replace_all(&report, "");
        for case in CASE.captures_iter(&report) {
            match CASE_BODY.captures(&case[1]).as_ref().map(|found| found[1].to_owned()).as_deref() {
                None => counts.0 += 1,
                Some("skipped") => counts.2 += 1,
                Some(_) => counts.1 += 1,
            }
        }
        TestCounts::new(TestFormat::Junit, counts.0, counts.1, counts.2)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runners_print_is_counted() {
        let check = |format: TestFormat, printed: &str, expected: Option<(u64, u64, u64)>| {
            let found = count(format, printed, []).map(|counts| (counts.passed, counts.failed, counts.skipped));
            assert_eq!(found, expected, "{printed}");
            let auto = count(TestFormat::Auto, printed, []).map(|counts| (counts.passed, counts.failed, counts.skipped));
            assert_eq!(auto, expected, "auto: {printed}");
        };
        use TestFormat::{Cargo, Go, Jest, Nextest, Pytest, Vitest};
        let cargo = "running 3 tests\n\ntest result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\n\
                     test result: \x1b[31mFAILED\x1b[0m. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out\n";
        check(Cargo, cargo, Some((3, 1, 1)));
        check(Cargo, "test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 9 filtered out\n", Some((0, 0, 0)));
        check(Cargo, "error: could not compile\n", None);
        check(
            Nextest,
            "------------\n     Summary [   0.006s] 3 tests run: 2 passed (1 slow), 1 failed, 4 skipped\n",
            Some((2, 1, 4)),
        );
        check(Nextest, "     Summary [   0.006s] 2/9 tests run: 1 passed, 1 timed out, 0 skipped\n", Some((1, 1, 0)));
        check(Pytest, "=== 1 failed, 2 passed, 3 skipped, 1 xfailed, 1 error in 0.12s ===\n", Some((2, 2, 4)));
        check(Pytest, "....\n4 passed in 0.01s\n", Some((4, 0, 0)));
        check(Pytest, "=== no tests ran in 0.01s ===\n", Some((0, 0, 0)));
        check(Pytest, "=== 2 passed, 1 warning in 61.20s (0:01:01) ===\n", Some((2, 0, 0)));
        check(Pytest, "....\n293 passed, 2 subtests passed in 27.34s\n", Some((293, 0, 0)));
        check(Pytest, "=== 2 failed, 2 passed, 5 subtests passed in 0.08s ===\n", Some((2, 2, 0)));
        check(Pytest, "=== 1 passed, 1 skipped, 1 subtests skipped, 3 warnings in 0.08s ===\n", Some((1, 0, 1)));
        check(Jest, "Tests:       1 failed, 1 skipped, 2 passed, 4 total\nTime: 1 s\n", Some((2, 1, 1)));
        check(Vitest, " Test Files  1 passed (1)\n      Tests  1 failed | 2 passed | 1 skipped (4)\n", Some((2, 1, 1)));
        check(
            Go,
            "=== RUN TestA\n--- PASS: TestA (0.00s)\n    --- SKIP: TestA/b (0.00s)\nPASS\nok  \tm/x\t0.001s\n",
            Some((1, 0, 1)),
        );
        check(Go, "ok  \tm/x\t0.001s\nFAIL\tm/y\t0.2s\n?   \tm/z\t[no test files]\n", Some((1, 1, 0)));
        check(Go, "ok  \tm/x\t0.001s [no tests to run]\n", Some((0, 0, 0)));
        check(Go, "?   \tm/z\t[no test files]\n", Some((0, 0, 0)));
        let json = "{\"Action\":\"run\",\"Test\":\"A\"}\n{\"Action\":\"pass\",\"Test\":\"A\"}\n{\"Action\":\"skip\",\"Test\":\"B\"}\n{\"Action\":\"pass\"}\n";
        check(Go, json, Some((1, 0, 1)));
        check(TestFormat::Auto, "all is well\n", None);
    }

    #[test]
    fn cases_of_junit_are_counted_one_by_one() {
        let report = "<testsuites><testsuite tests=\"9\"><testcase name=\"a\"/><testcase name=\"b\"><failure>x</failure></testcase>\
                      <testcase name=\"c\">\n<skipped/></testcase><testcase name=\"d\"><system-out><![CDATA[<failure>]]></system-out></testcase>";
        let counts = count(TestFormat::Junit, "", [report.to_owned()]).expect("a report");
        assert_eq!((counts.passed, counts.failed, counts.skipped), (2, 1, 1));
        assert_eq!(count(TestFormat::Junit, "4 passed in 1s", []), None);
        let raw = "<testcase name=\"a > b\"/><testcase name='c -> \"d\"' file='e/>'><failure>x</failure></testcase><testcase name=\"f\"\n/>\
                   <testcase name=\"g/h\" time=\"0.1\"></testcase>";
        let counts = count(TestFormat::Junit, "", [raw.to_owned()]).expect("a report");
        assert_eq!((counts.passed, counts.failed, counts.skipped), (3, 1, 0));
    }
}
