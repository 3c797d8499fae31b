//! The process's environment, read once.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// The environment variables whose names and values are text.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    variables: BTreeMap<String, String>,
}

impl Environment {
    /// Reads the process's environment. What is not UTF-8 is left out: no setting of ours can be in it.
    #[must_use]
    pub fn read() -> Self {
        let text =
            |(name, value): (std::ffi::OsString, std::ffi::OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
        Self { variables: std::env::vars_os().filter_map(text).collect() }
    }

    /// An environment of these variables.
    #[must_use]
    pub fn of(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        Self { variables: variables.into_iter().collect() }
    }

    /// The value of a variable that is set and not empty.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// All variables.
    #[must_use]
    pub const fn variables(&self) -> &BTreeMap<String, String> {
        &self.variables
    }

    /// The settings among them: `SAWMILL_SECTION__KEY`, as the path `section.key` and its value; and `SAWMILL_KEY` where that key is
    /// one of those `alone`, which are in no section.
    pub(super) fn settings(&self, alone: &[String]) -> impl Iterator<Item = (String, &str)> {
        self.variables.iter().filter_map(|(name, value)| {
            let key = name.strip_prefix("SAWMILL_")?.to_ascii_lowercase();
            (key.contains("__") || alone.contains(&key)).then(|| (key.replace("__", "."), value.as_str()))
        })
    }

    /// A path as people write it: a leading `~/` is the home directory.
    pub(super) fn expand(&self, path: &str) -> PathBuf {
        match (path.strip_prefix("~/"), self.get("HOME")) {
            (Some(rest), Some(home)) => PathBuf::from(home).join(rest),
            _ => PathBuf::from(path),
        }
    }
}
