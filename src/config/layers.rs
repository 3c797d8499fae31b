//! The layers of the configuration: shipped, file, environment, flags; a later one wins.

use std::path::{Path, PathBuf};

use figment::Figment;
use figment::providers::{Format, Serialized, Toml};
use figment::value::Value;

use super::environment::Environment;
use super::error::ConfigError;
use super::sections::Config;
use super::{patterns, references};

/// The shipped `workers.toml`: every key, at its default, with a comment.
pub const SHIPPED: &str = include_str!("../../workers.toml");

/// Where a file is looked for when none is named, the first one found.
const PLACES: [&str; 2] = ["workers.toml", "/etc/sawmill/workers.toml"];

/// A configuration with where its values came from.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    pub(super) figment: Figment,
}

/// Loads the configuration: the shipped one, then `file` (or the one that `SAWMILL_CONFIG` names, or the first of
/// `./workers.toml` and `/etc/sawmill/workers.toml` that is there), then `SAWMILL_SECTION__KEY` variables, then `flags`,
/// pairs of a key such as `worker.slots` and its value.
///
/// # Errors
/// A file that was named is not there, a key does not exist, or a value cannot be.
pub fn load(file: Option<&Path>, environment: &Environment, flags: &[(&str, String)]) -> Result<Loaded, ConfigError> {
    let mut figment = Figment::new().merge(named(Toml::string(SHIPPED), "built-in defaults"));
    if let Some(path) = find_file(file, environment)? {
        figment = figment.merge(Toml::file_exact(path));
    }
    finish(from_environment(figment, environment), environment, flags)
}

fn from_environment(mut figment: Figment, environment: &Environment) -> Figment {
    for (key, value) in environment.settings(&in_no_section()) {
        let name = format!("SAWMILL_{}", key.replace('.', "__").to_ascii_uppercase());
        let value = parse(value, figment.find_value(&key).ok().as_ref());
        figment = figment.merge(named(Serialized::default(&key, value), &name));
    }
    figment
}

/// The keys at the top of the file.
fn in_no_section() -> Vec<String> {
    let shipped: toml::Table = SHIPPED.parse().unwrap_or_default();
    shipped.into_iter().filter(|(_, value)| !value.is_table()).map(|(key, _)| key).collect()
}

/// The shipped configuration, then the environment, then `flags`, for what must not depend on the caller's files.
///
/// # Errors
/// A flag's key does not exist, or its value cannot be.
pub fn shipped(environment: &Environment, flags: &[(&str, String)]) -> Result<Loaded, ConfigError> {
    let figment = Figment::new().merge(named(Toml::string(SHIPPED), "built-in defaults"));
    finish(from_environment(figment, environment), environment, flags)
}

fn finish(mut figment: Figment, environment: &Environment, flags: &[(&str, String)]) -> Result<Loaded, ConfigError> {
    for (key, value) in flags {
        let value = parse(value, figment.find_value(key).ok().as_ref());
        figment = figment.merge(named(Serialized::default(key, value), "command line"));
    }
    let mut config: Config = figment.extract()?;
    references::check(&config, &figment)?;
    patterns::check(&config, &figment)?;
    complete(&mut config, environment);
    Ok(Loaded { config, figment })
}

fn find_file(file: Option<&Path>, environment: &Environment) -> Result<Option<PathBuf>, ConfigError> {
    let named = file.map(Path::to_owned).or_else(|| environment.get("SAWMILL_CONFIG").map(PathBuf::from));
    match named {
        Some(path) if path.is_file() => Ok(Some(path)),
        Some(path) if path.exists() => Err(ConfigError::NotPlain(path)),
        Some(path) => Err(ConfigError::NoFile(path)),
        None => Ok(PLACES.iter().map(PathBuf::from).find(|path| path.is_file())),
    }
}

/// A value as it would be in the file, where it is one (`3`, `true`, `["a"]`), else as text; as text too where `lower`, the
/// value in the layers below, is one: a worker may be named `7`.
fn parse(text: &str, lower: Option<&Value>) -> Value {
    let as_toml = format!("value = {text}").parse::<toml::Table>().ok().and_then(|table| table.get("value").cloned());
    let is_text = lower.is_some_and(|value| value.as_str().is_some());
    as_toml
        .filter(|value| !is_text || value.is_str())
        .and_then(|value| Value::serialize(value).ok())
        .unwrap_or_else(|| Value::from(text.to_owned()))
}

/// Fills in what only this process's surroundings can say.
fn complete(config: &mut Config, environment: &Environment) {
    config.worker.state_dir = environment.expand(&config.worker.state_dir.to_string_lossy());
    if let Some(path) = config.queue.url.strip_prefix("sqlite:") {
        config.queue.url = format!("sqlite:{}", environment.expand(path).display());
    }
    if config.git.search_path.is_empty() {
        config.git.search_path = environment.get("PATH").unwrap_or("/usr/local/bin:/usr/bin:/bin").to_owned();
    }
    for name in GIT_VARIABLES {
        if let Some(value) = environment.get(name) {
            config.git.environment.entry(name.to_owned()).or_insert_with(|| value.to_owned());
        }
    }
}

/// What git needs of the daemon's environment to reach remotes the way the operator reaches them.
const GIT_VARIABLES: [&str; 12] = [
    "SSH_AUTH_SOCK",
    "GIT_SSH_COMMAND",
    "GIT_SSL_CAINFO",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
];

fn named<P: figment::Provider>(provider: P, name: &str) -> Named<P> {
    Named { provider, name: name.to_owned() }
}

/// A layer under the name that messages give it.
struct Named<P> {
    provider: P,
    name: String,
}

impl<P: figment::Provider> figment::Provider for Named<P> {
    fn metadata(&self) -> figment::Metadata {
        figment::Metadata::named(self.name.clone())
    }

    fn data(&self) -> Result<figment::value::Map<figment::Profile, figment::value::Dict>, figment::Error> {
        self.provider.data()
    }
}
