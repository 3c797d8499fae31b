//! The house keeps its shape: floors, gatekeepers and sizes, read from the sources.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The floor of each room. A room names only strictly lower floors.
const FLOORS: [(&str, u8); 32] = [
    ("fingerprint", 0),
    ("ids", 0),
    ("clock", 0),
    ("redact", 0),
    ("namespace", 0),
    ("plain_file", 0),
    ("process_stat", 0),
    ("control_group", 0),
    ("job", 1),
    ("janitor", 1),
    ("artifacts", 2),
    ("critic", 2),
    ("store", 2),
    ("git", 2),
    ("sandbox", 2),
    ("workspace", 3),
    ("caches", 3),
    ("logs", 3),
    ("backends", 3),
    ("gates", 3),
    ("attempt", 4),
    ("worker", 5),
    ("api", 5),
    ("config", 6),
    ("cli", 7),
    ("demo", 8),
    ("daemon", 7),
    ("doctor", 8),
    ("images", 8),
    ("upkeep", 8),
    ("lib", 9),
    ("main", 10),
];

/// What the API may name: it meets the worker in the database only.
const API_NAMES: [&str; 9] = ["ids", "clock", "redact", "fingerprint", "job", "store", "git", "logs", "artifacts"];

/// A word, and the only places in which it may stand.
const GATEKEEPERS: [(&str, &[&str]); 11] = [
    ("sqlx::", &["src/store/"]),
    ("apalis_core", &["src/worker/queue.rs"]),
    ("bollard::", &["src/sandbox/container/"]),
    ("git2::", &["src/git/"]),
    ("object_store::", &["src/artifacts/"]),
    ("reqwest::", &["src/critic/", "src/cli/client.rs"]),
    ("figment::", &["src/config/"]),
    ("std::env::var", &["src/config/"]),
    ("env::vars", &["src/config/"]),
    ("Command::new(\"git\")", &["src/git/"]),
    // It panics where standard error cannot be written, on a full disk for one.
    ("eprintln!", &[]),
];

struct Source {
    path: String,
    room: String,
    text: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    collect(&root.join("src"), &mut files);
    let mut found: Vec<Source> = files
        .iter()
        .map(|file| {
            let path = file.strip_prefix(root).expect("below the root").to_string_lossy().into_owned();
            let room = path.trim_start_matches("src/").split('/').next().expect("a name").trim_end_matches(".rs").to_owned();
            Source { path, room, text: fs::read_to_string(file).expect("a source is text") }
        })
        .collect();
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a directory of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// The part of a source that ships: without comments, and without the tests at its end.
fn code(source: &Source) -> Vec<(usize, &str)> {
    source
        .text
        .lines()
        .enumerate()
        .take_while(|(_, line)| *line != "#[cfg(test)]")
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
        .map(|(index, line)| (index + 1, line))
        .collect()
}

/// The rooms that a source names through `crate::`, with the line.
fn named_rooms(source: &Source) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let lines = code(source);
    for (at, (number, line)) in lines.iter().enumerate() {
        for (start, _) in line.match_indices("crate::") {
            if line[..start].ends_with("pub(in ") {
                continue;
            }
            let rest = &line[start + "crate::".len()..];
            if rest.starts_with('{') {
                // A group may go over several lines: the words at depth one are rooms.
                let group: String = std::iter::once(rest).chain(lines[at + 1..].iter().map(|(_, line)| *line)).collect();
                let mut depth = 0;
                let mut item = String::new();
                for c in group.chars() {
                    match c {
                        '{' => depth += 1,
                        '}' => depth -= 1,
                        _ => {}
                    }
                    if depth == 0 || (c == ',' && depth == 1) {
                        found.push((*number, word(item.trim_start_matches(['{', ',', ' ']))));
                        item.clear();
                    }
                    if depth == 0 {
                        break;
                    }
                    item.push(c);
                }
            } else {
                found.push((*number, word(rest)));
            }
        }
    }
    found.retain(|(_, name)| !name.is_empty());
    found
}

#[test]
fn a_room_names_only_lower_floors() {
    let floors: BTreeMap<&str, u8> = FLOORS.into();
    let mut faults = Vec::new();
    for source in sources() {
        let Some(own) = floors.get(source.room.as_str()) else {
            faults.push(format!("{}: room {} has no floor in tests/tidy.rs", source.path, source.room));
            continue;
        };
        for (line, name) in named_rooms(&source) {
            match floors.get(name.as_str()) {
                Some(_) if name == source.room => {}
                Some(floor) if floor >= own => {
                    faults.push(format!("{}:{line}: {} (floor {own}) names {name} (floor {floor})", source.path, source.room));
                }
                Some(_) if source.room == "api" && !API_NAMES.contains(&name.as_str()) => {
                    faults.push(format!("{}:{line}: the API names {name}; it may name {API_NAMES:?}", source.path));
                }
                _ => {}
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn only_gatekeepers_name_what_they_keep() {
    let mut faults = Vec::new();
    for source in sources() {
        for (line, text) in code(&source) {
            for (word, places) in GATEKEEPERS {
                if text.contains(word) && !places.iter().any(|place| source.path.starts_with(place)) {
                    faults.push(format!("{}:{line}: {word} may be named in {places:?} only", source.path));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn files_stay_small_enough_to_read() {
    let sizes: Vec<(usize, String)> = sources().iter().map(|source| (code(source).len(), source.path.clone())).collect();
    let large: Vec<&(usize, String)> = sizes.iter().filter(|(lines, _)| *lines > 500).collect();
    assert!(large.is_empty(), "over 500 lines of code: {large:?}");
    let within = sizes.iter().filter(|(lines, _)| *lines <= 350).count();
    assert!(within * 10 >= sizes.len() * 9, "{within} of {} files are within 350 lines", sizes.len());
}

#[test]
fn modules_have_names_of_the_domain() {
    let vague = ["util", "utils", "common", "manager", "helper", "helpers", "misc"];
    let found: Vec<String> = sources()
        .into_iter()
        .filter(|source| source.path.trim_end_matches(".rs").split('/').any(|part| vague.contains(&part)))
        .map(|source| source.path)
        .collect();
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn every_module_says_what_it_is_for() {
    let silent: Vec<String> =
        sources().into_iter().filter(|source| !source.text.starts_with("//! ")).map(|source| source.path).collect();
    assert!(silent.is_empty(), "no header: {silent:?}");
}

#[test]
fn lints_are_expected_with_a_reason_and_never_allowed() {
    let mut faults = Vec::new();
    for source in sources() {
        for (line, text) in code(&source) {
            if text.trim_start().starts_with("#[allow(") || text.trim_start().starts_with("#![allow(") {
                faults.push(format!("{}:{line}", source.path));
            }
        }
    }
    assert!(faults.is_empty(), "{faults:?}");
}
