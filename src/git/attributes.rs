//! What a repository's `.gitattributes` can do to a file on its way into a commit, judged by the words that they use.
//!
//! The one rule: whatever is not known here counts as the worst. Which path an attribute is for is not looked at: git itself
//! does that, for every path that may be concerned.

use serde::{Deserialize, Serialize};

/// The most that attributes do, the least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Effect {
    /// Nothing: a file's bytes are what is committed.
    #[default]
    None,
    /// Line endings may be converted, which nothing without a carriage return notices.
    LineEndings,
    /// The same, and what counts as a changed line may differ.
    Counts,
    /// Anything: filters, keywords, encodings.
    Contents,
}

/// What one file of attributes does at most.
pub(super) fn judge(text: &[u8]) -> Effect {
    let lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    lines.filter(|line| !line.is_empty() && !line.starts_with(b"#")).map(judge_line).max().unwrap_or_default()
}

/// Whether a file of attributes may make files other than they are in the repository when they are checked out: all that
/// [`judge`] does not know, and line endings where they are named. Those of this system are the repository's.
pub(super) fn touch_checkouts(text: &[u8]) -> bool {
    let names_endings = |word: &[u8]| word.starts_with(b"eol");
    judge(text) == Effect::Contents || text.split(u8::is_ascii_whitespace).any(names_endings)
}

fn judge_line(line: &[u8]) -> Effect {
    let words = || line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    // A quoted pattern may have spaces in it; a macro gives words a new meaning.
    if line.starts_with(b"\"") || line.starts_with(b"[attr]") {
        return Effect::Contents;
    }
    words().skip(1).map(judge_word).max().unwrap_or_default()
}

fn judge_word(word: &[u8]) -> Effect {
    let name = word.strip_prefix(b"-").or_else(|| word.strip_prefix(b"!")).unwrap_or(word);
    let name = name.split(|byte| *byte == b'=').next().unwrap_or_default();
    match name {
        b"text" | b"eol" | b"crlf" => Effect::LineEndings,
        b"diff" | b"binary" => Effect::Counts,
        b"merge" | b"whitespace" | b"export-ignore" | b"export-subst" | b"delta" | b"encoding" | b"conflict-marker-size" => {
            Effect::None
        }
        name if name.starts_with(b"linguist-") || name.starts_with(b"gitlab-") => Effect::None,
        _ => Effect::Contents,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_word_counts_and_an_unknown_one_is_the_worst() {
        let check = |text: &str, expected: Effect| assert_eq!(judge(text.as_bytes()), expected, "{text}");
        check("", Effect::None);
        check("# *.bin filter=lfs\n\n", Effect::None);
        check("docs/** linguist-documentation\nCHANGELOG merge=union\n", Effect::None);
        check("* text=auto\n", Effect::LineEndings);
        check("* text=auto\r\n*.bat eol=crlf\r\n", Effect::LineEndings);
        check("*.txt -text !eol\n", Effect::LineEndings);
        check("* text=auto\n*.png binary\n", Effect::Counts);
        check("*.lock -diff", Effect::Counts);
        check("*.bin filter=lfs diff=lfs merge=lfs -text\n", Effect::Contents);
        check("*.c ident\n", Effect::Contents);
        check("*.txt working-tree-encoding=UTF-16\n", Effect::Contents);
        check("[attr]raw -text\n", Effect::Contents);
        check("\"with space\" text\n", Effect::Contents);
        check("*.x brand-new\n", Effect::Contents);
    }

    #[test]
    fn only_named_line_endings_and_what_is_not_known_touch_a_checkout() {
        let check = |text: &str, expected: bool| assert_eq!(touch_checkouts(text.as_bytes()), expected, "{text}");
        check("* text=auto\n*.png binary\n", false);
        check("*.bat text eol=crlf\n", true);
        check("*.bin filter=lfs\n", true);
        check("*.c ident\n", true);
    }
}
