//! `kind = "claude_code"`: Claude Code, by `claude -p --output-format stream-json`.
//!
//! Its events, as version 2.1 writes them: `system` (with `init`), `assistant` and `user` with the blocks of a message, `rate_limit_event`
//! with the moment of a limit's reset in seconds, and in the end `result` with the last message, usage and cost.

use std::collections::BTreeMap;

use serde_json::Value;

use super::adapter::{Abilities, Agent, AgentEnd, Flow, Reader, Report, Start};
use super::agent::{Log, Order};
use crate::clock::Timestamp;
use crate::job::completion::Usage;

pub(super) struct Claude;

pub(super) const TEMPLATE: &str = include_str!("prompts/task.md");

/// What an answer with this status is: the account's or the key's limit.
const TOO_MANY_REQUESTS: u64 = 429;

impl Agent for Claude {
    fn abilities(&self) -> Abilities {
        Abilities { edits: true, revises: true, resumes: true, reports_usage: true }
    }

    fn program(&self) -> &'static str {
        "claude"
    }

    fn template(&self) -> &'static str {
        TEMPLATE
    }

    fn start(&self, order: &Order, _env: &BTreeMap<String, String>) -> Start {
        let mut argv = order.program(self.program());
        // Who may do what is decided by the sandbox; nobody is there to be asked.
        let flags = ["-p", "--verbose", "--output-format", "stream-json", "--dangerously-skip-permissions"];
        argv.extend(flags.map(str::to_owned));
        argv.extend(order.model.iter().flat_map(|model| ["--model".to_owned(), model.clone()]));
        argv.extend(order.session.iter().flat_map(|session| ["--resume".to_owned(), session.clone()]));
        // What it costs is not among its events before the last one: it has to keep to that itself.
        argv.extend(order.cost_left.iter().flat_map(|left| ["--max-budget-usd".to_owned(), format!("{:.6}", left.dollars())]));
        argv.extend(order.extra_args.clone());
        // It refuses to skip permissions as root unless it is told that it runs in a sandbox.
        let fixed = [("IS_SANDBOX", "1"), ("DISABLE_AUTOUPDATER", "1"), ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1")];
        let mut env: Vec<_> = fixed.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        env.extend(order.endpoint.iter().map(|url| ("ANTHROPIC_BASE_URL".to_owned(), url.clone())));
        Start { argv, env, files: Vec::new(), stdin: order.prompt.clone() }
    }

    fn reader(&self, _env: &BTreeMap<String, String>) -> Box<dyn Reader> {
        Box::<Events>::default()
    }
}

#[derive(Debug, Default)]
struct Events {
    model: Option<String>,
    /// What each message so far is said to have used, read and written, by its id: a message comes block by block.
    messages: BTreeMap<String, (u64, u64)>,
    /// By the last word on its limits: whether one is met, and when that is reset.
    limit: Option<Option<Timestamp>>,
    report: Report,
}

impl Reader for Events {
    fn read(&mut self, event: &Value, log: &mut Log) -> Flow {
        match event["type"].as_str() {
            Some("system") => self.system(event, log),
            Some("assistant") => {
                self.count(&event["message"]);
                blocks(event).for_each(|block| said(block, log));
            }
            Some("user") => blocks(event).filter(|block| block["type"] == "tool_result").for_each(|block| came_back(block, log)),
            Some("rate_limit_event") => self.limit(&event["rate_limit_info"], log),
            Some("result") => {
                self.result(event);
                return Flow::Over;
            }
            _ => {}
        }
        Flow::More
    }

    fn report(&self) -> Report {
        Report { usage: self.report.usage.clone().or_else(|| self.so_far()), ..self.report.clone() }
    }
}

impl Events {
    fn system(&mut self, event: &Value, log: &mut Log) {
        match event["subtype"].as_str() {
            Some("init") => {
                self.model = event["model"].as_str().map(str::to_owned);
                self.report.session = event["session_id"].as_str().map(str::to_owned);
                let text = |key: &str| event[key].as_str().unwrap_or("unknown").to_owned();
                log.note(&format!(
                    "claude {}, model {}, session {}",
                    text("claude_code_version"),
                    text("model"),
                    text("session_id")
                ));
            }
            Some("api_retry") => {
                let (attempt, wait) = (event["attempt"].as_u64().unwrap_or(0), event["retry_delay_ms"].as_f64().unwrap_or(0.0));
                let status = event["error_status"].as_u64().map_or_else(String::new, |status| format!(" with {status}"));
                log.note(&format!(
                    "the model's server refused{status}; asking again in {:.1} s, for the {attempt}. time",
                    wait / 1000.0
                ));
            }
            _ => {}
        }
    }

    fn limit(&mut self, info: &Value, log: &mut Log) {
        let Some(status) = info["status"].as_str() else { return };
        if status != "rejected" {
            // It was let through since: what fails it later is something else.
            self.limit = None;
            return;
        }
        let resets_at = info["resetsAt"].as_i64().map(|seconds| Timestamp(seconds.saturating_mul(1000)));
        let until = resets_at.map_or_else(String::new, |at| format!(" until {at}"));
        log.note(&format!("usage limit{until}"));
        self.limit = Some(resets_at);
    }

    fn count(&mut self, message: &Value) {
        if let (Some(id), Some(_)) = (message["id"].as_str(), message["usage"].as_object()) {
            let (read, written) = tokens(&message["usage"]);
            let known = self.messages.entry(id.to_owned()).or_default();
            *known = (read.max(known.0), written.max(known.1));
        }
    }

    /// What it has used by its messages. What each has written is told when that has only begun.
    fn so_far(&self) -> Option<Usage> {
        let sum = |of: fn(&(u64, u64)) -> u64| self.messages.values().map(of).fold(0, u64::saturating_add);
        let (prompt_tokens, completion_tokens) = (sum(|message| message.0), sum(|message| message.1));
        let used = Usage { prompt_tokens, completion_tokens, cost_usd: None, model: self.model.clone() };
        (!self.messages.is_empty()).then_some(used)
    }

    fn result(&mut self, event: &Value) {
        // It leaves out the last message where it ends after that by what it may cost.
        let (read, written) = tokens(&event["usage"]);
        let so_far = self.so_far().unwrap_or_default();
        let (prompt_tokens, completion_tokens) = (read.max(so_far.prompt_tokens), written.max(so_far.completion_tokens));
        self.report.usage = Some(Usage {
            prompt_tokens,
            completion_tokens,
            cost_usd: event["total_cost_usd"].as_f64(),
            model: self.model.clone(),
        });
        let subtype = event["subtype"].as_str().unwrap_or("no subtype");
        let errors = event["errors"].as_array().into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>().join("; ");
        let said = event["result"].as_str().map(str::to_owned).filter(|text| !text.is_empty());
        let said = said.or_else(|| Some(errors).filter(|text| !text.is_empty())).unwrap_or_else(|| subtype.to_owned());
        let failed = event["is_error"].as_bool().unwrap_or(false) || subtype != "success";
        let limited = event["api_error_status"].as_u64() == Some(TOO_MANY_REQUESTS) || self.limit.is_some();
        self.report.end = Some(match (failed, limited) {
            (false, _) => AgentEnd::Done(said),
            (true, true) => AgentEnd::UsageLimit(said, self.limit.flatten()),
            (true, false) => AgentEnd::Failed(said),
        });
    }
}

/// How many were read, from wherever, and written.
fn tokens(usage: &Value) -> (u64, u64) {
    let count = |key: &str| usage[key].as_u64().unwrap_or(0);
    let read = ["input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens"].map(count);
    (read.into_iter().fold(0, u64::saturating_add), count("output_tokens"))
}

/// The blocks of a message, whose content may also be one text.
fn blocks(event: &Value) -> impl Iterator<Item = &Value> {
    event["message"]["content"].as_array().into_iter().flatten()
}

fn said(block: &Value, log: &mut Log) {
    let input = &block["input"];
    match (block["type"].as_str(), block["name"].as_str()) {
        (Some("text"), _) => log.said(block["text"].as_str().unwrap_or("")),
        (Some("tool_use"), Some("Bash")) => log.ran(input["command"].as_str().unwrap_or("")),
        (Some("tool_use"), Some(tool)) => {
            let telling = ["file_path", "notebook_path", "pattern", "path", "url", "query", "description"];
            log.used(tool, telling.iter().find_map(|key| input[*key].as_str()).unwrap_or(""));
        }
        _ => {}
    }
}

fn came_back(block: &Value, log: &mut Log) {
    let failed = block["is_error"].as_bool().unwrap_or(false);
    let texts = block["content"].as_array().into_iter().flatten().filter_map(|part| part["text"].as_str());
    let text = block["content"].as_str().map_or_else(|| texts.collect::<Vec<_>>().join("\n"), str::to_owned);
    log.came_back(&text, failed);
}

#[cfg(test)]
mod tests {
    use super::super::agent::read_all;
    use super::*;

    /// What version 2.1.197 wrote, shortened where it is long.
    const WROTE: &str = r#"
{"type":"system","subtype":"init","session_id":"s","model":"claude-sonnet-4-5","claude_code_version":"2.1.197"}
{"type":"assistant","message":{"content":[{"type":"tool_use","id":"t","name":"Bash","input":{"command":"echo hi > new.txt; ls"}}]}}
{"type":"user","message":{"role":"user","content":[{"tool_use_id":"t","type":"tool_result","content":"new.txt","is_error":false}]}}
{"type":"assistant","message":{"content":[{"type":"tool_use","id":"t","name":"Edit","input":{"file_path":"/a/b.rs","old_string":"x"}}]}}
{"type":"user","message":{"role":"user","content":[{"tool_use_id":"t","type":"tool_result","content":[{"type":"text","text":"no such text"}],"is_error":true}]}}
{"type":"assistant","message":{"content":[{"type":"text","text":"All done.\n\nI made a file."}]}}
{"type":"result","subtype":"success","is_error":false,"api_error_status":null,"result":"All done.\n\nI made a file.","total_cost_usd":0.001512,"usage":{"input_tokens":200,"cache_creation_input_tokens":0,"cache_read_input_tokens":40,"output_tokens":60}}
"#;

    #[test]
    fn its_events_read_as_a_person_would_tell_them() {
        let (log, report) = read_all(&Claude, WROTE);
        insta::assert_snapshot!(log, @r"
        [claude 2.1.197, model claude-sonnet-4-5, session s]
        $ echo hi > new.txt; ls
          | new.txt
        * Edit /a/b.rs
          ! no such text
        All done.

        I made a file.
        ");
        assert_eq!(report.end, Some(AgentEnd::Done("All done.\n\nI made a file.".to_owned())));
        let usage = report.usage.expect("usage");
        assert_eq!((usage.prompt_tokens, usage.completion_tokens, usage.cost_usd), (240, 60, Some(0.001512)));
        assert_eq!(usage.model.as_deref(), Some("claude-sonnet-4-5"));
    }

    #[test]
    fn what_it_has_used_is_known_by_its_messages_each_of_which_counts_once() {
        let so_far = r#"
{"type":"assistant","message":{"id":"m1","usage":{"input_tokens":100,"cache_read_input_tokens":20,"output_tokens":1},"content":[]}}
{"type":"assistant","message":{"id":"m1","usage":{"input_tokens":100,"cache_read_input_tokens":20,"output_tokens":1},"content":[]}}
{"type":"assistant","message":{"id":"m2","usage":{"input_tokens":300,"output_tokens":4},"content":[]}}"#;
        let used = |events: &str| {
            let usage = read_all(&Claude, events).1.usage.expect("usage");
            (usage.prompt_tokens, usage.completion_tokens)
        };
        assert_eq!(used(so_far), (420, 5));
        // It counts the last message only once that was answered.
        let over = r#"{"type":"result","subtype":"error_max_budget_usd","is_error":true,"total_cost_usd":0.0015,"usage":{"input_tokens":120,"output_tokens":30}}"#;
        assert_eq!(used(&format!("{so_far}\n{over}")), (420, 30));
    }

    #[test]
    fn a_usage_limit_is_told_from_a_failure_and_with_its_reset_where_that_is_said() {
        let limited = r#"
{"type":"rate_limit_event","rate_limit_info":{"status":"rejected","resetsAt":1795313098,"rateLimitType":"five_hour"}}
{"type":"result","subtype":"success","is_error":true,"api_error_status":429,"result":"You've hit your session limit · resets 2:04am (UTC)"}"#;
        let message = "You've hit your session limit · resets 2:04am (UTC)".to_owned();
        let (_, report) = read_all(&Claude, limited);
        assert_eq!(report.end, Some(AgentEnd::UsageLimit(message, Some(Timestamp(1_795_313_098_000)))));
        let unknown = r#"{"type":"result","subtype":"success","is_error":true,"api_error_status":429,"result":"quota"}"#;
        assert_eq!(read_all(&Claude, unknown).1.end, Some(AgentEnd::UsageLimit("quota".to_owned(), None)));
        let failed = r#"{"type":"result","subtype":"error_during_execution","is_error":true,"errors":["no such model"]}"#;
        assert_eq!(read_all(&Claude, failed).1.end, Some(AgentEnd::Failed("no such model".to_owned())));
        let limit = |status: &str| {
            format!(
                r#"{{"type":"rate_limit_event","rate_limit_info":{{"status":"{status}","resetsAt":1795313098,"rateLimitType":"five_hour"}}}}"#
            )
        };
        let after = |statuses: &[&str]| {
            let events = statuses.iter().map(|status| limit(status)).chain([failed.to_owned()]).collect::<Vec<_>>();
            read_all(&Claude, &events.join("\n")).1.end
        };
        let met = AgentEnd::UsageLimit("no such model".to_owned(), Some(Timestamp(1_795_313_098_000)));
        assert_eq!(after(&["allowed", "rejected"]), Some(met));
        for later in ["allowed", "allowed_warning"] {
            assert_eq!(after(&["rejected", later]), Some(AgentEnd::Failed("no such model".to_owned())));
        }
        assert_eq!(read_all(&Claude, "").1.end, None);
    }
}
