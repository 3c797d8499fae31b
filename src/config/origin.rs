//! Where each value of the configuration came from.

use figment::value::Value;

use super::error::source_name;
use super::layers::Loaded;
use crate::api::wire::Setting;

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
    let written = loaded.figment.find_value(key).ok();
    // What a layer leaves empty or out, and is set all the same, was filled in from the environment.
    let filled_in = written.as_ref().is_none_or(|written| written.as_str() == Some("")) && value.as_str() != Some("");
    let layer = loaded.figment.find_metadata(key).filter(|_| !filled_in);
    let origin = layer.map_or_else(|| "environment".to_owned(), |layer| source_name(Some(layer)));
    let value = serde_json::to_value(value).unwrap_or_default();
    found.push(Setting { key: key.to_owned(), value: shown(key, value), origin });
}

/// The value as it may be shown: without the secrets of a URL, and without what is under a name of secrets.
fn shown(key: &str, value: serde_json::Value) -> serde_json::Value {
    let last = key.rsplit('.').next().unwrap_or(key).to_ascii_lowercase();
    let secret = ["token", "secret", "password", "api_key", "credential"].iter().any(|word| last.contains(word));
    match value {
        serde_json::Value::String(_) if secret => serde_json::Value::from("(hidden)"),
        serde_json::Value::String(text) => serde_json::Value::from(without_secrets(&text)),
        other => other,
    }
}

/// A URL without its password; over HTTP without its user too, which is where tokens stand, and without its parameters where
/// one of them is a secret.
fn without_secrets(text: &str) -> String {
    let Ok(plain) = url::Url::parse(text) else { return text.to_owned() };
    let mut url = plain.clone();
    let user = if url.scheme().starts_with("http") && !url.username().is_empty() { url.set_username("hidden") } else { Ok(()) };
    let password = if url.password().is_some() { url.set_password(Some("hidden")) } else { Ok(()) };
    let parameters = url.query().unwrap_or_default().to_ascii_lowercase();
    if ["password", "token", "secret"].iter().any(|word| parameters.contains(word)) {
        url.set_query(Some("hidden"));
    }
    match user.and(password) {
        Err(()) => "(hidden)".to_owned(),
        Ok(()) if url == plain => text.to_owned(),
        Ok(()) => url.to_string(),
    }
}
