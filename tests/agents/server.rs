//! A server of models that follows a script, and speaks as those of agents do: OpenAI's chat completions and responses, and Anthropic's
//! messages.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// What the model does when it is asked next.
#[derive(Debug, Clone)]
pub(crate) enum Turn {
    /// It says something, and is done with that.
    Says(&'static str),
    /// It says something, and runs a command.
    Runs(&'static str, &'static str),
    /// It is refused with this status, as a usage limit where that is 429, with these headers.
    Refuses(u16, Vec<(&'static str, String)>),
    /// It is refused with 429, this body, and these headers: a limit of a plan, as each provider tells it.
    Limited(Value, Vec<(&'static str, String)>),
    /// The answer breaks off in the middle.
    Breaks,
    /// It never answers.
    Hangs,
    /// It runs this command again and again.
    Loops(&'static str),
}

/// What each turn is said to have used.
pub(crate) const PROMPT_TOKENS: u64 = 100;
pub(crate) const COMPLETION_TOKENS: u64 = 30;

/// The server, which is there for as long as its test runs.
pub(crate) struct Server {
    port: u16,
    script: Arc<Script>,
}

#[derive(Default)]
struct Script {
    turns: Mutex<VecDeque<Turn>>,
    /// What it was told: the bodies of requests for a turn.
    heard: Mutex<Vec<Value>>,
    /// The keys that came with them.
    keys: Mutex<Vec<String>>,
    /// Whether requests without tools are turns, too.
    judges: bool,
}

impl Server {
    /// Listens at an address of the loopback that is not the usual one: what a container reaches by the worker's proxy.
    pub(crate) async fn start(turns: impl IntoIterator<Item = Turn>) -> Self {
        Self::follow(Script { turns: Mutex::new(turns.into_iter().collect()), ..Script::default() }).await
    }

    /// As [`Server::start`], of a model that is asked for its judgement: such requests have no tools.
    pub(crate) async fn judging(turns: impl IntoIterator<Item = Turn>) -> Self {
        Self::follow(Script { turns: Mutex::new(turns.into_iter().collect()), judges: true, ..Script::default() }).await
    }

    async fn follow(script: Script) -> Self {
        let script = Arc::new(script);
        let listener = TcpListener::bind("127.0.0.2:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let router = Router::new().fallback(answer).with_state(script.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { port, script }
    }

    /// Where it listens, as `container.egress` has it.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.2:{}", self.port)
    }

    /// How many turns are left of the script.
    pub(crate) fn left(&self) -> usize {
        self.script.turns.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// The requests for a turn, in order.
    pub(crate) fn requests(&self) -> Vec<Value> {
        self.script.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The keys that came with them.
    pub(crate) fn keys(&self) -> Vec<String> {
        self.script.keys.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All that it was told, as one text.
    pub(crate) fn heard(&self) -> String {
        let heard = self.script.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.iter().map(Value::to_string).collect::<Vec<_>>().join("\n")
    }
}

impl Script {
    /// The next turn. One that refuses or repeats itself holds for ever where it is the last: agents ask again.
    fn next(&self, request: &Value) -> Option<Turn> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).push(request.clone());
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        match turns.front()? {
            Turn::Refuses(..) | Turn::Loops(_) if turns.len() == 1 => turns.front().cloned(),
            _ => turns.pop_front(),
        }
    }
}

async fn answer(State(script): State<Arc<Script>>, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let request: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let speak = match uri.path().rsplit('/').next() {
        Some("messages") => messages,
        Some("responses") => responses,
        Some("completions") => completions,
        // They look around, too.
        _ => return plain(StatusCode::OK, &json!({ "data": [], "models": [] })),
    };
    // Small requests beside the work, such as for a title, have no tools.
    if !script.judges && request["tools"].as_array().is_none_or(Vec::is_empty) {
        return speak(&request, &Turn::Says("ok"));
    }
    let key = ["authorization", "x-api-key"].iter().find_map(|name| headers.get(*name)?.to_str().ok());
    script.keys.lock().unwrap_or_else(PoisonError::into_inner).extend(key.map(str::to_owned));
    match script.next(&request) {
        None => plain(StatusCode::BAD_REQUEST, &error("invalid_request_error", "the script has ended")),
        Some(Turn::Refuses(status, headers)) => {
            let kind = if status == 429 { "rate_limit_error" } else { "api_error" };
            let status = StatusCode::from_u16(status).expect("a status");
            with(headers, plain(status, &error(kind, "refused by the script")))
        }
        Some(Turn::Limited(body, headers)) => with(headers, plain(StatusCode::TOO_MANY_REQUESTS, &body)),
        Some(Turn::Hangs) => std::future::pending().await,
        Some(turn) => speak(&request, &turn),
    }
}

fn with(headers: Vec<(&'static str, String)>, mut response: Response) -> Response {
    for (name, value) in headers {
        response.headers_mut().insert(name, value.parse().expect("a header's value"));
    }
    response
}

fn error(kind: &str, message: &str) -> Value {
    json!({ "type": "error", "error": { "type": kind, "message": message } })
}

fn plain(status: StatusCode, body: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

/// This, and then the end of the connection in the middle of the answer.
fn broken(begun: String) -> Body {
    let end = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
    Body::from_stream(stream::iter([Ok(begun), Err(end)]))
}

/// Server-sent events, each with its type as its name.
fn events_of(events: &[Value], turn: &Turn) -> Response {
    let text = |events: &[Value]| -> String {
        events.iter().map(|event| format!("event: {}\ndata: {event}\n\n", event["type"].as_str().expect("a type"))).collect()
    };
    // One that breaks has only begun.
    let body = if matches!(turn, Turn::Breaks) { broken(text(&events[..1])) } else { text(events).into() };
    ([(header::CONTENT_TYPE, "text/event-stream")], body).into_response()
}

/// Anthropic's messages.
fn messages(request: &Value, turn: &Turn) -> Response {
    let (text, command) = parts(turn);
    let mut content = vec![json!({ "type": "text", "text": text })];
    content.extend(
        command.map(|command| json!({ "type": "tool_use", "id": id("toolu"), "name": "Bash", "input": { "command": command } })),
    );
    let reason = if command.is_some() { "tool_use" } else { "end_turn" };
    let message = json!({ "id": id("msg"), "type": "message", "role": "assistant", "model": request["model"], "content": [],
        "stop_reason": null, "stop_sequence": null, "usage": { "input_tokens": PROMPT_TOKENS, "output_tokens": 1 } });
    if request["stream"] != true {
        let mut whole = message;
        whole["content"] = content.into();
        whole["stop_reason"] = reason.into();
        whole["usage"]["output_tokens"] = COMPLETION_TOKENS.into();
        return plain(StatusCode::OK, &whole);
    }
    let mut events = vec![json!({ "type": "message_start", "message": message })];
    for (index, block) in content.iter().enumerate() {
        let (start, delta) = if block["type"] == "text" {
            (json!({ "type": "text", "text": "" }), json!({ "type": "text_delta", "text": block["text"] }))
        } else {
            let mut start = block.clone();
            start["input"] = json!({});
            (start, json!({ "type": "input_json_delta", "partial_json": block["input"].to_string() }))
        };
        events.push(json!({ "type": "content_block_start", "index": index, "content_block": start }));
        events.push(json!({ "type": "content_block_delta", "index": index, "delta": delta }));
        events.push(json!({ "type": "content_block_stop", "index": index }));
    }
    let delta = json!({ "stop_reason": reason, "stop_sequence": null });
    events.push(json!({ "type": "message_delta", "delta": delta, "usage": { "output_tokens": COMPLETION_TOKENS } }));
    events.push(json!({ "type": "message_stop" }));
    events_of(&events, turn)
}

/// OpenAI's responses.
fn responses(request: &Value, turn: &Turn) -> Response {
    let (text, command) = parts(turn);
    let said = json!([{ "type": "output_text", "text": text, "annotations": [] }]);
    let mut items =
        vec![json!({ "type": "message", "id": id("msg"), "role": "assistant", "status": "completed", "content": said })];
    items.extend(command.map(|command| {
        let tools = request["tools"].as_array().into_iter().flatten();
        let arguments = if tools.clone().any(|tool| tool["name"] == "exec_command") {
            ("exec_command", json!({ "cmd": command }))
        } else {
            ("shell", json!({ "command": ["bash", "-lc", command] }))
        };
        json!({ "type": "function_call", "id": id("fc"), "call_id": id("call"), "name": arguments.0, "arguments": arguments.1.to_string() })
    }));
    let id = id("resp");
    let usage = json!({ "input_tokens": PROMPT_TOKENS, "input_tokens_details": { "cached_tokens": 0 }, "output_tokens": COMPLETION_TOKENS,
        "output_tokens_details": { "reasoning_tokens": 0 }, "total_tokens": PROMPT_TOKENS + COMPLETION_TOKENS });
    let mut events = vec![json!({ "type": "response.created", "response": { "id": id } })];
    let done = |(at, item): (usize, &Value)| json!({ "type": "response.output_item.done", "output_index": at, "item": item });
    events.extend(items.iter().enumerate().map(done));
    events.push(json!({ "type": "response.completed", "response": { "id": id, "output": items, "usage": usage } }));
    events_of(&events, turn)
}

/// OpenAI's chat completions, whole: the agents that speak them do not ask for a stream.
fn completions(request: &Value, turn: &Turn) -> Response {
    let (text, command) = parts(turn);
    let mut message = json!({ "role": "assistant", "content": text });
    if let Some(command) = command {
        let arguments = json!({ "command": command }).to_string();
        let mut tools = request["tools"].as_array().into_iter().flatten();
        let name = if tools.any(|tool| tool["function"]["name"] == "terminal") { "terminal" } else { "bash" };
        message["tool_calls"] =
            json!([{ "id": id("call"), "type": "function", "function": { "name": name, "arguments": arguments } }]);
    }
    let reason = if command.is_some() { "tool_calls" } else { "stop" };
    let body = json!({ "id": id("chat"), "object": "chat.completion", "created": 1, "model": request["model"],
        "choices": [{ "index": 0, "message": message, "finish_reason": reason }],
        "usage": { "prompt_tokens": PROMPT_TOKENS, "completion_tokens": COMPLETION_TOKENS, "total_tokens": PROMPT_TOKENS + COMPLETION_TOKENS } });
    if matches!(turn, Turn::Breaks) {
        return ([(header::CONTENT_TYPE, "application/json")], broken("{\"id\":".to_owned())).into_response();
    }
    plain(StatusCode::OK, &body)
}

fn parts(turn: &Turn) -> (&'static str, Option<&'static str>) {
    match turn {
        Turn::Says(text) => (text, None),
        Turn::Runs(text, command) => (text, Some(command)),
        Turn::Loops(command) => ("Once more.", Some(command)),
        Turn::Refuses(..) | Turn::Limited(..) | Turn::Breaks | Turn::Hangs => ("", None),
    }
}

fn id(kind: &str) -> String {
    format!("{kind}_{}", uuid::Uuid::new_v4().simple())
}
