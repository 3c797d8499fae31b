//! When a usage limit is over, by what a model's server says beside its refusal.

use std::time::Duration;

use serde_json::Value;

use crate::clock::Timestamp;

/// When a limit is over by `Retry-After` among an answer's headers, in seconds from `now`. LiteLLM gives providers' headers another
/// beginning.
pub(in crate::backends) fn reset_after(headers: &Value, now: Timestamp) -> Option<Timestamp> {
    let seconds =
        ["retry-after", "llm_provider-retry-after"].iter().find_map(|name| headers[*name].as_str()?.trim().parse::<u64>().ok());
    seconds.map(|seconds| now + Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_header_in_seconds_is_a_moment_and_any_other_is_none() {
        let at = |headers| reset_after(&headers, Timestamp(1000));
        assert_eq!(at(json!({ "retry-after": "60" })), Some(Timestamp(61_000)));
        assert_eq!(at(json!({ "llm_provider-retry-after": "60" })), Some(Timestamp(61_000)));
        assert_eq!(at(json!({ "retry-after": "Wed, 21 Oct 2026 07:28:00 GMT" })), None);
        assert_eq!(at(json!({})), None);
    }
}
