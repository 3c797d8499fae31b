//! What a backend's end comes to: its verdict on the work, by how its command ended and by what it left in its files.

use std::path::Path;

use super::adapter::Adapter;
use super::config::ResultFrom;
use super::executor::Backend;
use super::protocol::{self, ResultDocument, ResultError};
use crate::clock::Timestamp;
use crate::job::OutcomeClass;
use crate::job::artifact::NamedFile;
use crate::job::completion::Usage;
use crate::redact::Redactor;

/// What a backend's end says of the work.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// The work is done.
    Done {
        /// What was done, in words.
        summary: Option<String>,
        /// The use of a model.
        usage: Option<Usage>,
        /// By what it knows this work again.
        session: Option<String>,
    },
    /// The work failed.
    Failed {
        /// The class, for the retry policy.
        class: OutcomeClass,
        /// One sentence.
        message: String,
    },
    /// The backend's credential has met a usage limit.
    UsageLimit {
        /// One sentence.
        message: String,
        /// When the limit is reset, where that is known.
        retry_at: Option<Timestamp>,
    },
    /// Something has to be answered before the work can be done.
    Clarification {
        /// What is asked.
        question: String,
    },
}

impl Backend {
    /// Judges an end with `exit` (the status, or what else ended it as a sentence) and the result file at `result`. No secret of the
    /// redactor's is in what the verdict says.
    #[must_use]
    pub fn judge(&self, exit: Result<i32, String>, result: &Path, redactor: &Redactor) -> Verdict {
        let document = protocol::read_result(result, redactor);
        match (self.result_from(), exit) {
            (_, Err(how)) => failed(format!("{} {how}", self.name)),
            (ResultFrom::ExitCode, Ok(0)) => match document {
                Ok(document) => said(&self.name, document),
                Err(ResultError::Missing) => Verdict::Done { summary: None, usage: None, session: None },
                Err(error) => failed(format!("{} exited with status 0, but {error}", self.name)),
            },
            (ResultFrom::ExitCode, Ok(status)) => {
                let why = self.explain(status).map_or_else(String::new, |why| format!(": {why}"));
                failed(format!("{} exited with status {status}{why}", self.name))
            }
            (ResultFrom::File, Ok(status)) => match document {
                Ok(document) if status == 0 || !document.ok => said(&self.name, document),
                Ok(_) => failed(format!("{} said that it was done but exited with status {status}", self.name)),
                Err(error) => failed(format!("{} exited with status {status}, and {error}", self.name)),
            },
        }
    }

    fn explain(&self, status: i32) -> Option<&'static str> {
        match self.config.kind.adapter() {
            Adapter::Plain(plain) => plain.explain(status),
            Adapter::Agent(_) => None,
        }
    }

    /// What it says that it used of a model, however it ended: in the result file at `result`, or else by what it said last of that, at
    /// `so_far`.
    #[must_use]
    pub fn usage(&self, result: &Path, so_far: &Path, redactor: &Redactor) -> Option<Usage> {
        let in_the_end = protocol::read_result(result, redactor).ok().and_then(|document| document.usage);
        in_the_end.or_else(|| protocol::read_usage(so_far, redactor))
    }

    /// What it says at `so_far` that it has used of a model, while it runs; not of which.
    #[must_use]
    pub fn usage_so_far(&self, so_far: &Path) -> Option<Usage> {
        protocol::count_usage(so_far)
    }

    /// Whether it has come to its end, as far as that is said by the result file at `result`: it may take a while to exit.
    #[must_use]
    pub fn has_ended(&self, result: &Path) -> bool {
        protocol::has_result(result)
    }

    /// The files that it wants kept, however it ended, by the result file at `result`.
    #[must_use]
    pub fn artifacts(&self, result: &Path, redactor: &Redactor) -> Vec<NamedFile> {
        protocol::read_result(result, redactor).map_or_else(|_| Vec::new(), |document| document.artifacts)
    }

    fn result_from(&self) -> ResultFrom {
        match self.config.kind.adapter() {
            Adapter::Plain(plain) => self.config.result.unwrap_or_else(|| plain.result_from()),
            Adapter::Agent(_) => ResultFrom::File,
        }
    }
}

fn said(name: &str, document: ResultDocument) -> Verdict {
    let summary = Some(document.summary.trim().to_owned()).filter(|text| !text.is_empty());
    let reported = |what: &str| summary.as_ref().map_or_else(|| format!("{name} {what}"), |why| format!("{name} {what}: {why}"));
    match document {
        ResultDocument { ok: true, usage, session, .. } => Verdict::Done { summary, usage, session },
        ResultDocument { retry_at: Some(at), .. } => {
            Verdict::UsageLimit { message: reported("met a usage limit"), retry_at: Some(at).filter(|at| at.0 > 0) }
        }
        ResultDocument { clarification: Some(question), .. } if !question.is_empty() => Verdict::Clarification { question },
        _ => failed(reported("reported failure")),
    }
}

fn failed(message: String) -> Verdict {
    Verdict::Failed { class: OutcomeClass::Backend, message }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backends::config::{BackendConfig, Kind};

    fn check(kind: Kind, exit: Result<i32, String>, result: Option<&str>, expected: &str) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("result.json");
        let backend = Backend { name: "b".to_owned(), config: BackendConfig::of(kind) };
        if let Some(text) = result {
            std::fs::write(&path, text).expect("written");
        }
        let found = match backend.judge(exit, &path, &Redactor::new(["hunter2hunter2"])) {
            Verdict::Done { summary, .. } => format!("done: {}", summary.unwrap_or_default()),
            Verdict::Failed { message, .. } => message,
            Verdict::Clarification { question } => format!("asks: {question}"),
            Verdict::UsageLimit { message, retry_at } => format!("{message}; {:?}", retry_at.map(|at| at.0)),
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn success_is_proven_and_not_claimed() {
        let ok = Some(r#"{"schema":1,"ok":true,"summary":"did it"}"#);
        let not_ok = Some(r#"{"schema":1,"ok":false,"summary":"no idea"}"#);
        check(Kind::Shell, Ok(0), None, "done: ");
        check(Kind::Shell, Ok(0), ok, "done: did it");
        check(Kind::Shell, Ok(0), not_ok, "b reported failure: no idea");
        check(Kind::Shell, Ok(3), ok, "b exited with status 3");
        check(Kind::Shell, Err("was ended by signal 9".to_owned()), ok, "b was ended by signal 9");
        check(Kind::Command, Ok(0), ok, "done: did it");
        check(Kind::Command, Ok(0), None, "b exited with status 0, and no result file");
        check(Kind::Command, Ok(1), ok, "b said that it was done but exited with status 1");
        check(Kind::Command, Ok(1), not_ok, "b reported failure: no idea");
    }

    #[test]
    fn no_secret_is_in_what_it_says() {
        let says = |ok: bool, more: &str| format!(r#"{{"schema":1,"ok":{ok},"summary":"key hunter2hunter2"{more}}}"#);
        check(Kind::Command, Ok(0), Some(&says(true, "")), "done: key [redacted]");
        check(Kind::Command, Ok(0), Some(&says(false, "")), "b reported failure: key [redacted]");
        check(Kind::Command, Ok(0), Some(&says(false, r#","retry_at":0"#)), "b met a usage limit: key [redacted]; None");
        let asks = says(false, r#","clarification":"hunter2hunter2?""#);
        check(Kind::Command, Ok(0), Some(&asks), "asks: [redacted]?");
        // Nor is it in what is told of a document that is none.
        let wrong = r#"{"schema":1,"ok":"hunter2hunter2"}"#;
        let flaw = "the result file is malformed: invalid type: string \"[redacted]\", expected a boolean";
        check(Kind::Command, Ok(0), Some(wrong), &format!("b exited with status 0, and {flaw}"));
    }

    #[test]
    fn who_asks_has_not_failed() {
        let asks = |question: &str| format!(r#"{{"schema":1,"ok":false,"summary":"unclear","clarification":"{question}"}}"#);
        check(Kind::Command, Ok(0), Some(&asks(" Which one? ")), "asks: Which one?");
        check(Kind::Command, Ok(0), Some(&asks(" ")), "b reported failure: unclear");
        let done = Some(r#"{"schema":1,"ok":true,"summary":"did it","clarification":"Was that right?"}"#);
        check(Kind::Command, Ok(0), done, "done: did it");
    }

    #[test]
    fn a_usage_limit_is_told_by_when_to_try_again() {
        let at = |at: &str| format!(r#"{{"schema":1,"ok":false,"summary":"5-hour limit","retry_at":{at}}}"#);
        check(Kind::Command, Ok(1), Some(&at("7")), "b met a usage limit: 5-hour limit; Some(7)");
        check(Kind::Shell, Ok(0), Some(&at("0")), "b met a usage limit: 5-hour limit; None");
        check(Kind::Claude, Ok(0), Some(&at("0")), "b met a usage limit: 5-hour limit; None");
        check(Kind::Command, Ok(0), Some(&at("null")), "b reported failure: 5-hour limit");
        let done = Some(r#"{"schema":1,"ok":true,"summary":"did it","retry_at":7}"#);
        check(Kind::Command, Ok(0), done, "done: did it");
    }
}
