//! One run of an agent, from its start to its result.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::json;

use super::events::Events;
use super::log::Log;
use super::order::Order;
use crate::backends::adapter::{Adapter, Agent, AgentEnd, Flow, Reader, Report, Start};
use crate::clock::Timestamp;
use crate::job::completion::Usage;

/// How long an agent may take to exit after its last event, or after it closed its output.
const LINGER: Duration = Duration::from_secs(5);

/// How long it may take to end after TERM.
const GRACE: Duration = Duration::from_secs(2);

/// How often it is looked whether it has exited while a process that it left behind holds its output.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How long the rest of its output may take to come from one that has exited without a last event: a host that is short of time is late
/// with it, and a process that it left behind may hold it for ever.
const DRAIN: Duration = Duration::from_secs(5);

/// The longest event that is read, in bytes; what is longer is cut there, and is no event any more.
const LINE_MAX: u64 = 16 * 1024 * 1024;

/// What a last message begins with that is a question, as agents are told.
const QUESTION: &str = "QUESTION:";

/// How many events may wait: an agent that writes faster than they are read waits too.
const WAITING: usize = 64;

/// Runs the agent that the document at the first argument orders, and keeps its events at the second. `env` is this process's own
/// environment. The exit status says whether a result could be left, and not what it is.
pub fn run(mut args: impl Iterator<Item = OsString>, env: &BTreeMap<String, String>) -> ExitCode {
    let (Some(order), Some(events)) = (args.next(), args.next()) else { return ExitCode::from(2) };
    let Some(result) = env.get("SAWMILL_RESULT") else { return ExitCode::from(2) };
    let result = Path::new(result);
    let left = Run::prepare(Path::new(&order), Path::new(&events), env)
        .and_then(|run| run.finish(result))
        .or_else(|why| leave(result, &Report { end: Some(AgentEnd::Failed(why)), ..Report::default() }));
    match left {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            // Nobody is left to tell where standard error does not take it.
            writeln!(io::stderr(), "{why}").ok();
            ExitCode::FAILURE
        }
    }
}

struct Run {
    agent: &'static dyn Agent,
    env: BTreeMap<String, String>,
    start: Start,
    events: Events,
    log: Log,
    /// Where it is said what it has used so far, and what was said there last.
    so_far: Option<PathBuf>,
    told: Option<Usage>,
    /// What it will say that it used, and has used before.
    before: Option<Usage>,
    /// Whether it may ask.
    questions: bool,
}

impl Run {
    fn prepare(order: &Path, events: &Path, env: &BTreeMap<String, String>) -> Result<Self, String> {
        let document = fs::read(order).map_err(|error| format!("cannot read the order at {}: {error}", order.display()))?;
        let order: Order = serde_json::from_slice(&document).map_err(|error| format!("the order is malformed: {error}"))?;
        let Adapter::Agent(agent) = order.kind.adapter() else { return Err(format!("{} is no agent", order.backend)) };
        let start = agent.start(&order, env);
        for (path, text) in &start.files {
            write_file(path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        }
        let events = Events::create(events).map_err(|error| format!("cannot keep events at {}: {error}", events.display()))?;
        let before = order.session.as_ref().and(order.session_usage).filter(|_| agent.counts_sessions());
        let so_far = env.get("SAWMILL_USAGE").map(PathBuf::from);
        let env = env.clone();
        Ok(Self { agent, env, start, events, log: Log::default(), so_far, told: None, before, questions: order.questions })
    }

    /// Runs it, and leaves at `result` what it came to: as soon as that is known, which may be a while before it has exited. Whatever it
    /// came to, the program that was started has ended when this returns.
    fn finish(mut self, result: &Path) -> Result<(), String> {
        let mut child = spawn(&self.start)?;
        // Before it reads anything it may write more than a pipe holds.
        let (stdin, text) = (child.stdin.take(), std::mem::take(&mut self.start.stdin));
        thread::spawn(move || {
            if let Some(mut stdin) = stdin {
                // One that does not read it, or not all of it, has its reasons.
                stdin.write_all(text.as_bytes()).ok();
            }
        });
        let lines = lines_of(child.stdout.take());
        let mut reader = self.agent.reader(&self.env);
        let read = self.read(&lines, reader.as_mut(), &mut child, result);
        let until = read.as_ref().ok().copied().flatten().unwrap_or_else(|| Instant::now() + LINGER);
        let status = end(&mut child, until, since(&read), &mut self.log);
        self.write_log()?;
        read?;
        let mut report = self.report(reader.as_ref());
        if report.end.is_none() {
            report.end = Some(AgentEnd::Failed(format!("it ended without a last event: {}", told(status?))));
        }
        leave(result, &report)
    }

    /// What it came to, as far as its events say that.
    fn report(&self, reader: &dyn Reader) -> Report {
        let report = reader.report();
        let end = if self.questions { report.end.map(asking) } else { report.end };
        Report { end, usage: self.of_this_run(report.usage), session: report.session }
    }

    /// Reads events until a while after the last one, or until no more can come. Answers when that while is over, where it began: what it
    /// came to is left at `result` by then.
    fn read(
        &mut self,
        lines: &Receiver<Vec<u8>>,
        reader: &mut dyn Reader,
        child: &mut Child,
        result: &Path,
    ) -> Result<Option<Instant>, String> {
        let (mut until, mut drained) = (None::<Instant>, None::<Instant>);
        loop {
            match lines.recv_timeout(LOOK_EVERY) {
                Ok(line) => {
                    self.events.keep(&line).map_err(|error| format!("cannot keep its events: {error}"))?;
                    let flow = match serde_json::from_slice(&line) {
                        Ok(event @ serde_json::Value::Object(_)) => reader.read(&event, &mut self.log),
                        _ => {
                            self.log.plain(&String::from_utf8_lossy(&line));
                            Flow::More
                        }
                    };
                    self.write_log()?;
                    self.tell_usage(reader)?;
                    if flow == Flow::Over {
                        leave(result, &self.report(reader))?;
                        until = until.or_else(|| Some(Instant::now() + LINGER));
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(until),
                // What mattered has come, and a process that it left behind may hold its output for ever.
                Err(RecvTimeoutError::Timeout) if until.is_some() && has_exited(child) => return Ok(until),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if until.is_none() && drained.is_none() && has_exited(child) {
                drained = Some(Instant::now() + DRAIN);
            }
            if until.or(drained).is_some_and(|over| over <= Instant::now()) {
                return Ok(until);
            }
        }
    }

    /// Leaves what it has used so far where the daemon looks for that, which may have to end it.
    fn tell_usage(&mut self, reader: &dyn Reader) -> Result<(), String> {
        let (Some(path), Some(usage)) = (&self.so_far, self.of_this_run(reader.report().usage)) else { return Ok(()) };
        if self.told.as_ref() != Some(&usage) {
            put(path, &json!(usage)).map_err(|error| format!("cannot say what it has used at {}: {error}", path.display()))?;
            self.told = Some(usage);
        }
        Ok(())
    }

    fn of_this_run(&self, usage: Option<Usage>) -> Option<Usage> {
        match &self.before {
            Some(before) => usage.map(|usage| usage.without(before)),
            None => usage,
        }
    }

    fn write_log(&mut self) -> Result<(), String> {
        let text = self.log.take();
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| format!("cannot write the log: {error}"))
    }
}

/// An end with a question for its last message is one that asks.
fn asking(end: AgentEnd) -> AgentEnd {
    match end {
        AgentEnd::Done(said) => match said.trim_start().strip_prefix(QUESTION).map(str::trim) {
            Some(question) if !question.is_empty() => AgentEnd::Asks(question.to_owned()),
            _ => AgentEnd::Done(said),
        },
        other => other,
    }
}

fn spawn(start: &Start) -> Result<Child, String> {
    let Some((program, arguments)) = start.argv.split_first() else { return Err("it names no program".to_owned()) };
    let mut command = Command::new(program);
    command.args(arguments).envs(start.env.iter().map(|(name, value)| (name, value)));
    // A group of its own, by which it is ended. Standard error is log as it is.
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).process_group(0);
    command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            format!("the program {program} was not found; install it there, or name it with command = [\"/path/to/{program}\"]")
        }
        _ => format!("the program {program} cannot be started: {error}"),
    })
}

fn lines_of(output: Option<impl Read + Send + 'static>) -> Receiver<Vec<u8>> {
    let (sender, receiver) = sync_channel(WAITING);
    thread::spawn(move || {
        let Some(output) = output else { return };
        let mut output = BufReader::new(output);
        loop {
            let mut line = Vec::new();
            match output.by_ref().take(LINE_MAX).read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            if line.last() == Some(&b'\n') {
                line.pop();
            }
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

fn has_exited(child: &mut Child) -> bool {
    matches!(child.try_wait(), Ok(Some(_)))
}

/// After what it had so long to exit, by how the reading of its events ended.
const fn since(read: &Result<Option<Instant>, String>) -> &'static str {
    match read {
        Ok(Some(_)) => "its last event",
        Ok(None) => "it closed its output, without a last event",
        Err(_) => "its events could not be kept any more",
    }
}

/// Waits until then for it to exit, and ends it with its group when it does not.
fn end(child: &mut Child, until: Instant, since: &str, log: &mut Log) -> Result<ExitStatus, String> {
    let failed = |error: io::Error| format!("cannot wait for it: {error}");
    if let Some(status) = exits_by(child, until).map_err(failed)? {
        return Ok(status);
    }
    log.note(&format!("it did not exit within {} s after {since}, and is ended", LINGER.as_secs()));
    let group = Pid::from_raw(child.id().cast_signed());
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        // It may have exited just now.
        killpg(group, signal).ok();
        if let Some(status) = exits_by(child, Instant::now() + GRACE).map_err(failed)? {
            return Ok(status);
        }
    }
    Err("it does not end".to_owned())
}

/// There is no wait for a child with a limit in the standard library: it is asked again and again.
fn exits_by(child: &mut Child, until: Instant) -> io::Result<Option<ExitStatus>> {
    loop {
        match child.try_wait()? {
            None if Instant::now() < until => thread::sleep(Duration::from_millis(10)),
            waited => return Ok(waited),
        }
    }
}

fn told(status: ExitStatus) -> String {
    status.code().map_or_else(|| status.to_string(), |code| format!("exit status {code}"))
}

fn write_file(path: &PathBuf, text: &str) -> io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)?;
    fs::write(path, text)
}

/// Leaves the result as the executor protocol has it.
fn leave(path: &Path, report: &Report) -> Result<(), String> {
    let end = report.end.clone().unwrap_or_else(|| AgentEnd::Failed("it came to no end".to_owned()));
    let (ok, summary, retry_at, clarification) = match end {
        AgentEnd::Done(summary) => (true, summary, None, None),
        AgentEnd::Asks(question) => (false, String::new(), None, Some(question)),
        AgentEnd::Failed(summary) => (false, summary, None, None),
        // 0 where it is not known when.
        AgentEnd::UsageLimit(summary, reset) => (false, summary, Some(reset.unwrap_or(Timestamp(0))), None),
    };
    let document = json!({ "schema": 1, "ok": ok, "summary": summary, "usage": report.usage, "retry_at": retry_at,
        "clarification": clarification, "session": report.session });
    put(path, &document).map_err(|error| format!("cannot leave the result at {}: {error}", path.display()))
}

/// Puts a document there whole: whoever looks finds the one before it, or this one.
fn put(path: &Path, document: &serde_json::Value) -> io::Result<()> {
    let draft = path.with_extension("new");
    fs::write(&draft, document.to_string())?;
    fs::rename(draft, path)
}

#[cfg(test)]
pub(in crate::backends) mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::backends::config::Kind;
    use crate::backends::protocol::{ResultDocument, read_result};
    use crate::redact::Redactor;

    /// What an agent's reader makes of these events: the log, and what the run came to.
    pub(in crate::backends) fn read_all(agent: &dyn Agent, events: &str) -> (String, Report) {
        let (mut log, mut reader) = (Log::default(), agent.reader(&BTreeMap::new()));
        for line in events.lines().filter(|line| !line.is_empty()) {
            reader.read(&serde_json::from_str(line).expect("an event"), &mut log);
        }
        (log.take(), reader.report())
    }

    fn an_order(kind: Kind) -> Order {
        Order {
            backend: "b".to_owned(),
            kind,
            command: Vec::new(),
            model: None,
            endpoint: None,
            extra_args: Vec::new(),
            session: None,
            session_usage: None,
            questions: true,
            cost_left: None,
            prompt: "do it".to_owned(),
        }
    }

    /// Runs a script in the place of Claude Code, and gives what is left: the result, the events, and how long it took.
    fn run_script(script: &str) -> (ResultDocument, String, Duration) {
        let dir = tempfile::tempdir().expect("a directory");
        let program = dir.path().join("claude");
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).expect("a program");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("rights");
        let order = Order { command: vec![program.to_string_lossy().into_owned()], ..an_order(Kind::Claude) };
        let (path, events) = (dir.path().join("agent.json"), dir.path().join("events.jsonl"));
        fs::write(&path, serde_json::to_vec(&order).expect("JSON")).expect("an order");
        let (begun, result) = (Instant::now(), dir.path().join("result.json"));
        Run::prepare(&path, &events, &BTreeMap::new()).and_then(|run| run.finish(&result)).expect("it ran");
        (
            read_result(&result, &Redactor::new([""; 0])).expect("a result"),
            fs::read_to_string(events).expect("events"),
            begun.elapsed(),
        )
    }

    /// Whether it did it, and what it said.
    fn end_of(script: &str) -> (bool, String) {
        let result = run_script(script).0;
        (result.ok, result.summary)
    }

    const LAST: &str = r#"echo '{"type":"result","subtype":"success","is_error":false,"result":"done"}'"#;

    #[test]
    fn an_agent_is_told_by_its_standard_input_which_is_closed_then() {
        let echo = r#"text=$(cat); printf '{"type":"result","subtype":"success","result":"told: %s"}\n' "$text""#;
        assert_eq!(end_of(echo), (true, "told: do it".to_owned()));
    }

    #[test]
    fn a_session_is_resumed_by_its_name_and_an_agent_that_counts_it_is_not_counted_twice() {
        let order = |kind: Kind| Order {
            command: vec!["sh".to_owned(), "-c".to_owned(), "cat > /dev/null; printf '%s' \"$USED\"".to_owned(), "sh".to_owned()],
            session: Some("s-1".to_owned()),
            session_usage: Some(Usage { prompt_tokens: 100, ..Usage::default() }),
            prompt: "better".to_owned(),
            ..an_order(kind)
        };
        let check = |kind: Kind, event: &str, flag: &str, expected: u64| {
            let dir = tempfile::tempdir().expect("a directory");
            let [path, events, result] = ["agent.json", "events.jsonl", "result.json"].map(|name| dir.path().join(name));
            fs::write(&path, serde_json::to_vec(&order(kind)).expect("JSON")).expect("an order");
            let mut run = Run::prepare(&path, &events, &BTreeMap::new()).expect("prepared");
            let at = run.start.argv.iter().position(|argument| argument == flag).expect("it resumes");
            assert_eq!(run.start.argv[at + 1], "s-1");
            run.start.env.push(("USED".to_owned(), event.to_owned()));
            run.finish(&result).expect("it ran");
            let usage = read_result(&result, &Redactor::new([""; 0])).expect("a result").usage.expect("usage");
            assert_eq!(usage.prompt_tokens, expected);
        };
        let codex = r#"{"type":"turn.completed","usage":{"input_tokens":300,"output_tokens":1}}"#;
        check(Kind::Codex, codex, "resume", 200);
        let claude = r#"{"type":"result","subtype":"success","result":"done","usage":{"input_tokens":300,"output_tokens":1}}"#;
        check(Kind::Claude, claude, "--resume", 300);
    }

    #[test]
    fn what_it_has_used_is_there_to_be_read_while_it_runs_and_its_result_before_it_has_exited() {
        let dir = tempfile::tempdir().expect("a directory");
        let [path, events, usage, result] =
            ["agent.json", "events.jsonl", "usage.json", "result.json"].map(|name| dir.path().join(name));
        // It goes on only once somebody could have read it, and exits only once somebody could know that it has ended.
        let said = r#"{"type":"assistant","message":{"id":"m","usage":{"input_tokens":70,"output_tokens":5},"content":[]}}"#;
        let waits = |file: &Path, word: &str| format!("until grep -q {word} {}; do sleep 0.1; done 2> /dev/null", file.display());
        let script = format!("cat > /dev/null; echo '{said}'; {}; {LAST}; {}", waits(&usage, "70"), waits(&result, "done"));
        let order = Order { command: ["sh", "-c", &script, "sh"].map(str::to_owned).to_vec(), ..an_order(Kind::Claude) };
        fs::write(&path, serde_json::to_vec(&order).expect("JSON")).expect("an order");
        let env = BTreeMap::from([("SAWMILL_USAGE".to_owned(), usage.to_string_lossy().into_owned())]);
        let begun = Instant::now();
        Run::prepare(&path, &events, &env).and_then(|run| run.finish(&result)).expect("it ran");
        assert!(begun.elapsed() < LINGER, "it had to be ended");
        assert!(read_result(&result, &Redactor::new([""; 0])).expect("a result").ok);
    }

    #[test]
    fn an_agent_that_says_nothing_of_its_end_has_failed_whatever_its_status() {
        assert_eq!(end_of("echo no event; exit 0"), (false, "it ended without a last event: exit status 0".to_owned()));
        assert_eq!(end_of("exit 3"), (false, "it ended without a last event: exit status 3".to_owned()));
        assert!(end_of("kill -9 $$").1.contains("signal: 9"));
    }

    #[test]
    fn a_last_message_that_is_a_question_asks_where_that_is_allowed() {
        let says = |text: &str| format!(r#"echo '{{"type":"result","subtype":"success","result":"{text}"}}'"#);
        let (asks, _, _) = run_script(&says("QUESTION: Up or down?"));
        assert_eq!((asks.ok, asks.clarification.as_deref()), (false, Some("Up or down?")));
        assert_eq!(end_of(&says("QUESTION: ")), (true, "QUESTION: ".to_owned()));
        let later = "Done. QUESTION: was that right?";
        assert_eq!(end_of(&says(later)), (true, later.to_owned()));
        assert_eq!(asking(AgentEnd::Failed("QUESTION: x".to_owned())), AgentEnd::Failed("QUESTION: x".to_owned()));
    }

    #[test]
    fn all_events_are_kept_as_they_came() {
        let (result, events, _) = run_script(&format!("echo '{{\"type\":\"new\"}}'; echo no event; {LAST}"));
        assert!(result.ok);
        assert!(events.starts_with("{\"type\":\"new\"}\nno event\n{\"type\":\"result\""), "{events}");
    }

    #[test]
    fn an_agent_that_does_not_exit_after_its_last_event_is_ended() {
        let (result, _, took) = run_script(&format!("{LAST}; exec sleep 600"));
        assert_eq!((result.ok, result.summary.as_str()), (true, "done"));
        assert!(took >= LINGER && took < Duration::from_secs(60), "{took:?}");
    }

    #[test]
    fn what_is_said_of_one_that_has_to_be_ended_is_what_it_did() {
        let note = |read: Result<Option<Instant>, String>| {
            let start = Start { argv: ["sleep", "600"].map(str::to_owned).into(), ..Start::default() };
            let (mut child, mut log) = (spawn(&start).expect("it runs"), Log::default());
            end(&mut child, Instant::now(), since(&read), &mut log).expect("it ends");
            log.take()
        };
        assert_eq!(note(Ok(Some(Instant::now()))), "[it did not exit within 5 s after its last event, and is ended]\n");
        let closed = "[it did not exit within 5 s after it closed its output, without a last event, and is ended]\n";
        assert_eq!(note(Ok(None)), closed);
        let (result, _, took) = run_script("exec > /dev/null; exec sleep 600");
        assert_eq!((result.ok, result.summary.as_str()), (false, "it ended without a last event: signal: 15 (SIGTERM)"));
        assert!(took >= LINGER && took < Duration::from_secs(60), "{took:?}");
    }

    #[test]
    fn a_last_event_that_comes_late_is_read_also_of_one_that_has_exited() {
        let (result, _, _) = run_script(&format!("(sleep 1; {LAST}) &"));
        assert_eq!((result.ok, result.summary.as_str()), (true, "done"));
        // One that never comes is waited for no longer than that, whatever else is said meanwhile.
        let (result, _, took) = run_script("(while sleep 0.05; do echo more; done) 2> /dev/null & exit 3");
        assert_eq!((result.ok, result.summary.as_str()), (false, "it ended without a last event: exit status 3"));
        assert!(took >= DRAIN && took < Duration::from_secs(60), "{took:?}");
    }

    #[test]
    fn a_process_that_an_agent_left_does_not_hold_its_end_up() {
        let (result, _, took) = run_script(&format!("sleep 30 2> /dev/null & {LAST}"));
        assert_eq!((result.ok, result.summary.as_str()), (true, "done"));
        assert!(took < Duration::from_secs(25), "{took:?}");
    }
}
