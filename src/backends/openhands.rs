//! `kind = "openhands"`: an agent of the OpenHands SDK, by a Python that has `openhands-sdk` and `openhands-tools`.
//!
//! The SDK is a library without a program of its own: `sawmill_openhands.py` is written into the slot, and its events are the SDK's
//! as they are, with a `Usage` and an `End` of ours. Models are LiteLLM's: `openai/…`, `anthropic/…`.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::adapter::{Abilities, Agent, AgentEnd, Flow, Reader, Report, Start};
use super::agent::{Log, Order, reset_after};
use super::config::BackendConfig;
use crate::clock::Timestamp;
use crate::job::completion::Usage;

pub(super) struct OpenHands;

const RUNNER: &str = include_str!("sawmill_openhands.py");

/// What the runner imports: most of its start is that.
const IMPORTS: &str = "import os; os.environ.update(OPENHANDS_SUPPRESS_BANNER='1', LITELLM_LOCAL_MODEL_COST_MAP='True'); import openhands.sdk, openhands.tools.preset.default, \
    openhands.tools.file_editor, openhands.tools.task_tracker, openhands.tools.terminal";

/// What an answer with this status is: the account's or the key's limit.
const TOO_MANY_REQUESTS: u64 = 429;

impl Agent for OpenHands {
    fn abilities(&self) -> Abilities {
        Abilities { edits: true, revises: true, resumes: false, reports_usage: true }
    }

    fn program(&self) -> &'static str {
        "openhands-python"
    }

    fn template(&self) -> &'static str {
        include_str!("prompts/task.md")
    }

    fn flaw(&self, config: &BackendConfig) -> Option<&'static str> {
        if config.model.is_none() {
            return Some("kind \"openhands\" needs model = \"provider/name\"");
        }
        let spare = !config.extra_args.is_empty();
        spare.then_some("kind \"openhands\" takes no extra_args; what its model is asked with is in variables of the SDK, LLM_…")
    }

    fn probe(&self) -> &'static [&'static str] {
        &["-c", "from importlib.metadata import version; print(version('openhands-sdk'))"]
    }

    fn warmup(&self, mut program: Vec<String>) -> Vec<String> {
        program.extend(["-c".to_owned(), IMPORTS.to_owned()]);
        program
    }

    fn start(&self, order: &Order, env: &BTreeMap<String, String>) -> Start {
        let home = Path::new(env.get("HOME").map_or(".", String::as_str)).join(".sawmill");
        let runner = home.join("sawmill_openhands.py");
        let mut argv = order.program(self.program());
        argv.push(runner.to_string_lossy().into_owned());
        let fixed = [
            ("LLM_MODEL", order.model.as_deref()),
            ("LLM_BASE_URL", order.endpoint.as_deref()),
            // Its own log says again what its events say.
            ("LOG_LEVEL", Some("ERROR")),
            ("PYTHONWARNINGS", Some("ignore")),
            // Its prices are those that it was released with; else it asks GitHub each time.
            ("LITELLM_LOCAL_MODEL_COST_MAP", Some("True")),
        ];
        let env = fixed.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned()))).collect();
        Start { argv, env, files: vec![(runner, RUNNER.to_owned())], stdin: order.prompt.clone() }
    }

    fn reader(&self, _env: &BTreeMap<String, String>) -> Box<dyn Reader> {
        Box::<Events>::default()
    }
}

#[derive(Debug, Default)]
struct Events {
    said: String,
    report: Report,
}

impl Reader for Events {
    fn read(&mut self, event: &Value, log: &mut Log) -> Flow {
        match event["kind"].as_str() {
            Some("MessageEvent") if event["source"] == "agent" => self.say(&text_of(&event["llm_message"]["content"]), log),
            Some("ActionEvent") => self.act(event, log),
            // What it finished with comes back as it was.
            Some("ObservationEvent") if event["tool_name"] != "finish" => {
                let seen = &event["observation"];
                let failed = seen["is_error"] == true || !matches!(seen["exit_code"].as_i64(), None | Some(0));
                log.came_back(&text_of(&seen["content"]), failed);
            }
            Some("AgentErrorEvent") => log.came_back(event["error"].as_str().unwrap_or("an error without words"), true),
            Some("Usage") => self.report.usage = used(event),
            Some("End") => {
                self.end(event, log);
                return Flow::Over;
            }
            _ => {}
        }
        Flow::More
    }

    fn report(&self) -> Report {
        self.report.clone()
    }
}

impl Events {
    fn say(&mut self, text: &str, log: &mut Log) {
        if !text.trim().is_empty() {
            text.clone_into(&mut self.said);
            log.said(text);
        }
    }

    fn act(&mut self, event: &Value, log: &mut Log) {
        self.say(&text_of(&event["thought"]), log);
        let action = &event["action"];
        let word = |key: &str| action[key].as_str().unwrap_or("");
        match (event["tool_name"].as_str().unwrap_or("a tool"), action["kind"].as_str()) {
            (_, Some("FinishAction")) => self.say(word("message"), log),
            (_, Some("TerminalAction")) => log.ran(word("command")),
            // What it asked for could not be read as an action of the tool.
            (tool, None) => log.used(tool, event["tool_call"]["arguments"].as_str().unwrap_or("")),
            (tool, Some(_)) => log.used(tool, format!("{} {}", word("command"), word("path")).trim()),
        }
    }

    fn end(&mut self, event: &Value, log: &mut Log) {
        self.report.usage = used(event);
        let error = &event["error"];
        self.report.end = Some(match (event["status"].as_str(), error["message"].as_str()) {
            (Some("finished"), None) => AgentEnd::Done(std::mem::take(&mut self.said)),
            (_, Some(message)) => {
                let said = message.lines().next().unwrap_or(message).to_owned();
                log.note(&said);
                if error["status"].as_u64() == Some(TOO_MANY_REQUESTS) {
                    AgentEnd::UsageLimit(said, reset_after(&error["headers"], Timestamp::now()))
                } else {
                    AgentEnd::Failed(said)
                }
            }
            (Some("stuck"), None) => AgentEnd::Failed("it gave up: it did the same again and again".to_owned()),
            (status, None) => AgentEnd::Failed(format!("it gave up: {}", status.unwrap_or("no status"))),
        });
    }
}

/// What it has used by one of our events.
fn used(event: &Value) -> Option<Usage> {
    let count = |key: &str| event[key].as_u64().unwrap_or(0);
    // It says 0 where it does not know the price.
    let cost_usd = event["cost"].as_f64().filter(|cost| *cost > 0.0);
    let model = event["model"].as_str().map(str::to_owned);
    let used = Usage { prompt_tokens: count("prompt_tokens"), completion_tokens: count("completion_tokens"), cost_usd, model };
    (used.prompt_tokens.saturating_add(used.completion_tokens) > 0).then_some(used)
}

/// The texts of a message's parts.
fn text_of(content: &Value) -> String {
    let parts = content.as_array().into_iter().flatten().filter_map(|part| part["text"].as_str());
    parts.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::super::agent::read_all;
    use super::*;

    /// What version 1.58.0 wrote, cut down to what is read.
    const WROTE: &str = r#"
{"source":"agent","kind":"SystemPromptEvent"}
{"source":"user","llm_message":{"role":"user","content":[{"type":"text","text":"Make the mean exact"}]},"kind":"MessageEvent"}
{"source":"agent","thought":[{"type":"text","text":"I look at the code first."}],"action":{"command":"cat calc.py","is_input":false,"kind":"TerminalAction"},"tool_name":"terminal","kind":"ActionEvent"}
{"source":"environment","tool_name":"terminal","observation":{"content":[{"type":"text","text":"\u001b[?2004ldef mean(values):\n\u001b[?2004h"}],"is_error":false,"exit_code":0,"kind":"TerminalObservation"},"kind":"ObservationEvent"}
{"source":"agent","thought":[],"action":{"command":"view","path":"/w/none.py","kind":"FileEditorAction"},"tool_name":"file_editor","kind":"ActionEvent"}
{"source":"environment","tool_name":"file_editor","observation":{"content":[{"type":"text","text":"The path does not exist."}],"is_error":true,"kind":"FileEditorObservation"},"kind":"ObservationEvent"}
{"source":"agent","thought":[],"action":{"command":"false","kind":"TerminalAction"},"tool_name":"terminal","kind":"ActionEvent"}
{"source":"environment","tool_name":"terminal","observation":{"content":[{"type":"text","text":"no"}],"is_error":false,"exit_code":1,"kind":"TerminalObservation"},"kind":"ObservationEvent"}
{"source":"agent","thought":[{"type":"text","text":""}],"action":{"message":"Divide exactly\n\nIt was rounded.","kind":"FinishAction"},"tool_name":"finish","kind":"ActionEvent"}
{"source":"environment","tool_name":"finish","observation":{"content":[{"type":"text","text":"Divide exactly"}],"is_error":false,"kind":"FinishObservation"},"kind":"ObservationEvent"}
{"kind":"End","status":"finished","model":"openai/m","cost":0.0,"prompt_tokens":300,"completion_tokens":90}
"#;

    #[test]
    fn its_events_read_as_a_person_would_tell_them() {
        let (log, report) = read_all(&OpenHands, WROTE);
        insta::assert_snapshot!(log, @r"
        I look at the code first.
        $ cat calc.py
          | def mean(values):
        * file_editor view /w/none.py
          ! The path does not exist.
        $ false
          ! no
        Divide exactly

        It was rounded.
        ");
        assert_eq!(report.end, Some(AgentEnd::Done("Divide exactly\n\nIt was rounded.".to_owned())));
        let usage = Usage { prompt_tokens: 300, completion_tokens: 90, cost_usd: None, model: Some("openai/m".to_owned()) };
        assert_eq!(report.usage, Some(usage));
    }

    #[test]
    fn what_it_has_used_is_known_while_it_runs() {
        let event = r#"{"kind":"Usage","model":"openai/m","cost":0.5,"prompt_tokens":100,"completion_tokens":30}"#;
        let usage = read_all(&OpenHands, event).1.usage.expect("usage");
        assert_eq!((usage.prompt_tokens, usage.completion_tokens, usage.cost_usd), (100, 30, Some(0.5)));
    }

    #[test]
    fn a_usage_limit_is_told_from_a_failure_and_with_its_reset_where_that_is_said() {
        let end = |line: &str| read_all(&OpenHands, line).1.end.expect("an end");
        let limited = r#"{"kind":"End","status":"error","error":{"message":"Rate limit\nmore","status":429,"headers":{"retry-after":"60"}}}"#;
        assert!(matches!(end(limited), AgentEnd::UsageLimit(said, Some(_)) if said == "Rate limit"));
        let failed = r#"{"kind":"End","status":"error","error":{"message":"no such model","status":404,"headers":{}}}"#;
        assert_eq!(end(failed), AgentEnd::Failed("no such model".to_owned()));
        let stuck = r#"{"kind":"End","status":"stuck"}"#;
        assert_eq!(end(stuck), AgentEnd::Failed("it gave up: it did the same again and again".to_owned()));
    }
}
