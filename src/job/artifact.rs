//! Files that are kept beyond the workspace of an attempt.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ids::AttemptNo;

/// The longest name, in bytes.
pub const NAME_MAX: usize = 200;
/// The most patterns in a job document.
pub const WISHES_MAX: usize = 50;

/// Files that a job wants kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ArtifactWish {
    /// A pattern of paths below the worktree, such as `target/**/junit.xml`.
    #[schema(example = "target/**/junit.xml")]
    pub path: String,
    /// Whether an attempt is rejected that leaves no such file, or one that cannot be kept.
    #[serde(default)]
    pub required: bool,
}

/// A file that the backend names in its result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedFile {
    /// What it is to be called.
    pub name: String,
    /// Its path below the worktree.
    pub path: String,
}

/// What an artifact is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ArtifactKind {
    /// The change, as a patch on the base: of the commit, or of what was salvaged.
    Patch,
    /// The change in numbers, as JSON.
    Diff,
    /// The agent's raw events.
    Events,
    /// The attempt's log up to when its work was done, or it ended, as people read it.
    Transcript,
    /// A file that the job asked for.
    Declared,
    /// A file that the backend named in its result.
    Named,
}

/// What became of an artifact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ArtifactState {
    /// It is kept.
    Kept,
    /// There was no such file.
    Missing,
    /// It may not be kept: it is no plain file below the worktree, or too large.
    Refused,
    /// It could not be written where artifacts are kept.
    Failed,
}

impl ArtifactState {
    /// The word used on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Missing => "missing",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for ArtifactState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// An artifact of an attempt: one that is kept, or one that is not, with the reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Artifact {
    /// The attempt.
    pub attempt: AttemptNo,
    /// Its name, which no other kept one of the attempt has.
    pub name: String,
    /// What it is.
    pub kind: ArtifactKind,
    /// What became of it.
    pub state: ArtifactState,
    /// Whether the job requires it.
    #[serde(default)]
    pub required: bool,
    /// Why it is not kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Where it is, when it is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<KeptObject>,
}

/// An artifact where it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeptObject {
    /// Its size, in bytes.
    pub bytes: u64,
    /// The SHA-256 of it, in hexadecimal digits.
    pub sha256: String,
    /// Its media type.
    pub content_type: String,
    /// Whether secrets were taken out of it, so that it is not what the job wrote.
    pub redacted: bool,
    /// The id of the place where it is.
    pub place: String,
    /// Where that is, for people.
    pub at: String,
    /// Its key in that place.
    pub key: String,
}

/// A kept artifact as a completion names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeliveredArtifact {
    /// Its name.
    pub name: String,
    /// Its size, in bytes.
    pub bytes: u64,
    /// The SHA-256 of it, in hexadecimal digits.
    pub sha256: String,
}

impl Artifact {
    /// As a completion names it; nothing where it is not kept.
    #[must_use]
    pub fn delivered(&self) -> Option<DeliveredArtifact> {
        let kept = self.kept.as_ref()?;
        Some(DeliveredArtifact { name: self.name.clone(), bytes: kept.bytes, sha256: kept.sha256.clone() })
    }
}

/// The media type of a file of that name, as far as it is told to others: never one that a browser would run.
#[must_use]
pub fn content_type(name: &str, text: bool) -> &'static str {
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension).to_ascii_lowercase();
    match (extension.as_str(), text) {
        ("json", true) => "application/json",
        ("patch" | "diff", true) => "text/x-diff; charset=utf-8",
        (_, true) => "text/plain; charset=utf-8",
        ("png", false) => "image/png",
        ("jpg" | "jpeg", false) => "image/jpeg",
        ("zip", false) => "application/zip",
        ("gz" | "tgz", false) => "application/gzip",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_media_type_is_one_that_a_browser_runs() {
        assert_eq!(content_type("a/report.html", true), "text/plain; charset=utf-8");
        assert_eq!(content_type("image.SVG", true), "text/plain; charset=utf-8");
        assert_eq!(content_type("junit.json", true), "application/json");
        assert_eq!(content_type("core", false), "application/octet-stream");
    }
}
