//! Where each value of the configuration came from.

use super::error::source_name;
use super::layers::Loaded;
use crate::api::wire::Setting;
use figment::value::Value;

/// Every value of a configuration, in the order of its keys.
#[must_use]
pub fn settings(loaded: &Loaded) -> Vec<Setting> {
    let mut found = Vec::new();
    let values = Value::serialize(&loaded.config).ok().and_then(Value::into_dict).unwrap_or_default();
    for (key, value) in &values {
        walk(loaded, key, value, &mut found);
    }
    found
}

fn walk(loaded: &Loaded, key: &str, value: &Value, found: &mut Vec<Setting>) {
    if let Some(dict) = value.as_dict().filter(|dict| !dict.is_empty()) {
        for (name, value) in dict {
            walk(loaded, &format!("{key}.{name}"), value, found);
        }
        return;
    }
    let origin = loaded.figment.find_metadata(key).map_or_else(|| "environment".to_owned(), |layer| source_name(Some(layer)));
    let value = serde_json::to_value(value).unwrap_or_default();
    found.push(Setting { key: key.to_owned(), value: shown(key, value), origin });
}

/// The value as it may be shown: without the password of a URL, and without what is under a name of secrets.
fn shown(key: &str, value: serde_json::Value) -> serde_json::Value {
    let last = key.rsplit('.').next().unwrap_or(key).to_ascii_lowercase();
    let secret = ["token", "secret", "password", "api_key"].iter().any(|word| last.contains(word));
    match value {
        serde_json::Value::String(_) if secret => serde_json::Value::from("(hidden)"),
        serde_json::Value::String(text) => serde_json::Value::from(without_password(&text)),
        other => other,
    }
}

fn without_password(text: &str) -> String {
    match url::Url::parse(text) {
        Ok(mut url) if url.password().is_some() => match url.set_password(Some("hidden")) {
            Ok(()) => url.to_string(),
            Err(()) => "(hidden)".to_owned(),
        },
        _ => text.to_owned(),
    }
}
