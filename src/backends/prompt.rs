//! What an agent is told: a template, filled with the document that a job's program gets.
//!
//! The one rule: a template that cannot be read, or that names what there is not, is an error and never an empty place in a prompt.

use minijinja::{Environment, UndefinedBehavior};

use super::protocol::SpecDocument;

/// Why there is nothing to tell.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the prompt template is wrong: {0}")]
pub struct PromptError(String);

/// Checks that a template can be read.
pub(super) fn check(template: &str) -> Result<(), PromptError> {
    environment(template).map(|_| ())
}

/// Whether an agent may ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Questions {
    /// It may, and somebody will answer.
    Asked,
    /// It may not: nobody answers.
    Refused,
}

/// Fills a template. It may use the fields of the document; those that a document leaves out are none.
pub(super) fn fill(template: &str, document: &SpecDocument, questions: Questions) -> Result<String, PromptError> {
    let environment = environment(template)?;
    let mut values = serde_json::to_value(document).map_err(|error| PromptError(error.to_string()))?;
    if let Some(fields) = values.as_object_mut() {
        for left_out in ["instruction", "command", "acceptance", "inputs", "previous", "revision", "answers"] {
            fields.entry(left_out).or_insert(serde_json::Value::Null);
        }
        fields.insert("questions".to_owned(), (questions == Questions::Asked).into());
    }
    let filled = environment
        .get_template(NAME)
        .and_then(|template| template.render(minijinja::value::Serde(values)))
        .map_err(|error| sentence(&error))?;
    Ok(filled.trim().to_owned() + "\n")
}

/// What is told in a session that has the task and the work in it.
pub(super) fn revise(document: &SpecDocument) -> Result<String, PromptError> {
    let mut document = document.clone();
    if let Some(revision) = &mut document.revision {
        revision.diff = None;
    }
    // The session knows already.
    fill(REVISION, &document, Questions::Refused)
}

/// What is told to who knows nothing of the work that is to be revised.
pub(super) fn begin_anew(template: &str, document: &SpecDocument, questions: Questions) -> Result<String, PromptError> {
    Ok(format!("{}\n{}", fill(template, document, questions)?, fill(REVISION, document, questions)?))
}

const REVISION: &str = include_str!("prompts/revision.md");

const NAME: &str = "prompt";

fn environment(template: &str) -> Result<Environment<'_>, PromptError> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.add_template(NAME, template).map_err(|error| sentence(&error))?;
    Ok(environment)
}

fn sentence(error: &minijinja::Error) -> PromptError {
    let line = error.line().map_or_else(String::new, |line| format!(" in line {line}"));
    PromptError(format!("{}{line}{}", error.kind(), error.detail().map_or_else(String::new, |detail| format!(": {detail}"))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::ids::{AttemptNo, JobId};
    use crate::job::spec::Task;
    use crate::job::{Answer, PreviousAttempt};

    fn document() -> SpecDocument {
        let task = Task { instruction: Some("Say {{ hello }}".to_owned()), ..Task::default() };
        let job: JobId = "01a1fd92-9aff-72a5-a311-04340974bd74".parse().expect("an id");
        SpecDocument {
            schema: 1,
            job,
            attempt: AttemptNo(1),
            task,
            deadline_ms: Timestamp(0),
            budget: None,
            previous: None,
            revision: None,
            answers: vec![],
        }
    }

    #[test]
    fn the_own_templates_say_what_the_job_says_and_nothing_of_what_it_does_not() {
        for template in [super::super::claude::TEMPLATE, super::super::miniswe::TEMPLATE] {
            let bare = fill(template, &document(), Questions::Refused).expect("it can be filled");
            assert!(bare.starts_with("Say {{ hello }}\n\nYou work in"), "{bare}");
            assert!(bare.contains("Nobody answers questions") && !bare.contains("QUESTION:"), "{bare}");
            let asks = fill(template, &document(), Questions::Asked).expect("it can be filled");
            assert!(asks.contains("begins with the word QUESTION: and") && !asks.contains("Nobody answers"), "{asks}");
            let mut full = document();
            full.task.acceptance = vec!["it is said".to_owned()];
            full.task.inputs.insert("n".to_owned(), 7.into());
            let previous = r#"{"attempt":1,"outcome":{"class":"backend","message":"no idea"},"salvage":"27b865ca700f79bcb9273d1c7062e7b249ef4637","taken_over":false,"rejections":[{"class":"gate","message":"no","tree":null,"gates":[],"findings":[{"path":"a.rs","line":7,"rule":"secret","response":"reject","message":"a token"}],"critiques":[{"critic":"first","model":"m","tree":"27b865ca700f79bcb9273d1c7062e7b249ef4637","verdict":"passed","findings":[{"severity":"minor","must_fix":false,"message":"a blank"}],"partial":false,"duration_ms":1},{"critic":"second","model":"m","tree":"27b865ca700f79bcb9273d1c7062e7b249ef4637","verdict":"rejected","findings":[{"path":"b.rs","line":9,"severity":"critical","must_fix":true,"message":"it loses a line"},{"path":null,"line":null,"severity":"minor","must_fix":false,"message":"too long"}],"partial":false,"duration_ms":1}],"output":"2 failed","summary":"All done","usage":null}]}"#;
            full.previous = Some(serde_json::from_str::<PreviousAttempt>(previous).expect("a previous attempt"));
            full.answers = vec![Answer { question: "Which one?".to_owned(), answer: "The first.".to_owned() }];
            let text = fill(template, &full, Questions::Refused).expect("it can be filled");
            for part in [
                "- it is said\n",
                "\"n\": 7",
                "without success: no idea. What it left is in commit 27b865ca",
                "Rejected: a.rs:7: a token\n",
                "\nFound by critic second (critical, must be fixed): b.rs:9: it loses a line\nFound by critic second (minor): too long\n",
                "The end of what the gate printed that failed:\n2 failed\n",
                "It said of its work:\nAll done\n",
                "- Which one?\n  The first.\n",
            ] {
                assert!(text.contains(part), "{part} is not in {text}");
            }
            assert!(!text.contains("a blank"), "it passed: {text}");
        }
    }

    #[test]
    fn a_wrong_template_is_an_error_with_its_line() {
        let error = |template: &str| fill(template, &document(), Questions::Refused).expect_err("it is wrong").to_string();
        assert_eq!(check("{% if %}").expect_err("it is wrong").to_string(), error("{% if %}"));
        assert!(error("one\n{{ instructions }}").starts_with("the prompt template is wrong: undefined value in line 2"));
    }
}
