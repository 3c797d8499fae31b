//! The agents that the default image brings, for an operator who has not configured them yet.
//!
//! The one rule: what is found is told, and fails nothing: no job can ask for them before they are configured.

use std::collections::BTreeMap;

use super::checks::{flawed, good};
use super::probe::{self, Found};
use super::{Finding, State, Stop};
use crate::backends::{BackendConfig, Registry};
use crate::config::{Config, SHIPPED};
use crate::job::spec::ContainerMode;

const CHECK: &str = "agents";

/// The least that is to be said of each. No model is asked anything.
const AGENTS: &str = r#"
claude_code = { kind = "claude_code" }
miniswe = { kind = "miniswe", model = "none/none" }
openai_codex = { kind = "openai_codex" }
openhands = { kind = "openhands", model = "none/none" }
"#;

/// Asks those that are not configured, where jobs run in the default image and it is built.
pub(super) async fn check(config: &Config, stop: &Stop) -> Option<Finding> {
    let is_default = default_image().as_ref() == Some(&config.container.image);
    if config.container.mode == ContainerMode::Off || !is_default {
        return None;
    }
    let agents = Registry::new(&others(config)).ok()?;
    let found = probe::in_image_alone(config, &agents, stop).await;
    let (mut there, mut not) = (Vec::new(), Vec::new());
    for (kind, found) in &found {
        match found {
            Found::Version(version) => there.push(format!("{kind} {version}")),
            Found::Not(why) => not.push(format!("{kind}: {why}")),
        }
    }
    let image = &config.container.image;
    if !not.is_empty() {
        let seen = format!("{image} is to bring agents of which some do not answer: {}", not.join("; "));
        return Some(flawed(CHECK, State::Warning, seen, "build it anew with sawmill images build"));
    }
    let seen = format!("{image} brings {}, for which no backend is configured (docs/backends.md)", there.join(", "));
    (!there.is_empty()).then(|| good(CHECK, seen))
}

/// The name of the image that is built where nobody says otherwise.
fn default_image() -> Option<String> {
    let shipped: toml::Table = SHIPPED.parse().ok()?;
    Some(shipped.get("container")?.get("image")?.as_str()?.to_owned())
}

/// The agents of which none is configured.
fn others(config: &Config) -> BTreeMap<String, BackendConfig> {
    let mut agents: BTreeMap<String, BackendConfig> = toml::from_str(AGENTS).unwrap_or_default();
    agents.retain(|_, agent| !config.backends.values().any(|configured| configured.kind == agent.kind));
    agents
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Environment, shipped};

    #[test]
    fn the_agents_that_are_not_configured_are_those_that_are_asked() {
        let config = |flags: &[(&str, String)]| shipped(&Environment::default(), flags).expect("a configuration").config;
        let asked = |config: &Config| others(config).into_keys().collect::<Vec<_>>();
        assert_eq!(asked(&config(&[])), ["claude_code", "miniswe", "openai_codex", "openhands"]);
        assert!(Registry::new(&others(&config(&[]))).is_ok(), "what is said of them is enough");
        let own = config(&[("backends.mine.kind", "claude_code".to_owned())]);
        assert_eq!(asked(&own), ["miniswe", "openai_codex", "openhands"]);
        assert_eq!(default_image(), Some(config(&[]).container.image));
    }
}
