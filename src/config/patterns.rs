//! Patterns of paths that the configuration has.
//!
//! The one rule: one that no path can match is refused where it is given, for a `forbid` that protects nothing would be missed by nobody.

use figment::Figment;

use super::error::{ConfigError, located};
use super::sections::Config;
use crate::job::Globs;

/// Checks all patterns.
pub(super) fn check(config: &Config, figment: &Figment) -> Result<(), ConfigError> {
    let under = |key: String| move |(part, pattern)| (format!("{key}.{part}"), pattern);
    let mut patterns: Vec<(String, &String)> = config.checks.patterns().map(under("checks".to_owned())).collect();
    for (name, project) in &config.projects {
        patterns.extend(project.checks.patterns().map(under(format!("projects.{name}.checks"))));
        for (index, gate) in project.gates.iter().enumerate() {
            patterns.extend(gate.patterns().map(under(format!("projects.{name}.gates[{index}]"))));
        }
    }
    let wrong = patterns.into_iter().find_map(|(key, pattern)| Some((key, Globs::check(pattern).err()?)));
    wrong.map_or(Ok(()), |(key, why)| {
        let key = key.replace('[', ".").replace(']', "");
        let path: Vec<String> = key.split('.').map(str::to_owned).collect();
        // Of what is in a list, the list knows where it comes from.
        let known = (1..=path.len()).rev().find_map(|length| figment.find_metadata(&path[..length].join(".")));
        Err(ConfigError::BadValue { source_name: located(known, &path), key, why })
    })
}
