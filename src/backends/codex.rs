//! `kind = "openai_codex"`: Codex, by `codex exec --json`.
//!
//! Its events, as version 0.169 writes them: `thread.started`, `item.started` and `item.completed` with what it does, `turn.completed`
//! with the usage, `turn.failed` and `error` with a message. It tells limits in words only, and their reset by the local clock, to the minute.
//!
//! What it has used before its turn is over is in no event. It is in the file of its session, which it writes as it goes:
//! `$CODEX_HOME/sessions/YYYY/MM/DD/rollout-TIME-SESSION.jsonl`, with a `token_count` after each answer.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::adapter::{Abilities, Agent, AgentEnd, Flow, Reader, Report, Start};
use super::agent::{Log, Order};
use crate::clock::Timestamp;
use crate::job::completion::Usage;

pub(super) struct Codex;

const TEMPLATE: &str = include_str!("prompts/task.md");

/// The variables that its key is in: of `codex exec`, and of OpenAI's own programs.
const KEYS: [&str; 2] = ["CODEX_API_KEY", "OPENAI_API_KEY"];

/// What it says when the model's server has refused it several times over. Then it waits for as long as the server says, without a word.
const REFUSED: &str = "exceeded retry limit, last status: 429";

/// What it says of limits: of a plan's, of an API key's, and of a workspace's.
const LIMITS: [&str; 5] = ["usage limit", "Quota exceeded", "out of credits", "hit your spend cap", REFUSED];

/// What stands before the moment of a reset, at the beginning of a sentence or within one.
const AGAIN: &str = "try again at ";

/// Its sessions' files are in directories of year, month and day.
const DATED: u32 = 3;

/// The longest line of such a file that is read, in bytes; of what is longer only the rest is, which is no event.
const LINE_MAX: u64 = 16 * 1024 * 1024;

/// The reset is told without its seconds.
const TOLD_TO: Duration = Duration::from_secs(60);

impl Agent for Codex {
    fn abilities(&self) -> Abilities {
        Abilities { edits: true, revises: true, resumes: true, reports_usage: true }
    }

    fn program(&self) -> &'static str {
        "codex"
    }

    fn template(&self) -> &'static str {
        TEMPLATE
    }

    fn counts_sessions(&self) -> bool {
        true
    }

    fn start(&self, order: &Order, env: &BTreeMap<String, String>) -> Start {
        let mut argv = order.program(self.program());
        // The sandbox is ours; nobody is there to be asked.
        let flags = ["exec", "--json", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox"];
        argv.extend(flags.map(str::to_owned));
        argv.extend(order.model.iter().flat_map(|model| ["--model".to_owned(), model.clone()]));
        let key = KEYS.into_iter().find(|name| env.contains_key(*name)).unwrap_or(KEYS[1]);
        if let Some(endpoint) = &order.endpoint {
            // JSON's strings are TOML's too.
            let url = serde_json::Value::from(endpoint.as_str());
            let provider = format!("{{name=\"sawmill\",base_url={url},env_key=\"{key}\",wire_api=\"responses\"}}");
            argv.extend(["-c", "model_provider=\"sawmill\"", "-c"].map(str::to_owned));
            argv.push(format!("model_providers.sawmill={provider}"));
        }
        argv.extend(order.extra_args.clone());
        argv.extend(order.session.iter().flat_map(|session| ["resume".to_owned(), session.clone()]));
        argv.push("-".to_owned());
        let value = env.get(key).map(|value| (KEYS[0].to_owned(), value.clone()));
        Start { argv, env: value.into_iter().collect(), files: Vec::new(), stdin: order.prompt.clone() }
    }

    fn reader(&self, env: &BTreeMap<String, String>) -> Box<dyn Reader> {
        let home = env.get("CODEX_HOME").map(PathBuf::from);
        let home = home.or_else(|| env.get("HOME").map(|home| Path::new(home).join(".codex")));
        let sessions = home.map(|home| home.join("sessions"));
        Box::new(Events { session: SessionFile { sessions, ..SessionFile::default() }, ..Events::default() })
    }
}

#[derive(Debug, Default)]
struct Events {
    said: String,
    session: SessionFile,
    report: Report,
}

impl Reader for Events {
    fn read(&mut self, event: &Value, log: &mut Log) -> Flow {
        let item = &event["item"];
        match event["type"].as_str() {
            Some("thread.started") => {
                self.report.session = event["thread_id"].as_str().map(str::to_owned);
                log.note(&format!("codex, session {}", event["thread_id"].as_str().unwrap_or("unknown")));
            }
            Some("item.started") if item["type"] == "command_execution" => log.ran(&command(item)),
            Some("item.completed") => {
                self.item(item, log);
                let used = self.report.session.as_deref().and_then(|name| self.session.look(name));
                self.report.usage = used.or(self.report.usage.take());
            }
            Some("turn.completed") => {
                self.report.usage = Some(usage(&event["usage"]));
                self.report.end = Some(AgentEnd::Done(self.said.clone()));
                return Flow::Over;
            }
            Some("turn.failed") => {
                self.report.end = Some(failure(event["error"]["message"].as_str().unwrap_or("no message")));
                return Flow::Over;
            }
            Some("error") => {
                let message = event["message"].as_str().unwrap_or("no message");
                log.note(message);
                if message.contains(REFUSED) {
                    self.report.end = Some(failure(message));
                    return Flow::Over;
                }
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
    fn item(&mut self, item: &Value, log: &mut Log) {
        match item["type"].as_str() {
            Some("command_execution") => {
                let failed = item["exit_code"].as_i64() != Some(0);
                log.came_back(item["aggregated_output"].as_str().unwrap_or(""), failed);
            }
            Some("agent_message") => {
                self.said = item["text"].as_str().unwrap_or("").to_owned();
                log.said(&self.said);
            }
            Some("file_change") => {
                for change in item["changes"].as_array().into_iter().flatten() {
                    log.used(change["kind"].as_str().unwrap_or("change"), change["path"].as_str().unwrap_or(""));
                }
            }
            Some("mcp_tool_call") => log.used(item["tool"].as_str().unwrap_or("tool"), item["server"].as_str().unwrap_or("")),
            Some("web_search") => log.used("search", item["query"].as_str().unwrap_or("")),
            Some("error") => log.note(item["message"].as_str().unwrap_or("")),
            _ => {}
        }
    }
}

fn usage(said: &Value) -> Usage {
    let count = |key: &str| said[key].as_u64().unwrap_or(0);
    Usage { prompt_tokens: count("input_tokens"), completion_tokens: count("output_tokens"), cost_usd: None, model: None }
}

/// The file of a session, as far as it is read.
#[derive(Debug, Default)]
struct SessionFile {
    /// Where such files are; none where that is not known.
    sessions: Option<PathBuf>,
    file: Option<BufReader<File>>,
    /// A line that was not whole yet.
    begun: Vec<u8>,
}

impl SessionFile {
    /// What the session has used by what is new in its file; nothing where there is no such file, or nothing new is said of it.
    fn look(&mut self, name: &str) -> Option<Usage> {
        if self.file.is_none() {
            self.file = File::open(find(self.sessions.as_ref()?, &format!("-{name}.jsonl"), DATED)?).ok().map(BufReader::new);
        }
        let (file, mut found) = (self.file.as_mut()?, None);
        while file.by_ref().take(LINE_MAX).read_until(b'\n', &mut self.begun).ok()? > 0 && self.begun.ends_with(b"\n") {
            let line = std::mem::take(&mut self.begun);
            let event: Value = serde_json::from_slice(&line).unwrap_or_default();
            let payload = &event["payload"];
            if payload["type"] == "token_count" && payload["info"]["total_token_usage"].is_object() {
                found = Some(usage(&payload["info"]["total_token_usage"]));
            }
        }
        if self.begun.len() as u64 >= LINE_MAX {
            self.begun.clear();
        }
        found
    }
}

/// The file below a directory whose name ends so, at that depth.
fn find(dir: &Path, end: &str, depth: u32) -> Option<PathBuf> {
    let mut entries = fs::read_dir(dir).ok()?.flatten();
    if depth == 0 {
        return entries.find(|entry| entry.file_name().to_string_lossy().ends_with(end)).map(|entry| entry.path());
    }
    entries.find_map(|entry| find(&entry.path(), end, depth - 1))
}

/// The command of an item, without the shell that it is given to and the quotes that it is in for that.
fn command(item: &Value) -> String {
    let line = item["command"].as_str().unwrap_or("");
    let shells = ["/bin/bash -lc ", "bash -lc ", "/bin/sh -lc ", "/bin/sh -c "];
    let bare = shells.iter().find_map(|shell| line.strip_prefix(shell)).unwrap_or(line);
    unquoted(bare).unwrap_or_else(|| bare.to_owned())
}

/// A text that is one quoted word of a shell.
fn unquoted(text: &str) -> Option<String> {
    let within = |quote: char| text.strip_prefix(quote)?.strip_suffix(quote);
    if let Some(plain) = within('\'') {
        return (!plain.contains('\'')).then(|| plain.to_owned());
    }
    let (mut plain, mut rest) = (String::new(), within('"')?.chars());
    while let Some(c) = rest.next() {
        match c {
            '\\' => plain.push(rest.next()?),
            '"' => return None,
            c => plain.push(c),
        }
    }
    Some(plain)
}

fn failure(message: &str) -> AgentEnd {
    if LIMITS.iter().any(|words| message.contains(words)) {
        AgentEnd::UsageLimit(message.to_owned(), reset(message, &jiff::Zoned::now()))
    } else {
        AgentEnd::Failed(message.to_owned())
    }
}

/// When the minute after `try again at` is over: `2:03 AM` is today's, `Nov 25th, 2026 2:03 AM` another day's.
fn reset(message: &str, now: &jiff::Zoned) -> Option<Timestamp> {
    let at = message.to_ascii_lowercase().find(AGAIN)? + AGAIN.len();
    let said = message[at..].trim_end_matches('.').trim();
    let moment = match said.split_once(',') {
        None => now.date().to_datetime(jiff::civil::Time::strptime("%I:%M %p", said).ok()?),
        Some((day, rest)) => {
            let day = day.trim_end_matches(|c: char| c.is_ascii_alphabetic());
            jiff::civil::DateTime::strptime("%b %d, %Y %I:%M %p", format!("{day},{rest}")).ok()?
        }
    };
    Some(Timestamp(moment.to_zoned(now.time_zone().clone()).ok()?.timestamp().as_millisecond()) + TOLD_TO)
}

#[cfg(test)]
mod tests {
    use super::super::agent::read_all;
    use super::*;

    /// What version 0.169.0 wrote.
    const WROTE: &str = r#"
{"type":"thread.started","thread_id":"s"}
{"type":"turn.started"}
{"type":"item.started","item":{"id":"item_1","type":"command_execution","command":"/bin/bash -lc 'echo hi > new.txt; ls'","aggregated_output":"","exit_code":null,"status":"in_progress"}}
{"type":"item.completed","item":{"id":"item_1","type":"command_execution","command":"/bin/bash -lc 'echo hi > new.txt; ls'","aggregated_output":"new.txt\n","exit_code":0,"status":"completed"}}
{"type":"item.completed","item":{"id":"item_2","type":"agent_message","text":"All done."}}
{"type":"turn.completed","usage":{"input_tokens":200,"cached_input_tokens":40,"cache_write_input_tokens":0,"output_tokens":60,"reasoning_output_tokens":0}}
"#;

    #[test]
    fn its_events_read_as_a_person_would_tell_them() {
        let (log, report) = read_all(&Codex, WROTE);
        insta::assert_snapshot!(log, @r"
        [codex, session s]
        $ echo hi > new.txt; ls
          | new.txt
        All done.
        ");
        assert_eq!(report.end, Some(AgentEnd::Done("All done.".to_owned())));
        let usage = report.usage.expect("usage");
        assert_eq!((usage.prompt_tokens, usage.completion_tokens), (200, 60));
    }

    #[test]
    fn what_it_has_used_is_read_from_the_file_of_its_session_as_that_grows() {
        let home = tempfile::tempdir().expect("a directory");
        let day = home.path().join(".codex/sessions/2026/11/29");
        fs::create_dir_all(&day).expect("directories");
        let mut file = File::create(day.join("rollout-2026-11-29T12-58-18-s.jsonl")).expect("a file");
        File::create(day.join("rollout-2026-11-29T12-58-18-other.jsonl")).expect("a file");
        let env = BTreeMap::from([("HOME".to_owned(), home.path().to_string_lossy().into_owned())]);
        let (mut reader, mut log) = (Codex.reader(&env), Log::default());
        reader.read(&serde_json::json!({ "type": "thread.started", "thread_id": "s" }), &mut log);
        let mut used_after = |text: &str| {
            std::io::Write::write_all(&mut file, text.as_bytes()).expect("written");
            let item = serde_json::json!({ "type": "item.completed", "item": { "type": "agent_message", "text": "on" } });
            reader.read(&item, &mut log);
            reader.report().usage.map(|usage| (usage.prompt_tokens, usage.completion_tokens))
        };
        let count = |read: u64| {
            let usage = serde_json::json!({ "input_tokens": read, "output_tokens": 30 });
            let payload = serde_json::json!({ "type": "token_count", "info": { "total_token_usage": usage } });
            serde_json::json!({ "type": "event_msg", "payload": payload }).to_string()
        };
        assert_eq!(used_after(""), None);
        assert_eq!(used_after(&format!("{}\n", count(1))), Some((1, 30)));
        let (begun, rest) = (count(200), "\n{\"type\":\"turn_context\"}\nno event\n");
        assert_eq!(used_after(&begun[..40]), Some((1, 30)), "the line is not whole");
        assert_eq!(used_after(&format!("{}{rest}", &begun[40..])), Some((200, 30)));
        assert_eq!(used_after(""), Some((200, 30)));
    }

    #[test]
    fn a_usage_limit_is_told_from_a_failure_and_with_its_reset_where_that_is_said() {
        let end = |message: &str| {
            let event = serde_json::json!({ "type": "turn.failed", "error": { "message": message } });
            read_all(&Codex, &event.to_string()).1.end.expect("an end")
        };
        assert!(matches!(
            end("You’ve hit your usage limit. Upgrade to Pro or try again at 2:03 AM."),
            AgentEnd::UsageLimit(_, Some(_))
        ));
        assert!(matches!(end("You've hit your usage limit. Try again at 2:03 AM."), AgentEnd::UsageLimit(_, Some(_))));
        assert!(matches!(end("You've hit your usage limit. Try again later."), AgentEnd::UsageLimit(_, None)));
        assert!(matches!(end("Your workspace is out of credits. Add credits to continue."), AgentEnd::UsageLimit(_, None)));
        assert!(matches!(end("You hit your spend cap set in your workspace."), AgentEnd::UsageLimit(_, None)));
        assert!(matches!(end("Quota exceeded. Check your plan and billing details."), AgentEnd::UsageLimit(_, None)));
        assert!(matches!(end("no such model"), AgentEnd::Failed(_)));
        let refused =
            r#"{"type":"error","message":"Reconnecting... 1/5 (exceeded retry limit, last status: 429 Too Many Requests)"}"#;
        assert!(matches!(read_all(&Codex, refused).1.end, Some(AgentEnd::UsageLimit(_, None))));
    }

    #[test]
    fn a_command_reads_as_it_was_written() {
        let check = |line: &str, expected: &str| assert_eq!(command(&serde_json::json!({ "command": line })), expected);
        check("/bin/bash -lc 'cat a.py'", "cat a.py");
        check(r#"/bin/bash -lc "echo 'a' > \"b\" && printf 'c\\n'""#, r#"echo 'a' > "b" && printf 'c\n'"#);
        check("/bin/bash -lc ls", "ls");
        check(r#"/bin/bash -lc 'a'"'"'b'"#, r#"'a'"'"'b'"#);
        check("make test", "make test");
    }

    #[test]
    fn a_reset_is_read_by_the_clock_of_where_it_was_said() {
        let now: jiff::Zoned = "2026-11-22T01:00:00+01:00[Europe/Berlin]".parse().expect("a moment");
        let check = |said: &str, expected: Option<&str>| {
            assert_eq!(reset(said, &now).map(|at| at.to_string()).as_deref(), expected, "{said}");
        };
        check("You’ve hit it. Try again at 2:03 AM.", Some("2026-11-22T01:04:00.000Z"));
        check("or try again at Nov 25th, 2026 2:03 PM.", Some("2026-11-25T13:04:00.000Z"));
        check("try again later.", None);
    }
}
