//! The two protocols: what is sent, and what of the answer is the model's words and its use.
//!
//! The forms are those of OpenAI's chat completions (`POST /chat/completions`) and of Anthropic's messages (`POST /v1/messages`, version
//! 2023-06-01). Only what every server of them understands is sent.

use serde_json::{Value, json};

use super::config::{Kind, Price};
use super::prompt::Prompt;
use crate::job::completion::Usage;

/// The version of Anthropic's protocol.
pub(super) const ANTHROPIC_VERSION: &str = "2023-06-01";

/// How much a model may write: Anthropic's protocol wants to be told.
const COMPLETION_MAX: u64 = 8_192;

/// An exchange before this one whose answer was none: the answer, and what is said to it.
pub(super) type Before = (String, String);

/// Where requests go, below the endpoint.
pub(super) const fn path(kind: Kind) -> &'static str {
    match kind {
        Kind::OpenAi => "chat/completions",
        Kind::Anthropic => "v1/messages",
    }
}

/// What is sent.
pub(super) fn request(kind: Kind, model: &str, prompt: &Prompt, before: Option<&Before>) -> Value {
    let mut messages = vec![json!({ "role": "user", "content": prompt.user })];
    if let Some((answer, said)) = before {
        // Neither protocol takes an empty message.
        let answer = if answer.trim().is_empty() { "(nothing)" } else { answer };
        messages.push(json!({ "role": "assistant", "content": answer }));
        messages.push(json!({ "role": "user", "content": said }));
    }
    match kind {
        Kind::OpenAi => {
            messages.insert(0, json!({ "role": "system", "content": prompt.system }));
            json!({ "model": model, "messages": messages })
        }
        Kind::Anthropic => {
            json!({ "model": model, "max_tokens": COMPLETION_MAX, "system": prompt.system, "messages": messages })
        }
    }
}

/// What came back: the model's words, where the answer has any, and what it used, where it says so.
pub(super) fn response(kind: Kind, model: &str, price: Option<Price>, body: &Value) -> (Option<String>, Option<Usage>) {
    let used = &body["usage"];
    let (words, read, written) = match kind {
        Kind::OpenAi => {
            let words = body["choices"][0]["message"]["content"].as_str().map(str::to_owned);
            (words, used["prompt_tokens"].as_u64(), used["completion_tokens"].as_u64())
        }
        Kind::Anthropic => {
            let blocks = body["content"].as_array();
            let words = blocks.map(|blocks| blocks.iter().filter_map(|block| block["text"].as_str()).collect::<String>());
            let cached = ["cache_creation_input_tokens", "cache_read_input_tokens"];
            let cached: u64 = cached.iter().filter_map(|name| used[*name].as_u64()).sum();
            (words, used["input_tokens"].as_u64().map(|read| read.saturating_add(cached)), used["output_tokens"].as_u64())
        }
    };
    if read.is_none() && written.is_none() {
        return (words, None);
    }
    let (prompt_tokens, completion_tokens) = (read.unwrap_or(0), written.unwrap_or(0));
    // Some servers that speak as OpenAI does say what it has cost.
    let said = used["cost"].as_f64().filter(|cost| cost.is_finite() && *cost >= 0.0);
    let priced = price
        .map(|price| (prompt_tokens as f64 * price.prompt_usd + completion_tokens as f64 * price.completion_usd) / 1_000_000.0);
    (words, Some(Usage { prompt_tokens, completion_tokens, cost_usd: said.or(priced), model: Some(model.to_owned()) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_use_are_read_of_both_protocols() {
        let price = Some(Price { prompt_usd: 3.0, completion_usd: 15.0 });
        let openai = json!({ "choices": [{ "message": { "content": "{}" } }], "usage": { "prompt_tokens": 1000, "completion_tokens": 100 } });
        let (words, usage) = response(Kind::OpenAi, "m", price, &openai);
        let usage = usage.expect("usage");
        assert_eq!((words.as_deref(), usage.prompt_tokens, usage.completion_tokens), (Some("{}"), 1000, 100));
        assert_eq!(usage.cost_usd, Some(0.0045));
        let anthropic = json!({ "content": [{ "type": "thinking", "thinking": "hm" }, { "type": "text", "text": "{" }, { "type": "text", "text": "}" }],
            "usage": { "input_tokens": 10, "cache_read_input_tokens": 5, "output_tokens": 2 } });
        let (words, usage) = response(Kind::Anthropic, "m", None, &anthropic);
        let usage = usage.expect("usage");
        assert_eq!((words.as_deref(), usage.prompt_tokens, usage.cost_usd), (Some("{}"), 15, None));
        let said = json!({ "usage": { "prompt_tokens": 1, "cost": 0.5 } });
        assert_eq!(response(Kind::OpenAi, "m", price, &said).1.and_then(|usage| usage.cost_usd), Some(0.5));
        assert_eq!(response(Kind::OpenAi, "m", price, &json!([1])), (None, None));
    }

    #[test]
    fn what_was_no_answer_is_sent_along_with_what_is_wrong_with_it() {
        let prompt = Prompt { system: "s".to_owned(), user: "u".to_owned() };
        let before = (String::new(), "again".to_owned());
        let roles = |kind| {
            let sent = request(kind, "m", &prompt, Some(&before));
            let messages = sent["messages"].as_array().cloned().unwrap_or_default();
            messages.iter().map(|message| format!("{}:{}", message["role"], message["content"])).collect::<Vec<_>>().join(" ")
        };
        let rest = r#""user":"u" "assistant":"(nothing)" "user":"again""#;
        assert_eq!(roles(Kind::OpenAi), format!(r#""system":"s" {rest}"#));
        assert_eq!(roles(Kind::Anthropic), rest);
    }
}
