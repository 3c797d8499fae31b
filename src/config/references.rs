//! What one part of the configuration calls by a name that another part must have.

use figment::Figment;

use super::error::{ConfigError, located};
use super::sections::Config;

/// Checks that every backend and critic that is named is there. Found here and not when a job needs it, since whoever enqueues
/// that job is seldom the one who can mend it.
pub(super) fn check(config: &Config, figment: &Figment) -> Result<(), ConfigError> {
    let backends: Vec<&str> = config.backends.keys().map(String::as_str).collect();
    let critics: Vec<&str> = config.critics.keys().map(String::as_str).collect();
    let fails = |key: &[&str], what: &str, name: &str, known: &[&str]| bad(figment, key, what, name, known);

    if !backends.contains(&config.default_backend.as_str()) {
        return Err(fails(&["default_backend"], "backend", &config.default_backend, &backends));
    }
    if let Some(name) = config.default_critics.iter().find(|name| !critics.contains(&name.as_str())) {
        return Err(fails(&["default_critics"], "critic", name, &critics));
    }
    for (project, section) in &config.projects {
        if let Some(name) = section.backend.as_ref().filter(|name| !backends.contains(&name.as_str())) {
            return Err(fails(&["projects", project, "backend"], "backend", name, &backends));
        }
        let mut named = section.critics.iter().flatten();
        if let Some(name) = named.find(|name| !critics.contains(&name.as_str())) {
            return Err(fails(&["projects", project, "critics"], "critic", name, &critics));
        }
    }
    Ok(())
}

fn bad(figment: &Figment, key: &[&str], what: &str, name: &str, known: &[&str]) -> ConfigError {
    let path: Vec<String> = key.iter().map(|part| (*part).to_owned()).collect();
    let why = match known {
        [] => format!("there is no {what} {name:?}, and none at all: add [{what}s.{name}]"),
        _ => format!("there is no {what} {name:?}; there are: {}", known.join(", ")),
    };
    let key = path.join(".");
    ConfigError::BadValue { source_name: located(figment.find_metadata(&key), &path), key, why }
}
