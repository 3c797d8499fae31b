//! `kind = "miniswe"`: mini-SWE-agent, by its program `mini` with an agent class of ours that writes each message as an event.
//!
//! Version 2.4 has no events of its own, but takes the class of its agent by name: `sawmill_agent.py` is written into the slot and found by
//! `PYTHONPATH`, so that any installation of it will do. Models are LiteLLM's: `openai/…`, `anthropic/…`.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use super::adapter::{Abilities, Agent, AgentEnd, Flow, Reader, Report, Start};
use super::agent::{Log, Order, reset_after};
use super::config::BackendConfig;
use crate::clock::Timestamp;
use crate::job::completion::Usage;

pub(super) struct MiniSwe;

pub(super) const TEMPLATE: &str = include_str!("prompts/miniswe.md");

const AGENT: &str = include_str!("sawmill_agent.py");

/// How long one command of the agent's may take, in seconds; its own default is 30, which few test suites keep.
const COMMAND_SECONDS: u32 = 600;

/// Its program imports what it needs only once it has a task. The Python that it runs with is beside it.
const IMPORTS: &str = "MSWEA_SILENT_STARTUP=1 LITELLM_LOCAL_MODEL_COST_MAP=True exec \"$(dirname \"$(readlink -f \"$(command -v \"$0\")\")\")/python3\" -c 'import minisweagent.run.mini, \
    minisweagent.models.litellm_model, minisweagent.environments.local, minisweagent.agents.interactive'";

/// What an answer with this status is: the account's or the key's limit.
const TOO_MANY_REQUESTS: u64 = 429;

impl Agent for MiniSwe {
    fn abilities(&self) -> Abilities {
        Abilities { edits: true, revises: true, resumes: false, reports_usage: true }
    }

    fn program(&self) -> &'static str {
        "mini"
    }

    fn template(&self) -> &'static str {
        TEMPLATE
    }

    fn flaw(&self, config: &BackendConfig) -> Option<&'static str> {
        config.model.is_none().then_some("kind \"miniswe\" needs model = \"provider/name\"")
    }

    fn probe(&self) -> &'static [&'static str] {
        // It has no --version, and says it with whatever it does.
        &["--help"]
    }

    fn warmup(&self, program: Vec<String>) -> Vec<String> {
        ["sh", "-c", IMPORTS].into_iter().map(str::to_owned).chain(program).collect()
    }

    fn start(&self, order: &Order, env: &BTreeMap<String, String>) -> Start {
        let home = Path::new(env.get("HOME").map_or(".", String::as_str)).join(".sawmill");
        let task = home.join("task.yaml");
        // A file, because one argument is at most 128 KiB. JSON is YAML too.
        let mut config = json!({
            "run": { "task": order.prompt },
            // Budgets are the queue's affair.
            "agent": { "cost_limit": 0 },
            "environment": { "timeout": COMMAND_SECONDS },
        });
        if let Some(endpoint) = &order.endpoint {
            config["model"] = json!({ "model_kwargs": { "api_base": endpoint } });
        }
        let mut argv = order.program(self.program());
        argv.extend(
            ["-y", "--exit-immediately", "--agent-class", "sawmill_agent.Agent", "-c", "mini.yaml", "-c"].map(str::to_owned),
        );
        argv.push(task.to_string_lossy().into_owned());
        argv.extend(order.model.iter().flat_map(|model| ["--model".to_owned(), model.clone()]));
        argv.extend(order.extra_args.clone());
        let path = home.to_string_lossy().into_owned();
        let path = env.get("PYTHONPATH").map_or_else(|| path.clone(), |theirs| format!("{path}:{theirs}"));
        let fixed = [
            ("PYTHONPATH", path.as_str()),
            ("MSWEA_CONFIGURED", "true"),
            ("MSWEA_SILENT_STARTUP", "1"),
            ("MSWEA_COST_TRACKING", "ignore_errors"),
            // Its prices are those that it was released with; else it asks GitHub each time.
            ("LITELLM_LOCAL_MODEL_COST_MAP", "True"),
        ];
        let env = fixed.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let files = vec![(home.join("sawmill_agent.py"), AGENT.to_owned()), (task, config.to_string())];
        Start { argv, env, files, stdin: String::new() }
    }

    fn reader(&self, _env: &BTreeMap<String, String>) -> Box<dyn Reader> {
        Box::<Events>::default()
    }
}

#[derive(Debug, Default)]
struct Events {
    said: String,
    usage: Usage,
    calls: u32,
    end: Option<AgentEnd>,
}

impl Reader for Events {
    fn read(&mut self, event: &Value, log: &mut Log) -> Flow {
        match (event["type"].as_str(), event["role"].as_str()) {
            (Some("message"), Some("assistant")) => self.assistant(event, log),
            (Some("message"), Some("exit")) => {
                self.exit(event);
                return Flow::Over;
            }
            // The first two are what it is told.
            (Some("message"), Some("tool" | "user")) if self.calls > 0 => {
                let output = event["output"].as_str().or(event["content"].as_str()).unwrap_or("");
                log.came_back(output, event["returncode"].as_i64() != Some(0));
            }
            (Some("error"), _) => self.error(event, log),
            _ => {}
        }
        Flow::More
    }

    fn report(&self) -> Report {
        Report { end: self.end.clone(), usage: (self.calls > 0).then(|| self.usage.clone()), session: None }
    }
}

impl Events {
    fn assistant(&mut self, event: &Value, log: &mut Log) {
        self.calls += 1;
        let count = |key: &str| event["usage"][key].as_u64().unwrap_or(0);
        self.usage.prompt_tokens += count("prompt_tokens");
        self.usage.completion_tokens += count("completion_tokens");
        // It says 0 where it does not know the price.
        let cost = event["cost"].as_f64().filter(|cost| *cost > 0.0);
        self.usage.cost_usd = cost.map_or(self.usage.cost_usd, |cost| Some(self.usage.cost_usd.unwrap_or(0.0) + cost));
        self.usage.model = event["model"].as_str().map(str::to_owned).or(self.usage.model.take());
        if let Some(text) = event["content"].as_str().filter(|text| !text.trim().is_empty()) {
            text.clone_into(&mut self.said);
            log.said(text);
        }
        event["actions"].as_array().into_iter().flatten().filter_map(Value::as_str).for_each(|action| log.ran(action));
    }

    fn exit(&mut self, event: &Value) {
        let submission = event["submission"].as_str().map(str::trim).filter(|text| !text.is_empty());
        match event["exit_status"].as_str() {
            Some("Submitted") => self.end = Some(AgentEnd::Done(submission.unwrap_or(&self.said).to_owned())),
            // What raised it has been told already.
            _ if self.end.is_some() => {}
            status => self.end = Some(AgentEnd::Failed(format!("it gave up: {}", status.unwrap_or("no status")))),
        }
    }

    fn error(&mut self, event: &Value, log: &mut Log) {
        let message = event["message"].as_str().unwrap_or("no message");
        let said = message.lines().next().unwrap_or(message).to_owned();
        log.note(&said);
        self.end = Some(if event["status"].as_u64() == Some(TOO_MANY_REQUESTS) {
            AgentEnd::UsageLimit(said, reset_after(&event["headers"], Timestamp::now()))
        } else {
            AgentEnd::Failed(said)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::agent::read_all;
    use super::*;

    /// What the agent class writes under version 2.4.6.
    const WROTE: &str = r#"
{"sawmill":1,"type":"message","role":"system","content":"You are a helpful assistant.","actions":[]}
{"sawmill":1,"type":"message","role":"user","content":"Please solve this issue","actions":[]}
{"sawmill":1,"type":"message","role":"assistant","content":"I make a file.","actions":["echo hi > new.txt; ls"],"cost":0.0,"model":"m","usage":{"prompt_tokens":100,"completion_tokens":30}}
{"sawmill":1,"type":"message","role":"tool","content":"{}","actions":[],"output":"new.txt\n","returncode":0}
{"sawmill":1,"type":"message","role":"assistant","content":"Add a file","actions":["echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"],"cost":0.5,"model":"m","usage":{"prompt_tokens":200,"completion_tokens":10}}
{"sawmill":1,"type":"message","role":"exit","content":"","actions":[],"exit_status":"Submitted","submission":""}
"#;

    #[test]
    fn its_events_read_as_a_person_would_tell_them() {
        let (log, report) = read_all(&MiniSwe, WROTE);
        insta::assert_snapshot!(log, @r"
        I make a file.
        $ echo hi > new.txt; ls
          | new.txt
        Add a file
        $ echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT
        ");
        assert_eq!(report.end, Some(AgentEnd::Done("Add a file".to_owned())));
        let usage = Usage { prompt_tokens: 300, completion_tokens: 40, cost_usd: Some(0.5), model: Some("m".to_owned()) };
        assert_eq!(report.usage, Some(usage));
    }

    #[test]
    fn a_usage_limit_is_told_from_a_failure_and_with_its_reset_where_that_is_said() {
        let end = |error: &str| {
            let exit = r#"{"type":"message","role":"exit","exit_status":"RateLimitError"}"#;
            read_all(&MiniSwe, &format!("{error}\n{exit}")).1.end.expect("an end")
        };
        let limited = r#"{"type":"error","message":"Rate limit\nmore","status":429,"headers":{"retry-after":"60"}}"#;
        assert!(matches!(end(limited), AgentEnd::UsageLimit(said, Some(_)) if said == "Rate limit"));
        let unknown = r#"{"type":"error","message":"Rate limit","status":429,"headers":{}}"#;
        assert!(matches!(end(unknown), AgentEnd::UsageLimit(_, None)));
        let failed = r#"{"type":"error","message":"no such model","status":404,"headers":{}}"#;
        assert_eq!(end(failed), AgentEnd::Failed("no such model".to_owned()));
        let gave_up = r#"{"type":"message","role":"exit","exit_status":"RepeatedFormatError"}"#;
        assert_eq!(read_all(&MiniSwe, gave_up).1.end, Some(AgentEnd::Failed("it gave up: RepeatedFormatError".to_owned())));
    }
}
