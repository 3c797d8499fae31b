//! `[caches]` of the configuration, and `caches` of a project.

use std::fmt;
use std::time::Duration;

use bytesize::ByteSize;
use serde::de::{self, MapAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize};

use super::path::CachePath;
use crate::clock::human;

/// What caches may take, and when they are saved anew. The shipped `workers.toml` has every default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What saved caches may take on the disk, beside those on which jobs stand.
    pub size: ByteSize,
    /// How many files, links and directories one may have.
    pub entries: u64,
    /// The largest that is copied for a job, where it can be neither mounted nor shared.
    pub copy: ByteSize,
    /// How old a saved cache of the very same key is before a job saves another in its place.
    #[serde(with = "human")]
    pub refresh: Duration,
}

/// What the caches of a project go by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProjectCaches {
    /// The base of its jobs that do not say; the remote's default branch where absent. Only jobs that begin there save.
    pub base: Option<String>,
    /// The caches.
    pub entries: Vec<CacheConfig>,
}

/// A cache of a project: a path alone, or a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CacheConfig {
    /// Where a job finds it.
    pub path: CachePath,
    /// The files of the base commit by which it is told from others; where absent, every known lock file and version file at the root of the
    /// repository and in the directories above the path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<Vec<String>>,
    /// Commands whose output tells one toolchain of the host from another. In a container its image does.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub toolchain: Vec<String>,
    /// Whether the newest cache of the same path and toolchain is taken where none has the key.
    pub fallback: bool,
    /// Whether gates find it too, each in a state of its own.
    pub gates: bool,
    /// The backends whose jobs save it; all where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub save_by: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    path: CachePath,
    key: Option<Vec<String>>,
    toolchain: Option<Vec<String>>,
    fallback: Option<bool>,
    gates: Option<bool>,
    save_by: Option<Vec<String>>,
}

impl From<Table> for CacheConfig {
    fn from(Table { path, key, toolchain, fallback, gates, save_by }: Table) -> Self {
        let (fallback, gates) = (fallback.unwrap_or(true), gates.unwrap_or(true));
        Self { path, key, toolchain: toolchain.unwrap_or_default(), fallback, gates, save_by }
    }
}

impl<'de> Deserialize<'de> for CacheConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PathOrTable;
        impl<'de> Visitor<'de> for PathOrTable {
            type Value = Table;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a path such as \"target\", or a table with one")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Table, E> {
                let path = CachePath::try_from(text.to_owned()).map_err(E::custom)?;
                Ok(Table { path, key: None, toolchain: None, fallback: None, gates: None, save_by: None })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Table, A::Error> {
                Table::deserialize(MapAccessDeserializer::new(map))
            }
        }
        deserializer.deserialize_any(PathOrTable).map(Self::from)
    }
}

/// The deserializer of a project's list, for `serde(deserialize_with)`: no cache is within another.
///
/// # Errors
/// What the deserializer reports; two paths of which one is in the other.
pub fn entries<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<CacheConfig>, D::Error> {
    let entries = Vec::<CacheConfig>::deserialize(deserializer)?;
    for (index, one) in entries.iter().enumerate() {
        if let Some(other) = entries[..index].iter().find(|other| other.path.overlaps(&one.path)) {
            return Err(de::Error::custom(format!(
                "{} and {} are in one another; list the outer one alone",
                other.path, one.path
            )));
        }
    }
    Ok(entries)
}
