//! The configuration as a whole: complete as it is shipped, layer upon layer, with its secrets hidden.

use std::collections::BTreeSet;
use std::fs;

use sawmill::config::{Config, Environment, SHIPPED, load, shipped};

use super::site::Site;

/// The paths of all values; a table without entries counts as one.
fn keys(value: &toml::Value, path: &str, found: &mut BTreeSet<String>) {
    match value.as_table().filter(|table| !table.is_empty() || path.is_empty()) {
        Some(table) => {
            for (name, value) in table {
                keys(value, &format!("{path}.{name}"), found);
            }
        }
        None => {
            found.insert(path.trim_start_matches('.').to_owned());
        }
    }
}

fn keys_of(value: &toml::Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    keys(value, "", &mut found);
    found
}

#[test]
fn the_shipped_file_has_every_key_and_no_other() {
    let written: toml::Value = toml::from_str(SHIPPED).expect("the shipped file is TOML");
    let config: Config = shipped(&Environment::default(), &[]).expect("the shipped file is a configuration").config;
    let read = toml::Value::try_from(&config).expect("a configuration is TOML");
    assert_eq!(keys_of(&written), keys_of(&read));
    // Nothing has a default of its own: without the shipped file nothing loads.
    assert!(toml::from_str::<Config>("").is_err());
}

#[test]
fn every_key_of_the_shipped_file_has_a_comment_above_it() {
    let mut commented = false;
    for line in SHIPPED.lines() {
        match line.trim() {
            text if text.starts_with('#') => commented = true,
            text if text.starts_with('[') || text.is_empty() => commented = false,
            "kind = \"shell\"" => {}
            text => {
                assert!(commented, "no comment above: {text}");
                commented = false;
            }
        }
    }
}

#[test]
fn a_later_layer_outranks_an_earlier_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("own.toml");
    fs::write(&file, "[worker]\nslots = 5\nname = \"file\"\n[logs]\nflush = \"1s\"\n").expect("a configuration");
    let variable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let environment = Environment::of([variable("SAWMILL_WORKER__SLOTS", "6"), variable("SAWMILL_WORKER__NAME", "7")]);
    let config = load(Some(&file), &environment, &[("worker.slots", "8".to_owned())]).expect("it loads").config;
    assert_eq!(config.worker.slots, 8, "a flag outranks the environment");
    assert_eq!(config.worker.name, "7", "the environment outranks the file, and a name may be a number");
    assert_eq!(config.logs.flush.as_secs(), 1, "the file outranks what is built in");
    assert_eq!(config.logs.chunk_bytes.0, 65_536, "what nobody sets is as it is built in");
}

#[test]
fn the_layer_of_every_value_is_shown() {
    let site = Site::new().with("SAWMILL_LOGS__FLUSH", "1s").with("SAWMILL_CONFIG", "own.toml");
    fs::write(site.path("own.toml"), "[worker]\nslots = 5\n").expect("a configuration");
    let shown = site.says(&["config", "show", "--origin"]);
    let of = |key: &str| {
        let words = shown.lines().find_map(|line| line.strip_prefix(&format!("{key} "))).expect("the key is shown");
        words.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(of("worker.slots"), "own.toml 5");
    assert_eq!(of("logs.flush"), "SAWMILL_LOGS__FLUSH \"1s\"");
    assert_eq!(of("logs.tail"), "built-in defaults \"4.0 MiB\"");
    assert_eq!(of("git.search_path"), "environment \"/usr/local/bin:/usr/bin:/bin\"");
}

#[test]
fn secrets_are_never_shown() {
    let site = Site::new();
    let text = "[queue]\nurl = \"postgres://app:hunter2@db.example/q?sslpassword=hunter2\"\n\
         [git.environment]\nHTTPS_PROXY = \"http://proxy:hunter2@proxy.example:8080\"\nAPI_TOKEN = \"hunter2\"\n\
         [projects.app]\nrepo = \"https://hunter2@github.com/a/b.git\"\n\
         [projects.other]\nrepo = \"https://hunter2:x-oauth-basic@github.com/a/b.git\"\n";
    fs::write(site.path("own.toml"), text).expect("a configuration");
    // The API is asked without a database: of the configuration alone.
    let environment = Environment::default();
    let loaded = load(Some(&site.path("own.toml")), &environment, &[]).expect("it loads");
    let shown = serde_json::to_string_pretty(&sawmill::config::settings(&loaded)).expect("JSON");
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(shown.contains("db.example") && shown.contains("github.com/a/b.git") && shown.contains("proxy.example"), "{shown}");
}
