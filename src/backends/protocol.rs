//! The executor protocol: the documents that pass between Sawmill and the program that does a job.
//!
//! The program finds its task in the file that `SAWMILL_SPEC` names, and moves its result into place at the path that
//! `SAWMILL_RESULT` names. At the path that `SAWMILL_USAGE` names it may say meanwhile what it has used of a model so far. Its standard
//! output and error are log, whatever they contain.

use std::io::{self, Read};
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::clock::Timestamp;
use crate::ids::{AttemptNo, JobId};
use crate::job::artifact::NamedFile;
use crate::job::budget::Budget;
use crate::job::completion::Usage;
use crate::job::spec::Task;
use crate::job::{Answer, PreviousAttempt, Rejection};
use crate::plain_file;
use crate::redact::Redactor;

/// The largest result file that is read, in bytes.
pub const RESULT_MAX: u64 = 1024 * 1024;

/// The longest summary, or question, that is kept, in characters.
const SUMMARY_MAX: usize = 8_000;

/// How much is told of what is wrong with a document, in characters: it may have a part of the document in it.
const FLAW_MAX: usize = 300;

/// The longest name of a session, in bytes.
const SESSION_MAX: usize = 200;

/// The document that `SAWMILL_SPEC` names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SpecDocument {
    /// The version of this document: 1.
    pub schema: u32,
    /// The job.
    pub job: JobId,
    /// The attempt.
    pub attempt: AttemptNo,
    /// What to do.
    #[serde(flatten)]
    pub task: Task,
    /// When the program must be done (milliseconds since the epoch).
    pub deadline_ms: Timestamp,
    /// What it may use of a model before it is ended, where a budget says that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
    /// What the last attempt came to, and the commit that holds what it left behind.
    pub previous: Option<PreviousAttempt>,
    /// Where this attempt's own work was rejected, and is to be made better.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<Revision>,
    /// The questions that attempts before this one asked, with what was answered, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answers: Vec<Answer>,
}

/// A further round of the same attempt: the worktree is as the round before it left it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Revision {
    /// Which revision this is, from 1.
    pub number: u32,
    /// How many there may be.
    pub of: u32,
    /// What was wrong.
    pub rejection: Rejection,
    /// What was changed against the base so far, as a patch; its beginning, where that is long.
    pub diff: Option<String>,
    /// What the round before it left as `session`.
    pub session: Option<String>,
    /// What the rounds in that session said that they used of a model, together.
    pub session_usage: Option<Usage>,
}

/// The document that the program leaves at `SAWMILL_RESULT`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ResultDocument {
    /// The version of this document: 1.
    pub schema: u32,
    /// Whether the program takes the task for done.
    pub ok: bool,
    /// What it did, in words.
    #[serde(default)]
    pub summary: String,
    /// Its use of a model.
    #[serde(default)]
    pub usage: Option<Usage>,
    /// Where it is not done because a usage limit was met: when to try again (milliseconds since the epoch), 0 where that is not
    /// known.
    #[serde(default)]
    pub retry_at: Option<Timestamp>,
    /// Where it is not done because something has to be answered first: the question.
    #[serde(default)]
    pub clarification: Option<String>,
    /// Files of the worktree that are to be kept, beside those that the job asks for.
    #[serde(default)]
    pub artifacts: Vec<NamedFile>,
    /// By what it knows this work again, should it have to be revised.
    #[serde(default)]
    pub session: Option<String>,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum ResultError {
    /// The program left none.
    #[error("no result file")]
    Missing,
    /// What it left is no plain file.
    #[error("the result is not a plain file")]
    NotAFile,
    /// What it left is too large.
    #[error("the result file has {0} bytes; {RESULT_MAX} are allowed")]
    TooLarge(u64),
    /// What it left is not the document.
    #[error("the result file is malformed: {0}")]
    Malformed(String),
    /// It cannot be read.
    #[error("cannot read the result file")]
    Io(#[from] io::Error),
}

/// Reads the result that a program left at `path`. Links are not followed, other than plain files are not opened, and
/// never more than [`RESULT_MAX`] bytes are read: the program is not trusted. Secrets are taken out of every text in it, as they are out
/// of the log: most of them are published.
///
/// # Errors
/// There is none, or it cannot be taken; nothing is half-read.
pub fn read_result(path: &Path, redactor: &Redactor) -> Result<ResultDocument, ResultError> {
    let mut document = read_value(path)?;
    redact(&mut document, redactor);
    let mut result = result_of(document)?;
    if result.summary.chars().count() > SUMMARY_MAX {
        result.summary = result.summary.chars().take(SUMMARY_MAX).collect();
    }
    if let Some(question) = &mut result.clarification {
        *question = question.trim().chars().take(SUMMARY_MAX).collect();
    }
    // It becomes an argument of the next round's program.
    result.session = result.session.filter(|name| {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/".contains(&byte);
        name.len() <= SESSION_MAX && name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.bytes().all(is_plain)
    });
    Ok(result)
}

/// Whether a result could be read from `path`.
pub(super) fn has_result(path: &Path) -> bool {
    read_value(path).and_then(result_of).is_ok()
}

/// Reads what a program says at `path` that it has used so far, as carefully as its result. What is no such document says nothing.
#[must_use]
pub(super) fn read_usage(path: &Path, redactor: &Redactor) -> Option<Usage> {
    let mut document = read_value(path).ok()?;
    redact(&mut document, redactor);
    parsed(document).ok()
}

/// As [`read_usage`], in numbers alone: nothing in it needs to be redacted.
#[must_use]
pub(super) fn count_usage(path: &Path) -> Option<Usage> {
    let usage: Usage = read_value(path).and_then(parsed).ok()?;
    Some(Usage { model: None, ..usage })
}

fn result_of(document: Value) -> Result<ResultDocument, ResultError> {
    let result: ResultDocument = parsed(document)?;
    if result.schema == 1 { Ok(result) } else { Err(ResultError::Malformed(format!("schema {} is not 1", result.schema))) }
}

fn parsed<T: DeserializeOwned>(document: Value) -> Result<T, ResultError> {
    serde_json::from_value(document).map_err(malformed)
}

fn malformed(error: serde_json::Error) -> ResultError {
    ResultError::Malformed(error.to_string().chars().take(FLAW_MAX).collect())
}

/// Takes secrets out of every text, before anything is made of it: also an error says what it found.
fn redact(document: &mut Value, redactor: &Redactor) {
    match document {
        Value::String(text) => *text = redactor.redact_text(text),
        Value::Array(parts) => parts.iter_mut().for_each(|part| redact(part, redactor)),
        Value::Object(fields) => fields.values_mut().for_each(|value| redact(value, redactor)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn read_value(path: &Path) -> Result<Value, ResultError> {
    let file = match plain_file::open(path) {
        Ok(found) => found.ok_or(ResultError::NotAFile)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(ResultError::Missing),
        Err(error) => return Err(error.into()),
    };
    let mut bytes = Vec::new();
    (&file).take(RESULT_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > RESULT_MAX {
        return Err(ResultError::TooLarge(file.metadata()?.len().max(bytes.len() as u64)));
    }
    serde_json::from_slice(&bytes).map_err(malformed)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::symlink;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, mpsc};
    use std::thread;
    use std::time::Duration;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    fn check(make: impl FnOnce(&Path), expected: Result<bool, &str>) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("result.json");
        make(&path);
        let found = read_result(&path, &Redactor::new([""; 0])).map(|result| result.ok).map_err(|error| error.to_string());
        match expected {
            Ok(ok) => assert_eq!(found, Ok(ok)),
            Err(start) => assert!(found.as_ref().is_err_and(|text| text.starts_with(start)), "{found:?} is not {start}"),
        }
    }

    fn write(text: &str) -> impl FnOnce(&Path) {
        move |path| std::fs::write(path, text).expect("written")
    }

    #[test]
    fn a_session_is_a_name_that_can_be_no_option() {
        let check = |name: &str, expected: Option<&str>| {
            let dir = tempfile::tempdir().expect("a directory");
            let path = dir.path().join("result.json");
            std::fs::write(&path, serde_json::json!({ "schema": 1, "ok": true, "session": name }).to_string()).expect("written");
            let result = read_result(&path, &Redactor::new(["hunter2hunter2"])).expect("a result");
            assert_eq!(result.session.as_deref(), expected, "{name:?}");
        };
        check("2a16ba94-0b1c", Some("2a16ba94-0b1c"));
        check("--help", None);
        check("a b", None);
        check("", None);
        check("of-hunter2hunter2", None);
        check(&"a".repeat(201), None);
    }

    #[test]
    fn what_is_swapped_while_it_is_read_is_neither_followed_nor_waited_for() {
        let dir = tempfile::tempdir().expect("a directory");
        let (path, draft, pipe) = (dir.path().join("result.json"), dir.path().join("draft"), dir.path().join("pipe"));
        let document = |summary: &str| format!(r#"{{"schema":1,"ok":true,"summary":"{summary}"}}"#);
        fs::write(dir.path().join("elsewhere"), document("elsewhere")).expect("written");
        fs::write(dir.path().join("own"), document("own")).expect("written");
        mkfifo(&pipe, Mode::S_IRWXU).expect("made");
        let done = Arc::new(AtomicBool::new(false));
        let swapping = thread::spawn({
            let (dir, path, done) = (dir.path().to_owned(), path.clone(), done.clone());
            move || {
                while !done.load(Ordering::Relaxed) {
                    for put in [0, 1, 0, 2] {
                        let put = match put {
                            0 => fs::hard_link(dir.join("own"), &draft),
                            1 => symlink("elsewhere", &draft),
                            _ => fs::hard_link(&pipe, &draft),
                        };
                        put.and_then(|()| fs::rename(&draft, &path)).expect("swapped");
                        // Of two names of one file neither goes.
                        fs::remove_file(&draft).ok();
                    }
                }
            }
        });
        let (sender, read) = mpsc::channel();
        thread::spawn(move || {
            let redactor = Redactor::new([""; 0]);
            let all = (0..20_000).filter_map(|_| read_result(&path, &redactor).ok()).map(|result| result.summary);
            sender.send(all.collect::<Vec<_>>()).ok();
        });
        let read = read.recv_timeout(Duration::from_secs(60)).expect("nothing is waited for");
        done.store(true, Ordering::Relaxed);
        swapping.join().expect("swapped to the end");
        assert!(!read.is_empty() && read.iter().all(|summary| summary == "own"), "a link was followed");
    }

    #[test]
    fn only_a_small_plain_file_with_the_document_is_a_result() {
        check(write(r#"{"schema":1,"ok":true,"summary":"done"}"#), Ok(true));
        check(write(r#"{"schema":1,"ok":false}"#), Ok(false));
        check(|_| (), Err("no result file"));
        check(write(""), Err("the result file is malformed"));
        check(write(r#"{"schema":2,"ok":true}"#), Err("the result file is malformed: schema 2 is not 1"));
        check(write("ok"), Err("the result file is malformed"));
        check(|path| std::os::unix::fs::symlink("/etc/hostname", path).expect("linked"), Err("the result is not a plain file"));
        check(|path| std::fs::create_dir(path).expect("made"), Err("the result is not a plain file"));
        check(
            |path| File::create(path).and_then(|file| file.set_len(1 << 30)).expect("made"),
            Err("the result file has 1073741824 bytes"),
        );
    }
}
