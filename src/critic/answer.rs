//! What counts as an answer, and what follows from one.
//!
//! The one rule: the whole text is one document in the form that was asked for, or it is no answer. So nothing that a model repeats of
//! what it was shown, in the middle of other words, is taken for its verdict.

use serde::Deserialize;

use crate::job::critique::{Remark, Severity};

/// How many findings are kept, and how much of each text, in characters.
const FINDINGS_MAX: usize = 50;
const TEXT_MAX: usize = 2_000;
/// How many findings a reason names.
const NAMED: usize = 5;

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) score: u8,
    pub(super) summary: String,
    pub(super) findings: Vec<Remark>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    score: u8,
    #[serde(default)]
    summary: String,
    findings: Vec<Found>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Found {
    path: Option<String>,
    line: Option<u32>,
    severity: Severity,
    must_fix: bool,
    message: String,
}

/// Reads an answer. A fence of Markdown around all of it is let pass.
pub(super) fn parse(text: &str) -> Result<Answer, String> {
    let document: Document = serde_json::from_str(unfenced(text.trim())).map_err(|error| match text.trim() {
        "" => "it is empty".to_owned(),
        _ => error.to_string(),
    })?;
    if document.score > 100 {
        return Err(format!("the score is {}, and 100 is the most", document.score));
    }
    let mut findings: Vec<Remark> = document.findings.into_iter().map(remark).collect();
    if let Some(empty) = findings.iter().position(|found| found.message.is_empty()) {
        return Err(format!("finding {} has no message", empty + 1));
    }
    // What decides is never what is left out.
    findings.sort_by_key(|found| !found.must_fix);
    findings.truncate(FINDINGS_MAX);
    Ok(Answer { score: document.score, summary: cut(&document.summary), findings })
}

/// Why a commit with this answer is not to be delivered; nothing where it is.
pub(super) fn rejects(answer: &Answer, critic: &str, min_score: Option<u8>) -> Option<String> {
    let wrong: Vec<String> = answer.findings.iter().filter(|found| found.must_fix).map(ToString::to_string).collect();
    if !wrong.is_empty() {
        let more = wrong.len().saturating_sub(NAMED);
        let more = if more > 0 { format!("; and {more} more, which are in the log") } else { String::new() };
        let named = wrong.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join("; ");
        return Some(format!("critic {critic} has found what must be fixed: {named}{more}"));
    }
    let least = min_score.filter(|least| answer.score < *least)?;
    let why = if answer.summary.is_empty() { String::new() } else { format!(": {}", answer.summary) };
    Some(format!("critic {critic} gives {} of 100, and {least} is the least that passes{why}", answer.score))
}

fn remark(found: Found) -> Remark {
    let Found { path, line, severity, must_fix, message } = found;
    Remark { path: path.map(|path| cut(&path)).filter(|path| !path.is_empty()), line, severity, must_fix, message: cut(&message) }
}

fn cut(text: &str) -> String {
    text.trim().chars().take(TEXT_MAX).collect()
}

fn unfenced(text: &str) -> &str {
    let inner = text.strip_prefix("```").and_then(|rest| rest.strip_suffix("```"));
    inner.map_or(text, |inner| inner.strip_prefix("json").unwrap_or(inner))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"score": 80, "summary": "Fine.", "findings": [
        {"path": "a.rs", "line": 3, "severity": "minor", "must_fix": false, "message": "a name"}]}"#;

    #[test]
    fn an_answer_is_one_document_in_the_form_that_was_asked_for() {
        let answer = parse(GOOD).expect("an answer");
        assert_eq!((answer.score, answer.findings.len()), (80, 1));
        assert_eq!(parse(&format!("```json\n{GOOD}\n```\n")).as_ref(), Ok(&answer));
        let check = |text: &str, expected: &str| {
            let why = parse(text).expect_err(text);
            assert!(why.contains(expected), "{text}: {why}");
        };
        check("", "it is empty");
        check("Looks good to me.", "expected value");
        check(&format!("Sure! {GOOD}"), "expected value");
        check(&format!("{GOOD} {GOOD}"), "trailing characters");
        check(r#"{"score": 0.8, "findings": []}"#, "floating point");
        check(r#"{"score": 101, "findings": []}"#, "100 is the most");
        check(r#"{"score": -1, "findings": []}"#, "-1");
        check(r#"{"score": "100", "findings": []}"#, "string");
        check(r#"{"score": 100}"#, "missing field `findings`");
        check(r#"{"findings": []}"#, "missing field `score`");
        check(r#"{"score": 100, "findings": [], "pass": true}"#, "unknown field `pass`");
        check(r#"{"score": 9, "findings": [{"severity": "bad", "must_fix": true, "message": "m"}]}"#, "unknown variant `bad`");
        check(
            r#"{"score": 9, "findings": [{"severity": "major", "must_fix": true, "message": " "}]}"#,
            "finding 1 has no message",
        );
    }

    #[test]
    fn what_must_be_fixed_rejects_and_so_does_a_low_score() {
        let answer = |score, must_fix: &[bool]| Answer {
            score,
            summary: "Half of it.".to_owned(),
            findings: must_fix
                .iter()
                .map(|must_fix| Remark {
                    path: Some("a.rs".to_owned()),
                    line: Some(3),
                    severity: Severity::Major,
                    must_fix: *must_fix,
                    message: "it divides by nought".to_owned(),
                })
                .collect(),
        };
        let check = |answer: Answer, least: Option<u8>, expected: Option<&str>| {
            assert_eq!(rejects(&answer, "second", least).as_deref(), expected);
        };
        check(answer(0, &[false]), None, None);
        check(answer(70, &[false]), Some(70), None);
        check(answer(69, &[]), Some(70), Some("critic second gives 69 of 100, and 70 is the least that passes: Half of it."));
        check(
            answer(100, &[false, true]),
            Some(70),
            Some("critic second has found what must be fixed: a.rs:3: it divides by nought"),
        );
        let many = rejects(&answer(100, &[true; 7]), "second", None).expect("rejected");
        assert!(many.ends_with("; and 2 more, which are in the log"), "{many}");
    }

    #[test]
    fn what_must_be_fixed_is_kept_however_much_else_there_is() {
        let one = |must_fix: bool| {
            format!(r#"{{"path": null, "line": null, "severity": "info", "must_fix": {must_fix}, "message": "m"}}"#)
        };
        let all: Vec<String> = (0..200).map(|number| one(number == 199)).collect();
        let answer = parse(&format!(r#"{{"score": 1, "findings": [{}]}}"#, all.join(","))).expect("an answer");
        assert_eq!(answer.findings.len(), FINDINGS_MAX);
        assert!(answer.findings[0].must_fix && rejects(&answer, "x", None).is_some());
    }
}
