//! How many lines tests ran, read from reports in the form of lcov or of Cobertura.
//!
//! The one rule: a report is read as a whole or not at all. One that is cut off, or has a number that is none, is told as that and not
//! counted as far as it goes.
//!
//! lcov's form is that of geninfo(1): of each file `SF:`, then `DA:line,times` for each line (or only the sums `LF:` and `LH:`), then
//! `end_of_record`. Cobertura's has the sums in its first element, or else one element `line` for each line.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use regex::Regex;

use crate::job::coverage::CoveredLines;

/// The first element of a report of Cobertura's, and its elements.
static ROOT: LazyLock<Regex> = LazyLock::new(|| regex(r"<coverage\b[^>]*>"));
static ATTRIBUTE: LazyLock<Regex> = LazyLock::new(|| regex(r#"([\w-]+)\s*=\s*["']([^"']*)["']"#));
static METHODS: LazyLock<Regex> = LazyLock::new(|| regex(r"(?s)<methods\b[^>]*>.*?</methods>"));
static LINE: LazyLock<Regex> = LazyLock::new(|| regex(r"<line\b[^>]*>"));

fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).expect("the patterns are constants, and a test compiles them")
}

/// What a report says.
///
/// # Errors
/// A sentence about why it says nothing.
pub fn coverage(report: &str) -> Result<CoveredLines, String> {
    let lines = if ROOT.is_match(report) { cobertura(report)? } else { lcov(report)? };
    if lines.covered > lines.total {
        return Err(format!("it says that {} of {} lines are covered", lines.covered, lines.total));
    }
    Ok(lines)
}

/// A file of lcov's while it is read.
#[derive(Default)]
struct File {
    lines: BTreeMap<u64, bool>,
    found: Option<u64>,
    hit: Option<u64>,
}

fn lcov(report: &str) -> Result<CoveredLines, String> {
    // A file may come up in several records, one for each test: a line is covered where one of them says so.
    let mut files: BTreeMap<&str, File> = BTreeMap::new();
    let mut open: Option<&str> = None;
    for (at, line) in report.lines().map(str::trim).enumerate() {
        let wrong = || format!("line {} of it is malformed: {:?}", at + 1, line.chars().take(60).collect::<String>());
        let number = |text: &str| text.parse::<u64>().map_err(|_| wrong());
        let (key, value) = line.split_once(':').unwrap_or((line, ""));
        match (key, open) {
            ("SF", None) => open = Some(value),
            ("end_of_record", Some(_)) => open = None,
            ("SF", Some(_)) | ("DA" | "LF" | "LH" | "end_of_record", None) => return Err(wrong()),
            ("DA", Some(name)) => {
                let mut parts = value.split(',');
                let (line, times) = (number(parts.next().unwrap_or_default())?, parts.next().unwrap_or_default());
                // Some write how often as a fraction, or below nought where that overflowed.
                let times: f64 = times.parse().map_err(|_| wrong())?;
                *files.entry(name).or_default().lines.entry(line).or_default() |= times > 0.0;
            }
            ("LF", Some(name)) => files.entry(name).or_default().found = Some(number(value)?),
            ("LH", Some(name)) => files.entry(name).or_default().hit = Some(number(value)?),
            _ => {}
        }
    }
    if open.is_some() {
        return Err("it is cut off in the middle of a record".to_owned());
    }
    if files.is_empty() {
        return Err("it is in the form neither of lcov nor of Cobertura".to_owned());
    }
    let of_file = |file: &File| match (file.lines.is_empty(), file.found, file.hit) {
        (true, Some(found), Some(hit)) => (hit, found),
        _ => (file.lines.values().filter(|hit| **hit).count() as u64, file.lines.len() as u64),
    };
    let sums = files.values().map(of_file);
    let sum = sums.fold((0_u64, 0_u64), |sum, file| (sum.0.saturating_add(file.0), sum.1.saturating_add(file.1)));
    Ok(CoveredLines { covered: sum.0, total: sum.1 })
}

fn cobertura(report: &str) -> Result<CoveredLines, String> {
    if !report.contains("</coverage>") {
        return Err("it is cut off: its element coverage does not end".to_owned());
    }
    let root = ROOT.find(report).map_or("", |found| found.as_str());
    let of_root = |name: &str| attribute(root, name).map(|text| number(name, text)).transpose();
    if let (Some(covered), Some(total)) = (of_root("lines-covered")?, of_root("lines-valid")?) {
        return Ok(CoveredLines { covered, total });
    }
    // The lines of methods are those of their class once more.
    let plain = METHODS.replace_all(report, "");
    let mut sum = CoveredLines { covered: 0, total: 0 };
    for line in LINE.find_iter(&plain) {
        let Some(hits) = attribute(line.as_str(), "hits") else { continue };
        sum.total += 1;
        sum.covered += u64::from(number("hits", hits)? > 0);
    }
    if sum.total == 0 {
        return Err("it has neither lines-valid and lines-covered nor an element line with hits".to_owned());
    }
    Ok(sum)
}

fn attribute<'a>(element: &'a str, name: &str) -> Option<&'a str> {
    ATTRIBUTE.captures_iter(element).find(|found| &found[1] == name).and_then(|found| Some(found.get(2)?.as_str()))
}

fn number(name: &str, text: &str) -> Result<u64, String> {
    text.trim().parse().map_err(|_| format!("its {name} is no number: {:?}", text.chars().take(60).collect::<String>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(report: &str) -> Result<(u64, u64), String> {
        coverage(report).map(|lines| (lines.covered, lines.total))
    }

    #[test]
    fn lcov_is_counted_by_lines_and_by_sums_where_there_are_no_lines() {
        let lines = "TN:one\nSF:/src/a.rs\nFN:1,main\nDA:1,5\nDA:2,0\nDA:3,1,checksum\nLF:3\nLH:2\nBRF:0\nend_of_record\n";
        assert_eq!(read(lines), Ok((2, 3)));
        // The same file of another test, which ran the line that the first one did not.
        let both = format!("{lines}TN:two\r\nSF:/src/a.rs\r\nDA:2,1\r\nend_of_record\r\n");
        assert_eq!(read(&both), Ok((3, 3)));
        assert_eq!(read("SF:a\nLF:10\nLH:7\nend_of_record\nSF:b\nLF:2\nLH:0\nend_of_record\n"), Ok((7, 12)));
    }

    #[test]
    fn cobertura_is_read_from_its_sums_or_from_the_lines_of_its_classes() {
        let sums = r#"<?xml version="1.0"?><!DOCTYPE coverage SYSTEM "x.dtd"><coverage line-rate="0.5" lines-covered="5" lines-valid='10'><packages/></coverage>"#;
        assert_eq!(read(sums), Ok((5, 10)));
        let lines = r#"<coverage line-rate="0.5"><packages><package><classes><class name="A"><methods><method name="m"><lines>
            <line number="1" hits="3"/></lines></method></methods><lines><line number="1" hits="3"/><line number="2" hits="0"/>
            </lines></class></classes></package></packages></coverage>"#;
        assert_eq!(read(lines), Ok((1, 2)));
    }

    #[test]
    fn what_says_nothing_whole_says_why() {
        let check = |report: &str, expected: &str| {
            let why = read(report).expect_err(report);
            assert!(why.contains(expected), "{report}: {why}");
        };
        check("", "neither of lcov nor of Cobertura");
        check("{\"total\": 5}", "neither of lcov nor of Cobertura");
        check("SF:a\nDA:1,1\n", "cut off in the middle of a record");
        check("SF:a\nDA:one,1\nend_of_record\n", "line 2 of it is malformed: \"DA:one,1\"");
        check("DA:1,1\nend_of_record\n", "line 1 of it is malformed");
        check("SF:a\nLF:3\nLH:4\nend_of_record\n", "4 of 3 lines are covered");
        check("<coverage lines-covered=\"5\" lines-valid=\"10\"><pack", "does not end");
        check("<coverage lines-covered=\"many\" lines-valid=\"10\"></coverage>", "lines-covered is no number");
        check("<coverage></coverage>", "neither lines-valid");
    }
}
