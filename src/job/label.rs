//! Labels: what a worker, or a backend on it, offers, and what a job may ask for.
//!
//! The one rule, for all three: a label is a free word (`linux`) or a `key=value` (`gpu=a100`). Two are the same when their texts
//! are: nothing is folded, ordered or compared as a number, so that matching is set membership wherever it is done.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The longest label, in bytes.
const LABEL_MAX: usize = 100;

/// A word, or a `key=value`: letters, digits and `. _ - / :`, each part beginning with a letter or a digit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, example = "gpu=a100")]
pub struct Label(String);

/// Why a text is not a label.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a label such as \"linux\" or \"gpu=a100\": letters, digits and ._-/:, at most {LABEL_MAX} bytes")]
pub struct LabelError(String);

impl Label {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Label {
    type Err = LabelError;

    fn from_str(text: &str) -> Result<Self, LabelError> {
        let parts: Vec<&str> = text.split('=').collect();
        let good = text.len() <= LABEL_MAX && parts.len() <= 2 && parts.iter().all(|part| is_word(part));
        if good { Ok(Self(text.to_owned())) } else { Err(LabelError(text.to_owned())) }
    }
}

fn is_word(part: &str) -> bool {
    let begins = part.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    begins && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-/:".contains(&byte))
}

impl TryFrom<String> for Label {
    type Error = LabelError;

    fn try_from(text: String) -> Result<Self, LabelError> {
        text.parse()
    }
}

impl From<Label> for String {
    fn from(label: Label) -> Self {
        label.0
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_a_word_or_a_key_with_a_value() {
        let check = |text: &str, good: bool| assert_eq!(text.parse::<Label>().is_ok(), good, "{text:?}");
        check("linux", true);
        check("gpu=a100", true);
        check("node.js:20/lts", true);
        check("9", true);
        check("", false);
        check("=a", false);
        check("gpu=", false);
        check("a=b=c", false);
        check("two words", false);
        check("-dash", false);
        check("a=-1", false);
        check("größe", false);
        check(&"a".repeat(100), true);
        check(&"a".repeat(101), false);
    }
}
