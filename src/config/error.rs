//! What is wrong with a configuration, named so that it can be mended.

use std::path::PathBuf;

use figment::error::Kind;

use super::place;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file that was asked for is not there.
    #[error("cannot find the configuration file {}; check --config and SAWMILL_CONFIG", .0.display())]
    NoFile(PathBuf),
    /// What was named is a directory, a pipe or the like. (A pipe could be read once only, and the file is read again for its lines.)
    #[error("the configuration {} is not a plain file; check --config and SAWMILL_CONFIG", .0.display())]
    NotPlain(PathBuf),
    /// A key that does not exist.
    #[error("{source_name}: unknown key {key}{}", suggestion(.nearest.as_deref()))]
    UnknownKey {
        /// Where it was found.
        source_name: String,
        /// The key, with its section.
        key: String,
        /// The key that was probably meant, with its section.
        nearest: Option<String>,
    },
    /// A value that cannot be.
    #[error("{source_name}: {}{why}", before(.key))]
    BadValue {
        /// Where it was found.
        source_name: String,
        /// The key, with its section.
        key: String,
        /// What is wrong with it.
        why: String,
    },
}

/// The key before what is wrong with it; nothing where the file as a whole is at fault.
fn before(key: &str) -> String {
    if key.is_empty() { String::new() } else { format!("{key}: ") }
}

fn suggestion(key: Option<&str>) -> String {
    key.map_or_else(String::new, |key| format!("; did you mean {key}?"))
}

impl From<figment::Error> for ConfigError {
    /// The first error: the others are often its consequences.
    fn from(error: figment::Error) -> Self {
        let key = error.path.join(".");
        match error.kind {
            Kind::UnknownField(field, known) => {
                let (section, field) = match key.rsplit_once('.') {
                    // Some deserializers put the unknown key at the end of the path, some leave it out.
                    Some((section, last)) if last == field => (section.to_owned(), field),
                    None if key == field => (String::new(), field),
                    _ => (key, field),
                };
                let full = |name: &str| if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") };
                let near = known
                    .iter()
                    .map(|name| (strsim::jaro_winkler(&field, name), name))
                    .filter(|(score, _)| *score > 0.75)
                    .max_by(|a, b| a.0.total_cmp(&b.0))
                    .map(|(_, name)| full(name));
                let mut path = error.path;
                if path.last() != Some(&field) {
                    path.push(field.clone());
                }
                let source_name = located(error.metadata.as_ref(), &path);
                Self::UnknownKey { source_name, key: full(&field), nearest: near }
            }
            kind => {
                let source_name = located(error.metadata.as_ref(), &error.path);
                Self::BadValue { source_name, key, why: in_plain_words(&kind) }
            }
        }
    }
}

/// What is wrong with a value, without the names that types have in the code.
fn in_plain_words(kind: &Kind) -> String {
    if let Kind::UnknownVariant(found, known) = kind {
        return format!("{found:?} is none of {}", known.join(", "));
    }
    let words = [
        ("found signed int", "found the number"),
        ("found unsigned int", "found the number"),
        ("unsigned int", "of the number"),
        ("signed int", "of the number"),
        ("expected u8", "expected a whole number from 0 to 255"),
        ("expected u32", "expected a whole number of zero or more"),
        ("expected u64", "expected a whole number of zero or more"),
        ("expected a nonzero u32", "expected a whole number of one or more"),
        ("expected parsable string", "expected a size such as \"64 KiB\" or \"2 GiB\""),
        ("invalid socket address syntax", "expected an address such as \"127.0.0.1:7400\""),
    ];
    // The parser of files ends its drawings with a line of its own.
    words.iter().fold(kind.to_string(), |text, (code, plain)| text.replace(code, plain)).trim_end().to_owned()
}

/// A layer of the configuration, with the line of a key where it is a file that has it.
pub(super) fn located(metadata: Option<&figment::Metadata>, key: &[String]) -> String {
    let name = source_name(metadata);
    let line = match metadata.and_then(|metadata| metadata.source.as_ref()) {
        Some(figment::Source::File(path)) => place::line_of(path, key),
        _ => None,
    };
    line.map_or_else(|| name.clone(), |line| format!("{name}:{line}"))
}

/// A layer of the configuration, as people know it.
pub(super) fn source_name(metadata: Option<&figment::Metadata>) -> String {
    match metadata {
        Some(metadata) => match &metadata.source {
            Some(figment::Source::File(path)) => path.display().to_string(),
            _ => metadata.name.to_string(),
        },
        None => "configuration".to_owned(),
    }
}
