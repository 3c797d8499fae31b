//! Reading documents, and saying what is wrong with them.
//!
//! The one rule: what is wrong is said with the path to the field, and a name that is not known with the nearest that is.

use serde::de::DeserializeOwned;

use super::problem::{Kind, Problem};

/// Reads a JSON document; what is wrong with its form is said with the path to the field.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    // serde would take an array for a document whose fields are given by their order alone.
    if bytes.trim_ascii_start().starts_with(b"[") {
        return Err(Problem::new(Kind::InvalidDocument, "the document must be a JSON object, not an array"));
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let document = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let cause = error.into_inner();
        if cause.classify() == serde_json::error::Category::Data {
            invalid(if path == "." { "" } else { &path }, &cause.to_string())
        } else {
            Problem::new(Kind::MalformedJson, format!("the body is not JSON: {cause}"))
        }
    })?;
    reader.end().map_err(|error| Problem::new(Kind::MalformedJson, format!("the body is not one JSON document: {error}")))?;
    Ok(document)
}

/// What serde says of the field at `path`, with the path to the field that is missing, and the nearest name of one that is not
/// known.
fn invalid(path: &str, cause: &str) -> Problem {
    let mut path = path.to_owned();
    let mut cause = cause.to_owned();
    if let Some(field) = cause.strip_prefix("missing field `").and_then(|rest| rest.split('`').next()) {
        path = if path.is_empty() { field.to_owned() } else { format!("{path}.{field}") };
    }
    if let Some(list) = cause.strip_prefix("unknown field `") {
        let names: Vec<&str> = list.split('`').step_by(2).collect();
        if let Some((wanted, known)) = names.split_first()
            && let Some(hint) = nearest(wanted, known.iter().copied()).filter(|hint| hint.starts_with("did"))
        {
            cause.push_str("; ");
            cause.push_str(&hint);
        }
    }
    if path.is_empty() {
        return Problem::new(Kind::InvalidDocument, cause);
    }
    Problem::new(Kind::InvalidDocument, format!("{path}: {cause}")).at(path)
}

/// The name among `known` that `wanted` was most likely meant to be, as the end of a sentence: a suggestion, or all there are.
pub(super) fn nearest<'a>(wanted: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    let known: Vec<&str> = known.collect();
    let close = known.iter().map(|name| (strsim::jaro_winkler(wanted, name), *name)).max_by(|a, b| a.0.total_cmp(&b.0));
    match close {
        None => None,
        Some((likeness, name)) if likeness > 0.8 => Some(format!("did you mean {name:?}?")),
        Some(_) => Some(format!("there are: {}", known.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::JobSpec;

    #[test]
    fn a_malformed_document_is_answered_with_the_path_to_the_field() {
        let check = |body: &str, path: Option<&str>, detail: &str| {
            let problem = parse::<JobSpec>(body.as_bytes()).expect_err("the document is malformed");
            assert_eq!((problem.path.as_deref(), problem.detail.as_str()), (path, detail), "{body}");
        };
        check("", None, "the body is not JSON: EOF while parsing a value at line 1 column 0");
        check("{\"task\": {}", None, "the body is not JSON: EOF while parsing an object at line 1 column 11");
        check("{\"task\": {}} {}", None, "the body is not one JSON document: trailing characters at line 1 column 14");
        check("[]", None, "the document must be a JSON object, not an array");
        check("5", None, "invalid type: integer `5`, expected struct JobSpec at line 1 column 1");
        check(r#"{"repo": "/r"}"#, Some("task"), "task: missing field `task` at line 1 column 14");
        check(
            r#"{"task": {"command": 5}}"#,
            Some("task.command"),
            "task.command: a command is a line of text, or a list of a program and its arguments at line 1 column 23",
        );
        check(
            r#"{"task": {}, "gates": [{"name": "unit"}]}"#,
            Some("gates[0].command"),
            "gates[0].command: missing field `command` at line 1 column 39",
        );
        check(
            r#"{"task": {"comand": "true"}}"#,
            Some("task.comand"),
            "task.comand: unknown field `comand`, expected one of `instruction`, `command`, `acceptance`, `inputs` \
             at line 1 column 18; did you mean \"command\"?",
        );
    }

    #[test]
    fn a_name_that_is_not_known_is_answered_with_the_nearest() {
        let check = |wanted: &str, known: &[&str], expected: Option<&str>| {
            assert_eq!(nearest(wanted, known.iter().copied()).as_deref(), expected, "{wanted}");
        };
        check("sawmil", &["other", "sawmill"], Some("did you mean \"sawmill\"?"));
        check("zzz", &["app", "site"], Some("there are: app, site"));
        check("app", &[], None);
    }
}
